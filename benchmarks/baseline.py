"""The single-process baseline for comparisons.

The loop acts, steps robopianist's own environment, inserts, samples and updates in turn. It keeps
whole observations in NumPy arrays, and its compiled update is written as in the papers. It follows
robopianist-rl (train.py, sac.py, networks.py, replay.py of github.com/kevinzakka/robopianist-rl).
Tests compare `learner.sac` with this update.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from learner import sac
from learner.config import LearnerConfig, SACConfig
from learner.networks import Actor, Parameters, policy
from piano.config import EnvironmentConfig
from piano.reference_environment import ReferenceEnvironment
from piano.song import Song

_WARM_UP_STEPS = 5_000
_CAPACITY = 1_000_000
_BATCH_SIZE = 256


class _Critic(nn.Module):
    config: SACConfig

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([observation, action], axis=-1)
        for units in self.config.hidden_dims:
            x = nn.Dense(units, kernel_init=nn.initializers.xavier_uniform())(x)
            if self.config.critic_dropout_rate > 0:
                x = nn.Dropout(self.config.critic_dropout_rate, deterministic=False)(x)
            if self.config.critic_layer_norm:
                x = nn.LayerNorm()(x)
            x = getattr(nn, self.config.activation)(x)
        value = nn.Dense(1, kernel_init=nn.initializers.xavier_uniform())(x)
        return jnp.squeeze(value, axis=-1)


class CriticEnsemble(nn.Module):
    """Critics by `vmap`: maps (batch, observation), (batch, action) to (ensemble, batch)."""

    config: SACConfig

    @nn.compact
    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps observations and actions to values."""
        critics = nn.vmap(
            _Critic,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.config.num_qs,
        )
        values: jax.Array = critics(self.config, name="critics")(observation, action)
        return values


class State(NamedTuple):
    """Values that an update changes."""

    actor: Parameters
    critic: Parameters
    target_critic: Parameters
    log_temperature: jax.Array
    actor_optimizer: Any
    critic_optimizer: Any
    temperature_optimizer: Any
    key: jax.Array


def initial_state(config: LearnerConfig, observation_dim: int, action_dim: int, seed: int) -> State:
    """Returns the state before the first update."""
    agent = config.agent_config
    key, actor_key, critic_key = jax.random.split(jax.random.PRNGKey(seed), 3)
    observation, action = jnp.zeros((1, observation_dim)), jnp.zeros((1, action_dim))
    actor = Actor(agent, action_dim).init(actor_key, observation)
    keys = {"params": critic_key, "dropout": critic_key}
    critic = CriticEnsemble(agent).init(keys, observation, action)
    log_temperature = jnp.log(jnp.float32(agent.init_temperature))
    return State(
        actor=actor,
        critic=critic,
        target_critic=critic,
        log_temperature=log_temperature,
        actor_optimizer=optax.adam(agent.actor_lr).init(actor),
        critic_optimizer=optax.adam(agent.critic_lr).init(critic),
        temperature_optimizer=optax.adam(agent.temp_lr).init(log_temperature),
        key=key,
    )


@functools.partial(jax.jit, static_argnames="config")
def update(state: State, batch: sac.Batch, config: LearnerConfig) -> tuple[State, sac.Metrics]:
    """Updates critics, targets, actor and temperature, in this order.

    Each loss is written as in its paper. `learner.sac` names the sources.
    """
    agent = config.agent_config
    key, target_key, critic_key, actor_key = jax.random.split(state.key, 4)
    next_action_key, target_key = jax.random.split(target_key)
    action_key, value_key = jax.random.split(actor_key)
    temperature = jnp.exp(state.log_temperature)

    def values(critic: Parameters, *inputs: jax.Array, key: jax.Array) -> jax.Array:
        result = CriticEnsemble(agent).apply(critic, *inputs, rngs={"dropout": key})
        return cast(jax.Array, result)

    next_action, next_log_probability = policy(
        agent, state.actor, batch.next_observation
    ).sample_with_log_probability(next_action_key)
    next_value = jnp.min(
        values(state.target_critic, batch.next_observation, next_action, key=target_key), axis=0
    )
    if agent.backup_entropy:
        next_value -= temperature * next_log_probability
    target = batch.reward + config.discount * batch.discount * next_value

    def critic_loss(critic: Parameters) -> tuple[jax.Array, jax.Array]:
        q = values(critic, batch.observation, batch.action, key=critic_key)
        return jnp.mean((q - target) ** 2), jnp.mean(q)

    (loss, q), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    updates, critic_optimizer = optax.adam(agent.critic_lr).update(gradient, state.critic_optimizer)
    critic = optax.apply_updates(state.critic, updates)
    target_critic = optax.incremental_update(critic, state.target_critic, agent.tau)

    def actor_loss(actor: Parameters) -> tuple[jax.Array, jax.Array]:
        action, log_probability = policy(
            agent, actor, batch.observation
        ).sample_with_log_probability(action_key)
        q = jnp.mean(values(critic, batch.observation, action, key=value_key), axis=0)
        return jnp.mean(temperature * log_probability - q), -jnp.mean(log_probability)

    (policy_loss, entropy), gradient = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
    updates, actor_optimizer = optax.adam(agent.actor_lr).update(gradient, state.actor_optimizer)
    actor = optax.apply_updates(state.actor, updates)

    surplus = entropy - sac.target_entropy(config, batch.action.shape[-1])
    # Derivative of temperature * surplus with respect to the logarithm of the temperature.
    updates, temperature_optimizer = optax.adam(agent.temp_lr).update(
        temperature * surplus, state.temperature_optimizer
    )
    after = State(
        actor=actor,
        critic=critic,
        target_critic=target_critic,
        log_temperature=state.log_temperature + updates,
        actor_optimizer=actor_optimizer,
        critic_optimizer=critic_optimizer,
        temperature_optimizer=temperature_optimizer,
        key=key,
    )
    metrics = {
        "critic_loss": loss,
        "q": q,
        "actor_loss": policy_loss,
        "entropy": entropy,
        "temperature_loss": temperature * surplus,
        "temperature": temperature,
    }
    return after, metrics


