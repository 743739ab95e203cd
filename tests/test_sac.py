"""The losses and the learner step against plain NumPy and hand-computed values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from learner import sac
from learner.config import LearnerConfig, SACConfig
from learner.networks import CriticEnsemble, TanhGaussian, critic_values, dropout, policy

OBSERVATION_DIM, ACTION_DIM, BATCH = 5, 3, 4
CONFIG = LearnerConfig(
    discount=0.8,
    agent_config=SACConfig(
        hidden_dims=(8, 8), critic_dropout_rate=0.0, critic_layer_norm=True, tau=0.01
    ),
)

update = jax.jit(sac.update, static_argnames="config")


@pytest.fixture
def state():
    return sac.initial_state(CONFIG, OBSERVATION_DIM, ACTION_DIM, seed=1)


@pytest.fixture
def batch():
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    return sac.Batch(
        observation=normal(BATCH, OBSERVATION_DIM),
        action=jnp.tanh(normal(BATCH, ACTION_DIM)),
        reward=normal(BATCH),
        discount=jnp.array([1.0, 1.0, 0.0, 1.0]),
        next_observation=normal(BATCH, OBSERVATION_DIM),
    )


# --- A plain version in NumPy -----------------------------------------------------------


def gelu(x):
    """flax's gelu is the tanh approximation (arXiv 1606.08415, section 2)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def layer_norm(layer, x):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * np.asarray(layer["scale"]) + layer["bias"]


def plain_critics(parameters, observation, action):
    """Values (ensemble, batch) without dropout."""
    values = []
    for member in range(CONFIG.agent_config.num_qs):
        critic = jax.tree.map(np.asarray, parameters["params"][f"critic_{member}"])
        mlp = critic["MLP_0"]
        x = np.concatenate([observation, action], axis=-1).astype(np.float64)
        for i in range(2):
            x = gelu(layer_norm(mlp[f"LayerNorm_{i}"], dense(mlp[f"Dense_{i}"], x)))
        values.append(dense(critic["value"], x)[:, 0])
    return np.array(values)


def plain_actor(parameters, observation):
    layers = parameters["params"]
    x = observation.astype(np.float64)
    for i in range(2):
        x = gelu(dense(layers["MLP_0"][f"Dense_{i}"], x))
    return dense(layers["mean"], x), np.clip(dense(layers["log_std"], x), -20, 2)


def plain_log_probability(mean, log_std, action):
    """Of a = tanh(u) by the change of variables, (arXiv 1812.05905, equation 26)."""
    u = np.arctanh(action)
    normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.sum(normal - np.log(1 - action**2), axis=-1)


# --- Networks ---------------------------------------------------------------------------


def test_actor_and_critics_are_the_plain_ones(state, batch):
    distribution = policy(CONFIG.agent_config, state.actor, batch.observation)
    mean, log_std = plain_actor(state.actor, batch.observation)
    np.testing.assert_allclose(distribution.mean, mean, atol=1e-5)
    np.testing.assert_allclose(distribution.log_std, log_std, atol=1e-5)
    values = critic_values(
        CONFIG.agent_config, state.critic, batch.observation, batch.action, jax.random.PRNGKey(0)
    )
    np.testing.assert_allclose(
        values, plain_critics(state.critic, batch.observation, batch.action), atol=1e-5
    )
    assert not np.allclose(values[0], values[1])


def test_dropout_is_on_and_differs_between_critics(batch):
    agent = SACConfig(hidden_dims=(64,), critic_dropout_rate=0.5, critic_layer_norm=False)
    critics = CriticEnsemble(agent)
    keys = {"params": jax.random.PRNGKey(0), "dropout": jax.random.PRNGKey(0)}
    parameters = critics.init(keys, batch.observation, batch.action)
    # Equal parameters in both critics: what differs then is dropout alone.
    parameters["params"]["critic_1"] = parameters["params"]["critic_0"]
    first, second = critic_values(
        agent, parameters, batch.observation, batch.action, jax.random.PRNGKey(1)
    )
    assert not np.allclose(first, second)


def test_log_probability_of_a_sample_is_that_of_the_change_of_variables():
    mean = jnp.array([[0.3, -0.2, 0.1], [0.0, 1.0, -1.0]])
    distribution = TanhGaussian(mean, jnp.full_like(mean, -1.0))
    action, log_probability = distribution.sample_with_log_probability(jax.random.PRNGKey(3))
    expected = plain_log_probability(np.asarray(mean), -1.0, np.asarray(action, np.float64))
    np.testing.assert_allclose(log_probability, expected, rtol=1e-3)
    np.testing.assert_allclose(distribution.mode(), np.tanh(mean), rtol=1e-6)


