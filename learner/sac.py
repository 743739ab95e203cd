"""Soft actor-critic with DroQ critics: the losses and one learner step.

Sources: SAC with a learned temperature (arXiv 1812.05905) and DroQ's regularized critics (arXiv
2110.02034). The layout and the order of the updates are those of robopianist-rl's `sac.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learner.config import LearnerConfig
from learner.networks import Actor, CriticEnsemble, Parameters, critic_values, policy, sizes

Metrics = dict[str, jax.Array]

# Nats per action dimension: the entropy of a normal distribution with a standard deviation of
# 0.0006.
_LEAST_ENTROPY = -6.0


class TrainingState(NamedTuple):
    """Everything that a learner step changes, and so everything that a resumed run needs."""

    actor: Parameters
    actor_ema: Parameters | None
    """Exponential moving average of `actor`; None where the average is the actor itself."""
    critic: Parameters
    target_critic: Parameters
    log_temperature: jax.Array
    """Logarithm of the temperature, () float32."""
    actor_optimizer: Any
    critic_optimizer: Any
    temperature_optimizer: Any
    key: jax.Array
    """Random state, (2,) uint32."""
    step: jax.Array
    """Learner steps so far, () int32."""


class Batch(NamedTuple):
    """Transitions with assembled observations."""

    observation: jax.Array
    """Observations, (batch, observation dimension) float32."""
    action: jax.Array
    """Actions, (batch, action dimension) float32."""
    reward: jax.Array
    """Rewards, (batch,) float32."""
    discount: jax.Array
    """Discounts of the environment itself, (batch,) float32."""
    next_observation: jax.Array
    """Observations after the actions, (batch, observation dimension) float32."""


# Adam treats every number alike. Flattened into one vector, all parameters take a single pass
# instead of one pass each.


def actor_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Returns the optimizer of the actor."""
    return optax.flatten(optax.adam(config.agent_config.actor_lr))


