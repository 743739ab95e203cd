"""A policy that acts: parameters of the actor network, and nothing else of the learner."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np

from learner import checkpoint
from learner.config import SACConfig
from learner.networks import Parameters, actor_shapes, policy
from learner.observation import ObservationLayout, unfold
from replay.files import PackedFolder
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


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _perturbed(
    config: SACConfig,
    layout: ObservationLayout,
    table: jax.Array,
    parameters: Parameters,
    observation: Observation,
    key: jax.Array,
    temperature: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    key, policy_key, noise_key = jax.random.split(key, 3)
    distribution = policy(config, parameters, unfold(layout, table, observation))
    drawn = jax.random.normal(policy_key, distribution.mean.shape)
    raw = distribution.mean + temperature * jnp.exp(distribution.log_std) * drawn
    added = noise * jax.random.normal(noise_key, distribution.mean.shape)
    action = jnp.clip(jnp.tanh(raw) + added, -1.0, 1.0)
    return action, distribution.log_probability(action), key


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

    @classmethod
    def load(
        cls,
        saved: PackedFolder,
        config: SACConfig,
        layout: ObservationLayout,
        action_dim: int,
        table: np.ndarray,
    ) -> "Policy":
        """The policy of a checkpoint.

        Args:
            saved: the checkpoint.
            config: of its agent.
            layout: of its observations.
            action_dim: numbers in an action.
            table: see above.

        Raises:
            BadInput: the checkpoint is damaged or of another network.
        """
        template = actor_shapes(config, layout.observation_dim, action_dim)
        return cls(config, layout, table, checkpoint.load_actor(saved, template))

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

    def perturbed(
        self, observation: Observation, key: jax.Array, temperature: float, noise: float
    ) -> tuple[np.ndarray, np.ndarray, jax.Array]:
        """Recording: play that is spread around the policy's.

        Args:
            observation: a batch.
            key: (2,) uint32, random state.
            temperature: factor on the policy's own standard deviation, before the tanh; 0 takes
                the most central actions, 1 is `sample`.
            noise: standard deviation of Gaussian noise added to the actions, which are then
                clipped to [-1, 1].

        Returns:
            Actions (batch, action dimension); their log-density (batch,) in nats under the
            policy as it is, at temperature 1 and without noise; the next random state.
        """
        action, log_probability, key = _perturbed(
            *self._static, self._table, self._parameters, observation, key, temperature, noise
        )
        return np.asarray(action), np.asarray(log_probability), key
