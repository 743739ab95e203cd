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
"""Suffix of the names of the weights that read observations and, after them, actions."""

# Actions move inwards by a two-thousandth of their range before the tanh is undone. No hand can
# tell the difference. An action at the very edge, which noise and clipping produce, then stays near
# the other actions instead of going to infinity.
_EDGE = 1e-3


class TanhGaussian(NamedTuple):
    """The distribution of a = tanh(u), u ~ N(mean, diag(std)^2) (arXiv 1812.05905, appendix C)."""

    mean: jax.Array
    """Mean before the tanh, (..., action dimension)."""
    log_std: jax.Array
    """Log standard deviation before the tanh, (..., action dimension)."""

    def mode(self) -> jax.Array:
        """Returns the action of the mean, (..., action dimension) in (-1, 1)."""
        return jnp.tanh(self.mean)

    def sample_with_log_probability(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Samples an action (..., action dimension).

        Returns:
            The action and its log density (...), in nats.
        """
        noise = jax.random.normal(key, self.mean.shape)
        raw = self.mean + jnp.exp(self.log_std) * noise
        log_normal = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.tanh(raw), jnp.sum(log_normal - _log_slope(raw), axis=-1)

    def log_probability(self, action: jax.Array) -> jax.Array:
        """Returns the log density (...) of actions (..., action dimension) in [-1, 1], in nats.

        The log density and its gradients are finite everywhere; see `_EDGE`.
        """
        inside = jnp.clip(action, -1 + _EDGE, 1 - _EDGE)
        # The inverse of tanh by its definition, since not every platform has the operation for it.
        raw = 0.5 * (jnp.log1p(inside) - jnp.log1p(-inside))
        noise = (raw - self.mean) * jnp.exp(-self.log_std)
        log_normal = -0.5 * noise**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.sum(log_normal - _log_slope(raw), axis=-1)


def _log_slope(raw: jax.Array) -> jax.Array:
    """Returns log(1 - tanh(u)^2) in a form that stays finite where tanh(u) rounds to 1."""
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
    """A dense layer on the concatenation of its inputs, which the layer never builds.

    A gradient with respect to one input alone, the action, therefore costs no product for the other
    inputs.
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
    """Zeros each number with a probability of `rate`, and scales the others.

    The probability is rounded to a multiple of 2**-32. The random bits are a hash of the number's
    place and of the key: C. Wellons' lowbias32 (github.com/skeeto/hash-prospector), with the second
    half of the key mixed in between. JAX's own random bits are better than dropout needs, and take
    a fifth of a learner step on a CPU.

    Args:
        x: Array of any shape.
        rate: Probability, 0 or more and below 1.
        key: Random state, (2,) uint32.
    """
    bits = jax.lax.iota(jnp.uint32, math.prod(x.shape)) * np.uint32(0x9E3779B9) + key[0]
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D) ^ key[1]
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    bits = (bits ^ (bits >> 16)).reshape(x.shape)
    return jnp.where(bits >= np.uint32(round(rate * 2**32)), x / (1 - rate), 0.0)


class Actor(nn.Module):
    """The network of the policy."""

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
    """Returns how many numbers the actor and the ensemble of critics have.

    It does not build the networks.
    """

    def hidden(inputs: int, norms: int) -> int:
        widths = (inputs, *config.hidden_dims)
        products = sum(before * after for before, after in itertools.pairwise(widths))
        return products + (1 + norms) * sum(config.hidden_dims)

    last = config.hidden_dims[-1] + 1
    critic = hidden(observation_dim + action_dim, 2 * config.critic_layer_norm) + last
    return hidden(observation_dim, 0) + 2 * action_dim * last, config.num_qs * critic


def actor_shapes(config: SACConfig, observation_dim: int, action_dim: int) -> Parameters:
    """Returns the shapes and dtypes of the actor's parameters, in their structure."""
    observation = jax.ShapeDtypeStruct((1, observation_dim), jnp.float32)
    return jax.eval_shape(Actor(config, action_dim).init, jax.random.PRNGKey(0), observation)


def policy(config: SACConfig, parameters: Parameters, observation: jax.Array) -> TanhGaussian:
    """Returns distributions of actions for observations (..., observation dimension)."""
    action_dim = parameters["params"]["mean"]["bias"].shape[-1]
    return cast(TanhGaussian, Actor(config, action_dim).apply(parameters, observation))


def policy_and_hidden(
    config: SACConfig, parameters: Parameters, observation: jax.Array
) -> tuple[TanhGaussian, jax.Array]:
    """Returns what `policy` returns, and the input of its last layer, (..., hidden_dims[-1])."""
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
    """One state-action value.

    Dropout is always on, as in DroQ, even for the targets.
    """

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
        """Creates the parameters for inputs of these shapes; `critic_values` computes with them."""
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
    """Returns the values of a batch of observations and actions, (ensemble, batch).

    Observations are (batch, observation dimension) and actions are (batch, action dimension). The
    critics differ in their parameters and their dropout. A GPU is limited by the number of
    operations, so it computes all critics at once. A CPU computes them faster one after the other.
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