def critic_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Returns the optimizer of the critics."""
    return optax.flatten(optax.adam(config.agent_config.critic_lr))


def temperature_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """Returns the optimizer of the logarithm of the temperature."""
    return optax.adam(config.agent_config.temp_lr)


def target_entropy(config: LearnerConfig, action_dim: int) -> float:
    """Returns the entropy that the temperature steers towards, in nats."""
    entropy = config.agent_config.target_entropy
    return -0.5 * action_dim if entropy is None else entropy


def initial_state(
    config: LearnerConfig, observation_dim: int, action_dim: int, seed: int
) -> TrainingState:
    """Returns a fresh training state; equal seeds give equal states."""
    key, actor_key, critic_key = jax.random.split(jax.random.PRNGKey(seed), 3)
    observation = jnp.zeros((1, observation_dim))
    action = jnp.zeros((1, action_dim))
    actor = Actor(config.agent_config, action_dim).init(actor_key, observation)
    critic = CriticEnsemble(config.agent_config).init(
        {"params": critic_key, "dropout": critic_key}, observation, action
    )
    log_temperature = jnp.log(jnp.float32(config.agent_config.init_temperature))
    averaged = config.agent_config.actor_ema_tau < 1
    return TrainingState(
        actor=actor,
        # Copies: a learner step donates its input, and one buffer cannot be donated twice.
        actor_ema=jax.tree.map(jnp.copy, actor) if averaged else None,
        critic=critic,
        target_critic=jax.tree.map(jnp.copy, critic),
        log_temperature=log_temperature,
        actor_optimizer=actor_optimizer(config).init(actor),
        critic_optimizer=critic_optimizer(config).init(critic),
        temperature_optimizer=temperature_optimizer(config).init(log_temperature),
        key=key,
        step=jnp.int32(0),
    )


def state_bytes(config: LearnerConfig, observation_dim: int, action_dim: int) -> int:
    """Returns the bytes of a training state, to within a hundred bytes.

    The state holds the networks, the target networks, the actor's average if there is one, and
    Adam's two moments of the actor and the critics.
    """
    actor, critic = sizes(config.agent_config, observation_dim, action_dim)
    actors, critics = 3 + (config.agent_config.actor_ema_tau < 1), 4
    return jnp.dtype(jnp.float32).itemsize * (actors * actor + critics * critic)


def target_values(
    config: LearnerConfig, state: TrainingState, batch: Batch, key: jax.Array
) -> jax.Array:
    """Returns the target values of the critics, (batch,).

    The target is y = r + discount * d * (min_i Q'_i(o', a') - temperature * log pi(a' | o')), where
    a' is drawn from the policy and d is the environment's discount. So the value is bootstrapped at
    the end of a song, but not at a failure (arXiv 1812.05905, equations 2 and 3).
    """
    action_key, dropout_key = jax.random.split(key)
    agent = config.agent_config
    distribution = policy(agent, state.actor, batch.next_observation)
    action, log_probability = distribution.sample_with_log_probability(action_key)
    values = critic_values(agent, state.target_critic, batch.next_observation, action, dropout_key)
    value = jnp.min(values, axis=0)
    if agent.backup_entropy:
        value = value - jnp.exp(state.log_temperature) * log_probability
    target = batch.reward + config.discount * batch.discount * value
    assert target.shape == batch.reward.shape
    return jax.lax.stop_gradient(target)


def critic_loss(
    critic: Parameters,
    config: LearnerConfig,
    batch: Batch,
    target: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Returns the mean squared TD error over ensemble and batch, and metrics.

    The loss is equation 5 of arXiv 1812.05905.
    """
    values = critic_values(config.agent_config, critic, batch.observation, batch.action, key)
    loss = jnp.mean((values - target) ** 2)
    return loss, {"critic_loss": loss, "q": jnp.mean(values)}


def actor_loss(
    actor: Parameters,
    config: LearnerConfig,
    state: TrainingState,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Returns the mean of temperature * log pi(a | o) - Q(o, a), and metrics.

    The action a is drawn from pi, and Q is the mean of the ensemble (arXiv 1812.05905, equation 7).
    The mean over the critics is DroQ's (arXiv 2110.02034, algorithm 2).
    """
    action_key, dropout_key = jax.random.split(key)
    agent = config.agent_config
    distribution = policy(agent, actor, batch.observation)
    action, log_probability = distribution.sample_with_log_probability(action_key)
    values = critic_values(agent, state.critic, batch.observation, action, dropout_key)
    loss = jnp.mean(jnp.exp(state.log_temperature) * log_probability - jnp.mean(values, axis=0))
    return loss, {"actor_loss": loss, "entropy": -jnp.mean(log_probability)}


def temperature_loss(
    log_temperature: jax.Array, entropy: jax.Array, target: float
) -> tuple[jax.Array, Metrics]:
    """Returns temperature * (entropy - target entropy), and metrics.

    The loss is equation 18 of arXiv 1812.05905.
    """
    temperature = jnp.exp(log_temperature)
    loss = temperature * (entropy - target)
    return loss, {"temperature_loss": loss, "temperature": temperature}


def update(
    state: TrainingState, batch: Batch, config: LearnerConfig, annealing: jax.Array | float = 1.0
) -> tuple[TrainingState, Metrics]:
    """Updates critics, target networks, actor, its average and temperature, in this order.

    The average of the weights acts better than the newest weights. Averaging is the method of
    Polyak and Juditsky (Acceleration of stochastic approximation by averaging, 1992). Here the
    average decays exponentially, as the target networks do.

    Args:
        state: Training state before the update.
        batch: Batch of transitions.
        config: Settings of the learner.
        annealing: Factor of the learning rates of the actor and the critics, () float32.

    Returns:
        The next state, and scalars: critic_loss, q, actor_loss, entropy (nats), temperature_loss,
        temperature, actor_bias_gradient_norm, critic_bias_gradient_norm, actor_lr, critic_lr.
    """
    key, target_key, critic_key, actor_key = jax.random.split(state.key, 4)

    target = target_values(config, state, batch, target_key)
    critic_gradient, critic_metrics = jax.grad(critic_loss, has_aux=True)(
        state.critic, config, batch, target, critic_key
    )
    critic, critic_optimizer_state = _apply(
        critic_optimizer(config), critic_gradient, state.critic_optimizer, state.critic, annealing
    )
    target_critic = optax.incremental_update(critic, state.target_critic, config.agent_config.tau)
    state = state._replace(critic=critic, target_critic=target_critic)

    actor_gradient, actor_metrics = jax.grad(actor_loss, has_aux=True)(
        state.actor, config, state, batch, actor_key
    )
    actor, actor_optimizer_state = _apply(
        actor_optimizer(config), actor_gradient, state.actor_optimizer, state.actor, annealing
    )
    actor_ema = state.actor_ema
    if actor_ema is not None:
        actor_ema = optax.incremental_update(actor, actor_ema, config.agent_config.actor_ema_tau)

    gradient, temperature_metrics = jax.grad(temperature_loss, has_aux=True)(
        state.log_temperature,
        actor_metrics["entropy"],
        target_entropy(config, batch.action.shape[-1]),
    )
    log_temperature, temperature_optimizer_state = _apply(
        temperature_optimizer(config), gradient, state.temperature_optimizer, state.log_temperature
    )

    state = state._replace(
        actor=actor,
        actor_ema=actor_ema,
        log_temperature=log_temperature,
        actor_optimizer=actor_optimizer_state,
        critic_optimizer=critic_optimizer_state,
        temperature_optimizer=temperature_optimizer_state,
        key=key,
        step=state.step + 1,
    )
    norms = {
        "actor_bias_gradient_norm": _bias_norm(actor_gradient),
        "critic_bias_gradient_norm": _bias_norm(critic_gradient),
    }
    rates = {
        "actor_lr": jnp.float32(annealing * config.agent_config.actor_lr),
        "critic_lr": jnp.float32(annealing * config.agent_config.critic_lr),
    }
    return state, {**critic_metrics, **actor_metrics, **temperature_metrics, **norms, **rates}


def _bias_norm(gradient: Parameters) -> jax.Array:
    """Returns the norm of the gradient of the biases and of the layer norms' scales.

    The norm is not finite where any part of the gradient is not: a bad number on the way back
    through a network reaches the bias of the first layer. The norm of the whole gradient would take
    a twentieth of a learner step.
    """
    return optax.global_norm([leaf for leaf in jax.tree.leaves(gradient) if leaf.ndim <= 1])


def healthy(metrics: Metrics, state: TrainingState) -> jax.Array:
    """Returns whether the numbers of one update, or of several along a leading axis, are healthy.

    Args:
        metrics: Metrics that `update` returned.
        state: Training state after the update.

    Returns:
        () bool, true if all metrics are finite and the entropy is above that of a policy whose
        actions have all but stopped varying.
    """
    action_dim = state.actor["params"]["mean"]["bias"].shape[-1]  # `networks.Actor` names it.
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in metrics.values()]))
    return finite & jnp.all(metrics["entropy"] > _LEAST_ENTROPY * action_dim)


def _apply(
    optimizer: optax.GradientTransformation,
    gradient: Parameters,
    optimizer_state: Any,
    parameters: Parameters,
    annealing: jax.Array | float = 1.0,
) -> tuple[Parameters, Any]:
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, parameters)
    updates = optax.tree.scale(annealing, updates)
    return optax.apply_updates(parameters, updates), optimizer_state
