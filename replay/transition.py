"""The data that the replay stores.

One environment step with action a[t] leads from observation o[t] to reward r[t], discount d[t] and
observation o[t+1]. A transition is

    (o[t], a[t], r[t], d[t], o[t+1], v[t])

where d[t] is the environment's own discount. It is 0.0 only where the episode failed, and 1.0
everywhere else, including the end of the song, so that value is bootstrapped past that end. v[t] is
the version of the parameters that chose a[t]: the learner step at which they were published, or -1
for uniformly random actions.

Most of an observation depends on time alone: the goals that are due now and soon. Only a table
holds this part, and the replay does not store it. An observation in the replay is factored into the
rest, which the simulation decides, and the number of its row in the table of goals.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # NumPy arrays in this package, JAX arrays in the learner.


class Observation(NamedTuple):
    """A factored observation, or a batch of them along leading axes."""

    proprioception: Array
    """Part that the simulation decides, (..., frames, proprioception dimension) float32."""
    goal_index: Array
    """Row of the table of goals with the part that depends on time alone, (...) int32."""

    def batch_of_one(self) -> "Observation":
        """Returns the observation with a leading axis of length 1."""
        return Observation(*(part[None] for part in self))


class Step(NamedTuple):
    """The data of one time index of an episode."""

    observation: Observation
    """Observation before the action."""
    action: np.ndarray
    """Action, (action dimension,) float32 in [-1, 1]."""
    reward: float
    discount: float
    """Discount of the environment itself, 0.0 or 1.0."""
    parameter_version: int = 0


class Transition(NamedTuple):
    """One transition, or a batch of them along the leading axis."""

    observation: Observation
    action: Array
    """Action, (..., action dimension) float32 in [-1, 1]."""
    reward: Array
    """Reward, (...) float32."""
    discount: Array
    """Discount of the environment itself, (...) float32, 0.0 or 1.0."""
    next_observation: Observation
    parameter_version: Array
    """Version of the parameters that chose the action, (...) int32."""
