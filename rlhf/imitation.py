"""Imitation: a policy learns to play as one of its variations does.

A variation of a policy can be played, but it is not a policy itself, because it reads the previous
action or the goals of an earlier moment. The policy's own network learns it from demonstrations.
The loss is the mean over control steps of

    sum_i ((mean_i - arctanh(intended_i)) / std_i)^2 + (log std_i - log std'_i)^2,

where std is the standard deviation of the policy before, and std' that of the policy after. To
second order this is twice the KL divergence between the two.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learner.config import SACConfig
from learner.networks import Parameters, policy
from learner.observation import ObservationLayout, assemble
from replay.transition import Observation

STEPS = 300
"""Number of Adam steps; the learning rate decays to 0."""
_LEARNING_RATE = 3e-4
_BATCH_SIZE = 256
_EDGE = 5e-4  # Distance that is kept from -1 and 1 before the tanh is inverted.


class Demonstration(NamedTuple):
    """Demonstration of T control steps."""

    proprioception: np.ndarray
    """(T, frames, numbers) float32: the simulated part of the observations."""
    goal_index: np.ndarray
    """(T,) int32: rows of the table, see `replay.transition.Observation`."""
    intended: np.ndarray
    """(T, action dimension) float32: actions to be learned, in [-1, 1]."""


class Imitated(NamedTuple):
    """Result of an imitation."""

    parameters: Parameters
    """Parameters of the policy."""
    loss: np.ndarray
    """(`STEPS`,) float32: loss of each step, see the top of this file."""


def imitate(
    parameters: Parameters,
    demonstrations: Sequence[Demonstration],
    table: np.ndarray,
    agent_config: SACConfig,
    layout: ObservationLayout,
    seed: int,
) -> Imitated:
    """Trains a policy on the intended actions of demonstrations.

    Args:
        parameters: Parameters of the policy whose variation was demonstrated.
        demonstrations: One or more demonstrations.
        table: (rows, features) uint8 table, see `learner.observation.assemble`.
        agent_config: Settings of the network.
        layout: Layout of the observations.
        seed: Random seed of the batches.
    """
    whole = Demonstration(*(np.concatenate(arrays) for arrays in zip(*demonstrations, strict=True)))
    learnt, loss = _imitate(
        parameters, whole, jnp.asarray(table), jax.random.PRNGKey(seed), agent_config, layout
    )
    return Imitated(learnt, np.asarray(loss))


@functools.partial(jax.jit, static_argnames=("agent_config", "layout"))
def _imitate(
    start: Parameters,
    shown: Demonstration,
    table: jax.Array,
    key: jax.Array,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> tuple[Parameters, jax.Array]:
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, STEPS))

    def loss(parameters: Parameters, index: jax.Array) -> jax.Array:
        observation = Observation(shown.proprioception[index], shown.goal_index[index])
        assembled = assemble(layout, table, observation)
        now, before = (
            policy(agent_config, parameters, assembled),
            policy(agent_config, start, assembled),
        )
        inside = jnp.clip(shown.intended[index], -1 + _EDGE, 1 - _EDGE)
        wanted = 0.5 * (jnp.log1p(inside) - jnp.log1p(-inside))
        distance = (now.mean - wanted) * jnp.exp(-before.log_std)
        widened = now.log_std - before.log_std
        return jnp.mean(jnp.sum(distance**2 + widened**2, axis=-1))

    def step(
        carried: tuple[Parameters, optax.OptState, jax.Array], _: None
    ) -> tuple[tuple[Parameters, optax.OptState, jax.Array], jax.Array]:
        parameters, state, key = carried
        key, index_key = jax.random.split(key)
        index = jax.random.randint(index_key, (_BATCH_SIZE,), 0, len(shown.goal_index))
        value, gradient = jax.value_and_grad(loss)(parameters, index)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state, key), value

    carried = (start, optimizer.init(start), key)
    (parameters, _, _), losses = jax.lax.scan(step, carried, None, length=STEPS)
    return parameters, losses