@given(mean=st.floats(-50, 50), log_std=st.floats(-20, 2), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_log_probability_and_its_gradient_are_finite_at_the_edge_of_the_tanh(mean, log_std, seed):
    def log_probability(parameters):
        distribution = TanhGaussian(parameters[0], parameters[1])
        return distribution.sample_with_log_probability(jax.random.PRNGKey(seed))[1]

    parameters = (jnp.full((3,), mean), jnp.full((3,), log_std))
    value, gradient = jax.value_and_grad(log_probability)(parameters)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in gradient)


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_dropout_drops_at_its_rate_and_independently(rate):
    shape = (256, 256)

    def dropped(key):
        result = np.asarray(dropout(jnp.ones(shape), rate, key))
        assert np.unique(result).tolist() == [0.0, np.float32(1 / (1 - rate))]
        return result == 0

    keys = jax.random.split(jax.random.PRNGKey(0), 20)
    masks = np.stack([dropped(key) for key in keys]).astype(float)
    assert masks.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate / masks.size))
    # Rows, columns and masks differ by no more than chance: means of n have a deviation of
    # sqrt(rate * (1 - rate) / n), and the greatest of some thousands lies below 6 of them.
    for axes in ((0, 1), (0, 2), (1, 2)):
        means = masks.mean(axis=axes)
        deviation = np.sqrt(rate * (1 - rate) / (masks.size / means.size))
        assert np.abs(means - rate).max() < 6 * deviation
        assert means.std() == pytest.approx(deviation, rel=0.5)
    centerd = (masks - rate) / np.sqrt(rate * (1 - rate))
    for moved in (np.roll(centerd, 1, axis=i) for i in range(3)):
        assert abs((centerd * moved).mean()) < 6 / np.sqrt(masks.size)


# --- Losses -----------------------------------------------------------------------------


def test_target_values_bootstrap_past_the_song_and_not_past_a_failure(state, batch):
    key = jax.random.PRNGKey(5)
    action_key, _ = jax.random.split(key)
    distribution = policy(CONFIG.agent_config, state.actor, batch.next_observation)
    action, _ = distribution.sample_with_log_probability(action_key)
    action = np.asarray(action, np.float64)  # type: ignore[assignment]
    mean, log_std = plain_actor(state.actor, batch.next_observation)
    value = plain_critics(state.target_critic, batch.next_observation, action).min(axis=0)
    value -= 1.2 * plain_log_probability(mean, log_std, action)
    expected = batch.reward + 0.8 * batch.discount * value
    target = sac.target_values(CONFIG, state, batch, key)
    np.testing.assert_allclose(target, expected, rtol=1e-3, atol=1e-3)
    assert target[2] == batch.reward[2]


def test_critic_loss_is_the_mean_squared_error_over_ensemble_and_batch(state, batch):
    target = jnp.arange(BATCH, dtype=jnp.float32)
    loss, metrics = sac.critic_loss(state.critic, CONFIG, batch, target, jax.random.PRNGKey(0))
    values = plain_critics(state.critic, batch.observation, batch.action)
    np.testing.assert_allclose(loss, np.mean((values - np.arange(BATCH)) ** 2), rtol=1e-4)
    np.testing.assert_allclose(metrics["q"], values.mean(), atol=1e-5)


def test_actor_loss_weighs_entropy_against_the_mean_value(state, batch):
    key = jax.random.PRNGKey(7)
    loss, metrics = sac.actor_loss(state.actor, CONFIG, state, batch, key)
    distribution = policy(CONFIG.agent_config, state.actor, batch.observation)
    action, _ = distribution.sample_with_log_probability(jax.random.split(key)[0])
    action = np.asarray(action, np.float64)  # type: ignore[assignment]
    mean, log_std = plain_actor(state.actor, batch.observation)
    log_probability = plain_log_probability(mean, log_std, action)
    value = plain_critics(state.critic, batch.observation, action).mean(axis=0)
    np.testing.assert_allclose(loss, np.mean(1.2 * log_probability - value), rtol=1e-3)
    np.testing.assert_allclose(metrics["entropy"], -log_probability.mean(), rtol=1e-3)


def test_temperature_falls_while_the_entropy_is_above_its_target():
    def loss(log_temperature):
        return sac.temperature_loss(log_temperature, jnp.float32(2.0), target=-1.5)[0]

    # d/d log(T) of T * (H - target) is T * (H - target): 1.2 * 3.5 by hand.
    assert float(jax.grad(loss)(jnp.log(1.2))) == pytest.approx(4.2, rel=1e-5)
    assert sac.target_entropy(CONFIG, action_dim=39) == -19.5


# --- The learner step -------------------------------------------------------------------


