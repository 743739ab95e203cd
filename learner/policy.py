"""A policy that acts: parameters of the actor network, and nothing else of the learner."""

import copy
import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from common.files import PackedFolder
from learner import checkpoint
from learner.config import SACConfig
from learner.networks import (
    Parameters,
    TanhGaussian,
    actor_shapes,
    policy,
    policy_and_hidden,
)
from learner.observation import ObservationLayout, assemble
from replay.transition import Observation


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _mode(
    config: SACConfig,
    layout: ObservationLayout,
    table: jax.Array,
    parameters: Parameters,
    observation: Observation,
) -> jax.Array:
    return policy(config, parameters, assemble(layout, table, observation)).mode()


class Perturbation(NamedTuple):
    """How actions differ from the policy's most central ones.

    With n observations of one moment, means m_i and standard deviations s (of the first), both
    before the tanh, hidden units h of the first and e, z drawn from a standard normal:

        u = amplitude * sum_i mix_i m_i + s * (offset + h @ weights / |h| + temperature * e)
        a = (1 - smoothing) * tanh(u) + smoothing * (action before) + noise * z, clipped to [-1, 1]
    """

    mix: np.ndarray
    """(n,) float32, summing to 1: share of each observation's mean."""
    amplitude: float
    smoothing: float
    offset: np.ndarray
    """(action dimension,) float32."""
    weights: np.ndarray
    """(hidden_dims[-1], action dimension) float32. A standard normal draw changes each mean by
    one standard deviation, typically, whatever the size of h."""
    temperature: float
    noise: float


class Perturbed(NamedTuple):
    """An action of a rendition, on the device or as NumPy's."""

    action: np.ndarray | jax.Array
    """(action dimension,) float32."""
    intended: np.ndarray | jax.Array
    """(action dimension,) float32: the action without `temperature` and `noise`."""
    log_probability: np.ndarray | jax.Array
    """() float32, of the action under the policy as it is, at the first observation, in nats."""


@functools.partial(jax.jit, static_argnames=("config", "layout"))
def _perturbed(
    config: SACConfig,
    layout: ObservationLayout,
    table: jax.Array,
    parameters: Parameters,
    observation: Observation,
    before: jax.Array,
    key: jax.Array,
    how: Perturbation,
) -> tuple[Perturbed, jax.Array]:
    key, policy_key, noise_key = jax.random.split(key, 3)
    assembled = assemble(layout, table, observation)
    distribution, hidden = policy_and_hidden(config, parameters, assembled)
    own = TanhGaussian(distribution.mean[0], distribution.log_std[0])
    change = how.offset + hidden[0] @ how.weights / jnp.maximum(jnp.linalg.norm(hidden[0]), 1e-6)
    mean = how.amplitude * jnp.sum(how.mix[:, None] * distribution.mean, axis=0)
    std = jnp.exp(own.log_std)

    def mixed(change: jax.Array | np.ndarray) -> jax.Array:
        return (1 - how.smoothing) * jnp.tanh(mean + std * change) + how.smoothing * before

    independent = how.temperature * jax.random.normal(policy_key, own.mean.shape)
    added = how.noise * jax.random.normal(noise_key, own.mean.shape)
    action = jnp.clip(mixed(change + independent) + added, -1.0, 1.0)
    intended = jnp.clip(mixed(change), -1.0, 1.0)
    return Perturbed(action, intended, own.log_probability(action)), key


class Policy:
    """Maps a batch of factored observations to a batch of actions.

    Args:
        config: of the agent; decides the network.
        layout: of the observations.
        table: (rows, features) uint8, see `learner.observation.assemble`.
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

    def with_table(self, table: np.ndarray) -> "Policy":
        """The same policy with another table of goals."""
        other = copy.copy(self)
        other._table = jax.device_put(table)
        return other

    @property
    def last_layer(self) -> tuple[int, int]:
        """Shape of the weights that give the mean: (hidden_dims[-1], action dimension)."""
        return cast(tuple[int, int], self._parameters["params"]["mean"]["kernel"].shape)

    def mode(self, observation: Observation) -> np.ndarray:
        """Evaluation: the most central actions, (batch, action dimension)."""
        return np.asarray(_mode(*self._static, self._table, self._parameters, observation))

    def perturbed(
        self,
        observation: Observation,
        before: np.ndarray,
        key: jax.Array,
        how: Perturbation,
    ) -> tuple[Perturbed, jax.Array]:
        """Recording: play that differs from the policy's most central actions.

        Args:
            observation: n of one moment, the first as it is; the others differ in their goals.
            before: (action dimension,) the action before, read where there is smoothing.
            key: (2,) uint32, random state.
            how: the difference.

        Returns:
            The action, as NumPy's arrays, and the next random state.
        """
        perturbed, key = _perturbed(
            *self._static, self._table, self._parameters, observation, before, key, how
        )
        return jax.tree.map(np.asarray, perturbed), key