class Buffer:
    """A replay of whole observations in NumPy arrays, which overwrites the oldest first."""

    def __init__(self, observation_dim: int, action_dim: int, seed: int):
        # Zeros take no memory until they are overwritten.
        self._observation = np.zeros((_CAPACITY, observation_dim), np.float32)
        self._next_observation = np.zeros((_CAPACITY, observation_dim), np.float32)
        self._action = np.zeros((_CAPACITY, action_dim), np.float32)
        self._reward = np.zeros(_CAPACITY, np.float32)
        self._discount = np.zeros(_CAPACITY, np.float32)
        self._random = np.random.default_rng(seed)
        self._inserted = 0

    def insert(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        reward: float,
        discount: float,
        next_observation: np.ndarray,
    ) -> None:
        """Adds one transition."""
        index = self._inserted % _CAPACITY
        self._observation[index], self._next_observation[index] = observation, next_observation
        self._action[index], self._reward[index] = action, reward
        self._discount[index] = discount
        self._inserted += 1

    def sample(self, batch_size: int) -> sac.Batch:
        """Draws transitions uniformly."""
        drawn = self._random.integers(min(self._inserted, _CAPACITY), size=batch_size)
        return sac.Batch(
            self._observation[drawn],
            self._action[drawn],
            self._reward[drawn],
            self._discount[drawn],
            self._next_observation[drawn],
        )


@functools.partial(jax.jit, static_argnames="agent")
def _act(
    agent: SACConfig, actor: Parameters, observation: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    key, action_key = jax.random.split(key)
    return policy(agent, actor, observation).sample_with_log_probability(action_key)[0], key


@dataclasses.dataclass
class Progress:
    """Progress of the loop after a step."""

    environment_steps: int
    learner_steps: int
    actor: Parameters
    """Parameters of the current policy."""
    episode_return: float
    """Return of the last finished episode; NaN before the first."""


def loop(
    song: Song,
    environment_config: EnvironmentConfig,
    config: LearnerConfig,
    seed: int,
    warm_up_steps: int = _WARM_UP_STEPS,
    batch_size: int = _BATCH_SIZE,
) -> Iterator[Progress]:
    """Trains one environment step per iteration, without end."""
    environment = ReferenceEnvironment(song, environment_config, seed)
    observation = environment.reset().observation
    random = np.random.default_rng(seed)
    (action_dim,) = environment.action_spec().shape
    state = initial_state(config, len(observation), action_dim, seed)
    buffer = Buffer(len(observation), action_dim, seed)
    key = jax.random.PRNGKey(seed + 1)
    total, progress = 0.0, Progress(0, 0, state.actor, float("nan"))
    while True:
        if progress.environment_steps < warm_up_steps:
            action = random.uniform(-1.0, 1.0, action_dim).astype(np.float32)
        else:
            drawn, key = _act(config.agent_config, state.actor, jnp.asarray(observation), key)
            action = np.asarray(drawn)
        timestep = environment.step(action)
        buffer.insert(observation, action, timestep.reward, timestep.discount, timestep.observation)
        observation = timestep.observation
        total += timestep.reward
        progress.environment_steps += 1
        if timestep.last():
            progress.episode_return, total = total, 0.0
            observation = environment.reset().observation
        if progress.environment_steps >= warm_up_steps:
            state, _ = update(state, buffer.sample(batch_size), config)
            progress.learner_steps += 1
            progress.actor = state.actor
        yield progress


def seconds_a_step(
    song: Song, environment_config: EnvironmentConfig, config: LearnerConfig, seconds: float
) -> float:
    """Measures the seconds per step of the loop once it learns, over a time of `seconds`."""
    steps = loop(song, environment_config, config, seed=0, warm_up_steps=_BATCH_SIZE)
    while next(steps).learner_steps < 10:  # Compile and warm up.
        pass
    started, number = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        next(steps)
        number += 1
    return elapsed / number
