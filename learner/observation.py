"""Observations, folded and unfolded.

Most of an observation is a function of time alone: what is due now and soon. It is kept once,
as a table with a row a control step; what is stored and sent of an observation is the rest,
which the simulation decides, and the number of its row. Here the two are put together again,
on whatever device learns or acts.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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


def unfold(layout: ObservationLayout, table: Array, observation: Observation) -> jax.Array:
    """The observations that the environment means, (..., observation dimension) float32.

    Args:
        layout: of the observations.
        table: (rows, features) uint8. Each song's rows follow `frames - 1` rows of zeros, which
            belong to the empty frames before an episode begins.
        observation: folded.
    """
    rows = observation.row[..., None] - jnp.arange(layout.frames - 1, -1, -1)
    features = jnp.asarray(table)[rows].astype(jnp.float32)
    before, after = jnp.split(jnp.asarray(observation.proprioception), [layout.before], axis=-1)
    frames = jnp.concatenate([before, features, after], axis=-1)
    # Frames change fastest, as dm_env_wrappers' FrameStackingWrapper flattens them.
    stacked = jnp.moveaxis(frames, -2, -1)
    return stacked.reshape(*stacked.shape[:-2], layout.observation_dim)
