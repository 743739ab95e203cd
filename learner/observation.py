"""Observations, factored and assembled.

Most of an observation is a function of time alone: what is due now and soon. It is kept once,
as a table with a row a control step; what is stored and sent of an observation is the rest,
which the simulation decides, and the number of its row. Here the two are put together again,
on whatever device learns or acts; in NumPy without JAX, which an actor never imports.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from replay.transition import Observation

Array = Any  # NumPy's or JAX's.


@dataclasses.dataclass(frozen=True)
class ObservationLayout:
    """Where the table's row stands in an observation.

    A frame of an observation is `before` numbers of the simulation, the `features` of the
    table's row, and `after` numbers of the simulation; an observation holds `frames` of them.
    """

    before: int
    features: int
    after: int
    frames: int = 1

    @property
    def proprioception_dim(self) -> int:
        """Numbers of the simulation in a frame."""
        return self.before + self.after

    @property
    def observation_dim(self) -> int:
        """Numbers in an observation."""
        return self.frames * (self.before + self.features + self.after)


class ActiveGoals(NamedTuple):
    """The columns of a table of goals that are not zero in every row."""

    layout: ObservationLayout
    """Of observations without the other columns."""
    table: np.ndarray
    """(rows, active features) uint8."""
    features: np.ndarray
    """(active features,) int64, the numbers of these columns."""


def active_goals(layout: ObservationLayout, table: np.ndarray) -> ActiveGoals:
    """What a piece uses of its table: a few of the 88 keys.

    Args:
        layout: of whole observations.
        table: (rows, features) uint8, see `assemble`.
    """
    features = np.flatnonzero(table.any(axis=0))
    active = dataclasses.replace(layout, features=len(features))
    return ActiveGoals(active, np.ascontiguousarray(table[:, features]), features)


def assemble(layout: ObservationLayout, table: Array, observation: Observation) -> Array:
    """The observations that the environment means, (..., observation dimension) float32.

    Args:
        layout: of the observations.
        table: (rows, features) uint8. Each song's rows follow `frames - 1` rows of zeros, which
            belong to the empty frames before an episode begins.
        observation: factored; its arrays are NumPy's or JAX's, and so is the result.
    """
    if isinstance(observation.proprioception, np.ndarray):
        numpy: Any = np
    else:
        from jax import numpy
    rows = observation.row[..., None] - numpy.arange(layout.frames - 1, -1, -1)
    features = numpy.asarray(table)[rows].astype(np.float32)
    before, after = numpy.split(observation.proprioception, [layout.before], axis=-1)
    frames = numpy.concatenate([before, features, after], axis=-1)
    # Frames change fastest, as dm_env_wrappers' FrameStackingWrapper flattens them.
    stacked = numpy.moveaxis(frames, -2, -1)
    return stacked.reshape(*stacked.shape[:-2], layout.observation_dim)
