"""A policy that acts: parameters of the actor network, and nothing else of the learner."""

import copy
import functools

import jax
import numpy as np

from learner.config import SACConfig
from learner.networks import Parameters, policy
from learner.observation import ObservationLayout, unfold
from replay.transition import Observation


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _mode(
    config: SACConfig,
    layout: ObservationLayout,
    table: jax.Array,
    parameters: Parameters,
    observation: Observation,
) -> jax.Array:
    return policy(config, parameters, unfold(layout, table, observation)).mode()


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _sample(
    config: SACConfig,
    layout: ObservationLayout,
    table: jax.Array,
    parameters: Parameters,
    observation: Observation,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    key, action_key = jax.random.split(key)
    distribution = policy(config, parameters, unfold(layout, table, observation))
    return distribution.sample_with_log_probability(action_key)[0], key


class Policy:
    """Maps a batch of folded observations to a batch of actions.

    Args:
        config: of the agent; decides the network.
        layout: of the observations.
        table: (rows, features) uint8, see `learner.observation.unfold`.
        parameters: of the actor network.
    """

    def __init__(
        self,
        config: SACConfig,
        layout: ObservationLayout,
        table: np.ndarray,
        parameters: Parameters,
    ):
        self._static = (config, layout)
        self._table = jax.device_put(table)
        self._parameters = jax.device_put(parameters)

    def with_parameters(self, parameters: Parameters) -> "Policy":
        """The same policy with other parameters."""
        other = copy.copy(self)
        other._parameters = jax.device_put(parameters)
        return other

    def sample(self, observation: Observation, key: jax.Array) -> tuple[np.ndarray, jax.Array]:
        """Behaviour.

        Args:
            observation: a batch.
            key: (2,) uint32, random state.

        Returns:
            Actions drawn, (batch, action dimension), and the next random state.
        """
        action, key = _sample(*self._static, self._table, self._parameters, observation, key)
        return np.asarray(action), key

    def mode(self, observation: Observation) -> np.ndarray:
        """Evaluation: the most central actions, (batch, action dimension)."""
        return np.asarray(_mode(*self._static, self._table, self._parameters, observation))
