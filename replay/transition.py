"""What is stored.

One environment step takes observation o[t] with action a[t] to reward r[t], discount d[t]
and observation o[t+1]. A transition is

    (o[t], a[t], r[t], d[t], o[t+1], v[t])

where d[t] is the environment's own discount: 0.0 only where the episode failed, and 1.0
everywhere else, the end of the song included, so that value is bootstrapped past it. v[t]
is the version of the parameters that chose a[t] (the learner step at which they were
published, -1 for uniformly random actions).

Most of an observation is a function of time alone: what is due now and soon. It is stored
nowhere but in a table that the learner holds; an observation in the replay is factored into
the rest of it, which the simulation decides, and the number of its row.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # NumPy's in this package, JAX's in the learner.


class Observation(NamedTuple):
    """A factored observation, or a batch of them along leading axes."""

    proprioception: Array
    """(..., frames, proprioception dimension) float32: what the simulation decides."""
    row: Array
    """(...) int32: the row of the table that holds what is a function of time."""

    def batch_of_one(self) -> "Observation":
        """With a leading axis."""
        return Observation(*(part[None] for part in self))


class Step(NamedTuple):
    """What belongs to one time index of an episode."""

    observation: Observation
    """At which the action was taken."""
    action: np.ndarray
    """(action dimension,) float32 in [-1, 1]."""
    reward: float
    discount: float
    """0.0 or 1.0."""
    parameter_version: int = 0


class Transition(NamedTuple):
    """One transition, or a batch of them along the leading axis."""

    observation: Observation
    action: Array
    """(..., action dimension) float32 in [-1, 1]."""
    reward: Array
    """(...) float32."""
    discount: Array
    """(...) float32, 0.0 or 1.0."""
    next_observation: Observation
    parameter_version: Array
    """(...) int32."""
