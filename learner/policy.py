"""A policy that acts. It needs only the parameters of the actor network."""

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
    """Settings of how actions differ from the policy's deterministic ones.

    The policy sees n observations of one moment. Let m_i be the mean for observation i, and let s
    and h be the standard deviations and the hidden units for the first observation. Means and
    standard deviations are before the tanh. With e and z drawn from a standard normal, the action a
    is:

        u = amplitude * sum_i mix_i m_i + s * (offset + h @ weights / |h| + temperature * e)
        a = (1 - smoothing) * tanh(u) + smoothing * before + noise * z

    Here before is the previous action, and a is clipped to [-1, 1].
    """

    mix: np.ndarray
    """Share of each observation's mean, (n,) float32. The shares sum to 1."""
    amplitude: float
    smoothing: float
    offset: np.ndarray
    """Shift of the means in standard deviations, (action dimension,) float32."""
    weights: np.ndarray
    """Weights of the hidden units, (hidden_dims[-1], action dimension) float32. Weights drawn from
    a standard normal typically change each mean by one standard deviation, whatever the size of
    h."""
    temperature: float
    noise: float


class Perturbed(NamedTuple):
    """An action of a rendition, in JAX or NumPy arrays."""

    action: np.ndarray | jax.Array
    """Action, (action dimension,) float32."""
    intended: np.ndarray | jax.Array
    """Action without `temperature` and `noise`, (action dimension,) float32."""
    log_probability: np.ndarray | jax.Array
    """Log density of the action under the unchanged policy at the first observation, () float32, in
    nats."""


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
        config: Settings of the agent, which decide the network.
        layout: Layout of the observations.
        table: Table of goals, (rows, features) uint8; see `learner.observation.assemble`.
        parameters: Parameters of the actor network.
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
        """Loads the policy of a checkpoint.

        Args:
            saved: Checkpoint to load.
            config: Settings of the checkpoint's agent.
            layout: Layout of the checkpoint's observations.
            action_dim: Numbers in an action.
            table: Table of goals, (rows, features) uint8; see `learner.observation.assemble`.

        Raises:
            BadInput: The checkpoint is damaged or of another network.
        """
        template = actor_shapes(config, layout.observation_dim, action_dim)
        return cls(config, layout, table, checkpoint.load_actor(saved, template))

    def with_table(self, table: np.ndarray) -> "Policy":
        """Returns the same policy with another table of goals."""
        other = copy.copy(self)
        other._table = jax.device_put(table)
        return other

    @property
    def last_layer(self) -> tuple[int, int]:
        """Shape of the weights that give the mean: (hidden_dims[-1], action dimension)."""
        return cast(tuple[int, int], self._parameters["params"]["mean"]["kernel"].shape)

    def mode(self, observation: Observation) -> np.ndarray:
        """Returns the deterministic actions, (batch, action dimension), for evaluations."""
        return np.asarray(_mode(*self._static, self._table, self._parameters, observation))

    def perturbed(
        self,
        observation: Observation,
        before: np.ndarray,
        key: jax.Array,
        how: Perturbation,
    ) -> tuple[Perturbed, jax.Array]:
        """Returns an action that differs from the policy's deterministic one, for recordings.

        Args:
            observation: n observations of one moment. The first is the actual one; the others
                differ in their goals.
            before: Previous action, (action dimension,), which matters only with smoothing.
            key: Random state, (2,) uint32.
            how: Settings of the difference.

        Returns:
            The action, in NumPy arrays, and the next random state.
        """
        perturbed, key = _perturbed(
            *self._static, self._table, self._parameters, observation, before, key, how
        )
        return jax.tree.map(np.asarray, perturbed), key
