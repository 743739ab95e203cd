"""Factored observations, and how to assemble them.

Most of an observation depends on time alone: the goals that are due now and soon. A table keeps
this part once, with one row per control step. Processes store and send only the rest, which the
simulation decides, and the number of the row. This module puts the two together on the device that
learns or acts. With NumPy arrays it needs no JAX, which an actor never imports.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from replay.transition import Observation

Array = Any  # A NumPy or JAX array.


@dataclasses.dataclass(frozen=True)
class ObservationLayout:
    """The position of the table's row in an observation.

    A frame has `before` numbers of the simulation, the `features` numbers of the table's row, and
    `after` numbers of the simulation. An observation has `frames` frames.
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
    """The columns of a table of goals that are nonzero in at least one row."""

    layout: ObservationLayout
    """Layout of observations with these columns only."""
    table: np.ndarray
    """Table of these columns, (rows, active features) uint8."""
    features: np.ndarray
    """Indices of these columns in the whole table, (active features,) int64."""


def active_goals(layout: ObservationLayout, table: np.ndarray) -> ActiveGoals:
    """Returns the columns of the table that a piece uses, which are those of a few of the 88 keys.

    Args:
        layout: Layout of whole observations.
        table: Table of goals, (rows, features) uint8; see `assemble`.
    """
    features = np.flatnonzero(table.any(axis=0))
    active = dataclasses.replace(layout, features=len(features))
    return ActiveGoals(active, np.ascontiguousarray(table[:, features]), features)


def assemble(layout: ObservationLayout, table: Array, observation: Observation) -> Array:
    """Returns the observations that the environment defines, (..., observation dimension) float32.

    Args:
        layout: Layout of the observations.
        table: Table of goals, (rows, features) uint8. Each song's rows follow `frames - 1` rows of
            zeros, which belong to the empty frames before an episode begins.
        observation: Factored observations in NumPy or JAX arrays. The result is of the same kind.
    """
    if isinstance(observation.proprioception, np.ndarray):
        numpy: Any = np
    else:
        from jax import numpy
    rows = observation.goal_index[..., None] - numpy.arange(layout.frames - 1, -1, -1)
    features = numpy.asarray(table)[rows].astype(np.float32)
    before, after = numpy.split(observation.proprioception, [layout.before], axis=-1)
    frames = numpy.concatenate([before, features, after], axis=-1)
    # Frames change fastest, as dm_env_wrappers' FrameStackingWrapper flattens them.
    stacked = numpy.moveaxis(frames, -2, -1)
    return stacked.reshape(*stacked.shape[:-2], layout.observation_dim)
