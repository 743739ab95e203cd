"""The networks: a tanh-squashed Gaussian actor and an ensemble of critics."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from learner.config import LOG_STD_RANGE, SACConfig
from learner.parameters import Parameters

FIRST_KERNEL = "['Dense_0']['kernel']"
"""Ends the names of the weights that read observations and, behind them, actions."""

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
        inside = jnp.clip(action, -1 + _EDGE, 1 - _EDGE)
        # The inverse of tanh by its definition: the operation for it is not known everywhere.
        raw = 0.5 * (jnp.log1p(inside) - jnp.log1p(-inside))
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
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Maps the concatenation of (batch, numbers) arrays to (batch, hidden_dims[-1])."""
        x = JointDense(self.hidden_dims[0], name="Dense_0")(*inputs)
        for layer, units in enumerate(self.hidden_dims):
            if layer:
                kernel_init = nn.initializers.xavier_uniform()
                x = nn.Dense(units, kernel_init=kernel_init, name=f"Dense_{layer}")(x)
            if self.dropout_rate > 0:
                x = dropout(x, self.dropout_rate, self.make_rng("dropout"))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
        return x


class JointDense(nn.Module):
    """A dense layer on the concatenation of its inputs, which is never made.

    So a gradient towards one input alone, the action, costs no product for the others.
    """

    units: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Maps the concatenation of (batch, numbers) arrays to (batch, units)."""
        size = sum(x.shape[-1] for x in inputs)
        shape, dtype = (size, self.units), jnp.float32
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), shape, dtype)
        result = self.param("bias", nn.initializers.zeros_init(), (self.units,), dtype)
        end = 0
        for x in inputs:
            begin, end = end, end + x.shape[-1]
            result = result + x @ kernel[begin:end]
        return cast(jax.Array, result)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeros each number with a probability of `rate`, a multiple of 2**-32, and scales the rest.

    The bits are a hash of the number's place and the key, C. Wellons' lowbias32
    (github.com/skeeto/hash-prospector), with the key's second half put in between. JAX's own
    are made for more than dropout needs and take a fifth of a learner step on a CPU.

    Args:
        x: of any shape.
        rate: 0 or more, below 1.
        key: (2,) uint32.
    """
    bits = jax.lax.iota(jnp.uint32, math.prod(x.shape)) * np.uint32(0x9E3779B9) + key[0]
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D) ^ key[1]
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    bits = (bits ^ (bits >> 16)).reshape(x.shape)
    return jnp.where(bits >= np.uint32(round(rate * 2**32)), x / (1 - rate), 0.0)


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
        return TanhGaussian(mean, jnp.clip(log_std, *LOG_STD_RANGE))


def sizes(config: SACConfig, observation_dim: int, action_dim: int) -> tuple[int, int]:
    """Numbers in the actor and in the ensemble of critics, found without making them."""

    def hidden(inputs: int, norms: int) -> int:
        widths = (inputs, *config.hidden_dims)
        products = sum(before * after for before, after in itertools.pairwise(widths))
        return products + (1 + norms) * sum(config.hidden_dims)

    last = config.hidden_dims[-1] + 1
    critic = hidden(observation_dim + action_dim, 2 * config.critic_layer_norm) + last
    return hidden(observation_dim, 0) + 2 * action_dim * last, config.num_qs * critic


def actor_shapes(config: SACConfig, observation_dim: int, action_dim: int) -> Parameters:
    """What parameters of the actor look like: shapes and dtypes in their places."""
    observation = jax.ShapeDtypeStruct((1, observation_dim), jnp.float32)
    return jax.eval_shape(Actor(config, action_dim).init, jax.random.PRNGKey(0), observation)


def policy(config: SACConfig, parameters: Parameters, observation: jax.Array) -> TanhGaussian:
    """Distributions of actions for observations (..., observation dimension)."""
    action_dim = parameters["params"]["mean"]["bias"].shape[-1]
    return cast(TanhGaussian, Actor(config, action_dim).apply(parameters, observation))


def policy_and_hidden(
    config: SACConfig, parameters: Parameters, observation: jax.Array
) -> tuple[TanhGaussian, jax.Array]:
    """As `policy`, and what its last layer reads: (..., hidden_dims[-1])."""
    action_dim = parameters["params"]["mean"]["bias"].shape[-1]
    distribution, found = Actor(config, action_dim).apply(
        parameters,
        observation,
        capture_intermediates=lambda module, _method: isinstance(module, MLP),
        mutable=["intermediates"],
    )
    (hidden,) = found["intermediates"]["MLP_0"]["__call__"]
    return cast(TanhGaussian, distribution), hidden


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
        )(observation, action)
        value = nn.Dense(1, kernel_init=nn.initializers.xavier_uniform(), name="value")(hidden)
        return jnp.squeeze(value, axis=-1)


class CriticEnsemble(nn.Module):
    """The parameters of `num_qs` critics, which differ in their initial values."""

    config: SACConfig

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> None:
        """Makes them, for inputs of these shapes; `critic_values` computes with them."""
        for i in range(self.config.num_qs):
            Critic(self.config, name=_critic(i))(observation, action)


def _critic(number: int) -> str:
    return f"critic_{number}"


def critic_values(
    config: SACConfig,
    parameters: Parameters,
    observation: jax.Array,
    action: jax.Array,
    dropout_key: jax.Array,
) -> jax.Array:
    """Values (ensemble, batch) of (batch, observation dimension), (batch, action dimension).

    The critics differ in their parameters and dropout. A GPU, which is bound by the number of
    operations, computes all of them at once; on a CPU one after the other is faster.
    """
    critics = [parameters["params"][_critic(i)] for i in range(config.num_qs)]
    keys = jax.random.split(dropout_key, config.num_qs)

    def values(critic: Parameters, key: jax.Array) -> jax.Array:
        rngs = {"dropout": key}
        return cast(
            jax.Array, Critic(config).apply({"params": critic}, observation, action, rngs=rngs)
        )

    if jax.default_backend() == "cpu":
        return jnp.stack([values(critic, key) for critic, key in zip(critics, keys, strict=True)])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *critics)
    return jax.vmap(values)(stacked, keys)
