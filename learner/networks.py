"""The networks: a tanh-squashed Gaussian actor and an ensemble of critics."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from learner.config import SACConfig

Parameters = Any

_LOG_STD_MIN, _LOG_STD_MAX = -20.0, 2.0
# Actions are drawn back by a two-thousandth of their range before the tanh is undone: that no
# hand can tell, and an action at the very edge, as noise and clipping make it, stays near the
# others instead of at infinity.
_EDGE = 1e-3


class TanhGaussian(NamedTuple):
    """The distribution of a = tanh(u), u ~ N(mean, diag(std)^2) (arXiv 1812.05905, appendix C)."""

    mean: jax.Array
    """(..., action dimension), before the tanh."""
    log_std: jax.Array
    """(..., action dimension), before the tanh."""

    def mode(self) -> jax.Array:
        """The action of the mean, (..., action dimension) in (-1, 1)."""
        return jnp.tanh(self.mean)

    def sample_with_log_probability(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An action (..., action dimension) and its log-density (...), in nats."""
        noise = jax.random.normal(key, self.mean.shape)
        raw = self.mean + jnp.exp(self.log_std) * noise
        log_normal = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.tanh(raw), jnp.sum(log_normal - _log_slope(raw), axis=-1)

    def log_probability(self, action: jax.Array) -> jax.Array:
        """The log-density (...) of actions (..., action dimension) in [-1, 1], in nats.

        Finite, with finite gradients, everywhere: see `_EDGE`.
        """
        raw = jnp.arctanh(jnp.clip(action, -1 + _EDGE, 1 - _EDGE))
        noise = (raw - self.mean) * jnp.exp(-self.log_std)
        log_normal = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.sum(log_normal - _log_slope(raw), axis=-1)


def _log_slope(raw: jax.Array) -> jax.Array:
    """log(1 - tanh(u)^2), written so that it stays finite where tanh(u) rounds to 1."""
    return 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))


class MLP(nn.Module):
    """Hidden layers: dense, dropout, layer norm, activation (DroQ, arXiv 2110.02034, figure 4)."""

    hidden_dims: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    dropout_rate: float = 0.0
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (..., inputs) to (..., hidden_dims[-1])."""
        for units in self.hidden_dims:
            x = nn.Dense(units, kernel_init=nn.initializers.xavier_uniform())(x)
            if self.dropout_rate > 0:
                x = nn.Dropout(self.dropout_rate, deterministic=False)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
        return x


class Actor(nn.Module):
    """The policy."""

    config: SACConfig
    action_dim: int

    @nn.compact
    def __call__(self, observation: jax.Array) -> TanhGaussian:
        """Maps observations (..., observation dimension) to distributions of actions."""
        hidden = MLP(self.config.hidden_dims, getattr(nn, self.config.activation))(observation)
        initializer = nn.initializers.xavier_uniform()
        mean = nn.Dense(self.action_dim, kernel_init=initializer, name="mean")(hidden)
        log_std = nn.Dense(self.action_dim, kernel_init=initializer, name="log_std")(hidden)
        return TanhGaussian(mean, jnp.clip(log_std, _LOG_STD_MIN, _LOG_STD_MAX))


def policy(config: SACConfig, parameters: Parameters, observation: jax.Array) -> TanhGaussian:
    """Distributions of actions for observations (..., observation dimension)."""
    action_dim = parameters["params"]["mean"]["bias"].shape[-1]
    return cast(TanhGaussian, Actor(config, action_dim).apply(parameters, observation))


class Critic(nn.Module):
    """One state-action value; dropout is always on, as in DroQ, targets included."""

    config: SACConfig

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps (batch, observation dimension) and (batch, action dimension) to (batch,)."""
        hidden = MLP(
            self.config.hidden_dims,
            getattr(nn, self.config.activation),
            dropout_rate=self.config.critic_dropout_rate,
            layer_norm=self.config.critic_layer_norm,
        )(jnp.concatenate([observation, action], axis=-1))
        value = nn.Dense(1, kernel_init=nn.initializers.xavier_uniform(), name="value")(hidden)
        return jnp.squeeze(value, axis=-1)


class CriticEnsemble(nn.Module):
    """`num_qs` critics that differ in their initial parameters and dropout."""

    config: SACConfig

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps (batch, observation dimension), (batch, action dimension) to (ensemble, batch)."""
        critics = nn.vmap(
            Critic,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.config.num_qs,
        )
        values = critics(self.config)(observation, action)
        chex.assert_shape(values, (self.config.num_qs, observation.shape[0]))
        return values


def critic_values(
    config: SACConfig,
    parameters: Parameters,
    observation: jax.Array,
    action: jax.Array,
    dropout_key: jax.Array,
) -> jax.Array:
    """Values (ensemble, batch) of (batch, observation dimension), (batch, action dimension)."""
    rngs = {"dropout": dropout_key}
    values = CriticEnsemble(config).apply(parameters, observation, action, rngs=rngs)
    return cast(jax.Array, values)