def test_first_step_moves_as_adam_and_tau_say(state, batch):
    before = jax.tree.map(np.array, state)
    _, target_key, critic_key, _ = jax.random.split(state.key, 4)
    target = sac.target_values(CONFIG, state, batch, target_key)
    gradient = jax.grad(sac.critic_loss, has_aux=True)(
        state.critic, CONFIG, batch, target, critic_key
    )[0]
    after, _ = update(state, batch, config=CONFIG)
    # Adam's first step is lr * g / (|g| + epsilon), whatever the size of the gradient g.
    expected = jax.tree.map(
        lambda parameter, g: parameter - 3e-4 * g / (np.abs(g) + 1e-8), before.critic, gradient
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), after.critic, expected)
    jax.tree.map(
        lambda old, new, moved: np.testing.assert_allclose(
            moved, 0.99 * old + 0.01 * np.asarray(new), atol=1e-6
        ),
        before.target_critic,
        after.critic,
        after.target_critic,
    )
    assert np.isclose(float(after.log_temperature), np.log(1.2) - 3e-4, atol=1e-6)
    assert int(after.step) == 1


def test_annealing_shortens_the_steps_of_actor_and_critics_alone(state, batch):
    before = jax.tree.map(np.array, state)
    whole, _ = update(state, batch, config=CONFIG)
    shorter, _ = update(state, batch, config=CONFIG, annealing=jnp.float32(0.25))
    for name in ("actor", "critic"):
        for old, far, near in zip(
            *(jax.tree.leaves(getattr(at, name)) for at in (before, whole, shorter)), strict=True
        ):
            if name == "critic":  # The actor's gradient differs, since the critics do.
                np.testing.assert_allclose(near - old, 0.25 * (far - old), atol=1e-7)
            assert np.abs(near - old).max() == pytest.approx(0.25 * 3e-4, rel=1e-2)
    moved = shorter.log_temperature - before.log_temperature
    assert float(moved) == pytest.approx(-3e-4, rel=1e-2)


def test_the_average_follows_the_actor_and_changes_nothing_else(batch):
    agent = dataclasses.replace(CONFIG.agent_config, actor_ema_tau=0.1)
    averaged = dataclasses.replace(CONFIG, agent_config=agent)
    plain = sac.initial_state(CONFIG, OBSERVATION_DIM, ACTION_DIM, seed=1)
    state = sac.initial_state(averaged, OBSERVATION_DIM, ACTION_DIM, seed=1)
    expected = jax.tree.map(lambda leaf: np.array(leaf, np.float64), state.actor)
    for _ in range(3):
        plain, _ = update(plain, batch, config=CONFIG)
        state, _ = update(state, batch, config=averaged)
        expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, expected, state.actor)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.actor_ema, expected
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.actor_ema, state.actor)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert plain.actor_ema is None
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state._replace(actor_ema=None),
        plain,
    )


def test_equal_seeds_and_data_give_equal_parameters(batch):
    def train(seed):
        state = sac.initial_state(CONFIG, OBSERVATION_DIM, ACTION_DIM, seed)
        for _ in range(3):
            state, _ = update(state, batch, config=CONFIG)
        return jax.tree.leaves(state)

    assert all(np.array_equal(a, b) for a, b in zip(train(1), train(1), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(train(1), train(2), strict=True))


def test_it_learns_where_reward_is_to_be_had():
    """A bandit: reward is minus the squared distance of the action from 0.5."""
    config = LearnerConfig(
        discount=0.0,
        agent_config=SACConfig(
            hidden_dims=(32,), actor_lr=3e-3, critic_lr=3e-3, temp_lr=3e-3, init_temperature=0.1
        ),
    )
    random = np.random.default_rng(0)
    state = sac.initial_state(config, OBSERVATION_DIM, 1, seed=0)
    observation = jnp.zeros((64, OBSERVATION_DIM))
    for _ in range(600):
        action = jnp.asarray(random.uniform(-1, 1, (64, 1)), jnp.float32)
        batch = sac.Batch(
            observation=observation,
            action=action,
            reward=-((action[:, 0] - 0.5) ** 2),
            discount=jnp.ones(64),
            next_observation=observation,
        )
        state, metrics = update(state, batch, config=config)
    assert float(metrics["critic_loss"]) < 0.01
    mode = policy(config.agent_config, state.actor, observation[:1]).mode()
    assert abs(float(mode[0, 0]) - 0.5) < 0.15


@pytest.mark.parametrize(
    "settings",
    [
        {"num_qs": 0},
        {"actor_lr": 0.0},
        {"hidden_dims": ()},
        {"hidden_dims": (0,)},
        {"critic_dropout_rate": 1.0},
        {"tau": 0.0},
        {"init_temperature": 0.0},
    ],
)
def test_settings_out_of_range_name_the_flag(settings):
    with pytest.raises(BadInput, match="--agent-config"):
        SACConfig(**settings)
