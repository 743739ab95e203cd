"""Contrastive preference learning against plain NumPy, finite differences and toy problems."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from collections_for_tests import ACTIONS, PROPRIOCEPTION, ROWS, make_collection
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import experimental
from jax.flatten_util import ravel_pytree

from common.errors import BadInput
from common.project import program
from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig
from learner.networks import TanhGaussian
from learner.observation import ObservationLayout
from rlhf import cpl
from rlhf.collection import Trajectory
from rlhf.fine_tuner import FineTuner, NotFinite
from rlhf.rounds import Round

AGENT = SACConfig(hidden_dims=(8,), activation="tanh")
LAYOUT = ObservationLayout(before=2, features=3, after=1, frames=2)
ACTION_DIM = 2
LENGTHS = (4, 6, 3, 5, 6)
TABLE = np.random.default_rng(5).integers(0, 2, (12, 3)).astype(np.uint8)
# Segment 0 before 1 twice, 1 before 0 once, and so on; segment 4 has no rating.
WEIGHT = np.array(
    [
        [0, 2, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 3, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ],
    np.float32,
)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """The arrays are so small that compiling takes longer than anything else."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def make_parameters(seed=0):
    config = LearnerConfig(agent_config=AGENT)
    return sac.initial_state(config, LAYOUT.observation_dim, ACTION_DIM, seed).actor


def make_trajectory(length, seed):
    random = np.random.default_rng(seed)
    return Trajectory(
        proprioception=random.normal(size=(length, 2, 3)).astype(np.float32),
        row=np.arange(seed, seed + length, dtype=np.int32) % len(TABLE),
        action=np.clip(1.2 * random.uniform(-1, 1, (length, ACTION_DIM)), -1, 1).astype(np.float32),
        log_probability=np.zeros(length, np.float32),
        reward=np.zeros(length, np.float32),
        simulator_state=np.zeros((length + 1, 1)),
    )


TRAJECTORIES = [make_trajectory(length, seed) for seed, length in enumerate(LENGTHS)]


def make_problem(config, trajectories=TRAJECTORIES, weight=WEIGHT, parameters=None):
    parameters = make_parameters() if parameters is None else parameters
    return cpl.make_problem(trajectories, weight, TABLE, parameters, config, AGENT, LAYOUT)


EVERYTHING = np.ones(len(LENGTHS), bool)


def original(**settings):
    """Settings of the method of arXiv 2310.13639, if none other is named."""
    return cpl.CPLConfig(**{"method": "cpl", **settings})


STATIC = ("config", "agent_config", "layout")
loss_of = jax.jit(cpl.loss, static_argnames=STATIC)
differentiate = jax.jit(jax.value_and_grad(cpl.loss, has_aux=True), static_argnames=STATIC)


# --- A plain version --------------------------------------------------------------------


def plain_outputs(parameters, trajectory):
    """Mean and log standard deviation, (T, actions) float64, step by step."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters["params"])
    means, log_stds = [], []
    for row, frames in zip(trajectory.row, trajectory.proprioception, strict=True):
        # Two frames, the older first: before, the table's row, after; the frames interleaved.
        full = [
            np.concatenate([frames[0, :2], TABLE[row - 1], frames[0, 2:]]),
            np.concatenate([frames[1, :2], TABLE[row], frames[1, 2:]]),
        ]
        x = np.stack(full, axis=-1).reshape(-1)
        dense = layers["MLP_0"]["Dense_0"]
        x = np.tanh(x @ dense["kernel"] + dense["bias"])
        means.append(x @ layers["mean"]["kernel"] + layers["mean"]["bias"])
        log_stds.append(x @ layers["log_std"]["kernel"] + layers["log_std"]["bias"])
    return np.array(means), np.clip(log_stds, -20, 2)


def plain_log_probability(mean, log_std, action):
    """Of one action, by the change of variables (arXiv 1812.05905, equation 26)."""
    total = 0.0
    for m, s, a in zip(mean, log_std, action, strict=True):
        inside = min(max(float(a), -0.999), 0.999)
        u = math.atanh(inside)
        total += -0.5 * ((u - m) / math.exp(s)) ** 2 - s - 0.5 * math.log(2 * math.pi)
        total -= math.log(1 - inside**2)
    return total


def plain_score(parameters, trajectory, alpha, discount):
    means, log_stds = plain_outputs(parameters, trajectory)
    score = 0.0
    for t, (mean, log_std, action) in enumerate(
        zip(means, log_stds, trajectory.action, strict=True)
    ):
        score += discount**t * alpha * plain_log_probability(mean, log_std, action)
    return score


def plain_preference_loss(scores, weight, bias):
    """Loss and accuracy, preference by preference, as equation 5 has it."""
    losses, right = [], []
    for i, row in enumerate(weight):
        for j, times in enumerate(row):
            for _ in range(int(times)):
                above, below = math.exp(scores[i]), math.exp(bias * scores[j])
                losses.append(-math.log(above / (above + below)))
                right.append(scores[i] > scores[j])
    return (np.mean(losses), np.mean(right)) if losses else (0.0, 0.0)


def plain_loss(parameters, reference, batch, config):
    """The whole loss on segments `batch`; `reference` are the parameters at the beginning."""
    trajectories = [TRAJECTORIES[i] for i in batch]
    squares, likelihoods, weights = [], [], []
    weight = np.array([[WEIGHT[i, j] for j in batch] for i in batch])
    for number, trajectory in enumerate(trajectories):
        here, there = plain_outputs(parameters, trajectory), plain_outputs(reference, trajectory)
        for part in range(2):
            squares += ((here[part] - there[part]) ** 2).ravel().tolist()
        wins = 1.0 if config.method == "behavior-cloning" else weight[number].sum()
        for mean, log_std, action in zip(*here, trajectory.action, strict=True):
            likelihoods.append(wins * plain_log_probability(mean, log_std, action))
            weights.append(wins)
    total = config.conservative_weight * np.mean(squares)
    if config.method != "behavior-cloning":
        scores = [plain_score(parameters, t, config.alpha, config.discount) for t in trajectories]
        total += config.preference_weight * plain_preference_loss(scores, weight, config.bias)[0]
    if config.method != "cpl":
        total -= config.behavior_cloning_weight * np.sum(likelihoods) / np.sum(weights)
    return total


METHODS = [
    original(alpha=0.3, discount=0.9, contrastive_bias=0.5, conservative_weight=0.7),
    original(method="behavior-cloning", best_fraction=0.5, conservative_weight=0.7),
    original(
        method="cpl-behavior-cloning",
        alpha=0.3,
        contrastive_bias=0.75,
        behavior_cloning_weight=0.4,
        conservative_weight=0.7,
    ),
]
methods = pytest.mark.parametrize("config", METHODS, ids=lambda config: config.method)
BATCH = (0, 1, 2, 3, 0, 2)  # Drawn pairs may name a segment twice.


# --- The preference loss ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("bias", "by_hand"),
    [(1.0, math.log(1 + math.exp(-1.5))), (0.5, math.log(1 + math.exp(-1.25)))],
)
def test_preference_loss_of_one_pair_by_hand(bias, by_hand):
    score = jnp.array([1.0, -0.5])
    weight = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    loss, accuracy = cpl.preference_loss(score, weight, bias)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)
    assert float(accuracy) == 1.0
    loss, accuracy = cpl.preference_loss(score, weight.T, bias)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(bias * 1.0 + 0.5)), rel=1e-6)
    assert float(accuracy) == 0.0


@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_loss_of_two_segments_of_unequal_length_by_hand(bias):
    """One number an action; segment 0 has two control steps, segment 1 has one."""
    mean, std = [[0.2, -0.1], [0.4, 9.0]], [[0.5, 2.0], [1.0, 9.0]]
    action = [[0.3, -0.6], [0.1, 0.9]]
    distribution = TanhGaussian(
        jnp.asarray(mean)[..., None], jnp.log(jnp.asarray(std, jnp.float32))[..., None]
    )
    segments = cpl.Segments(
        observation=None,  # type: ignore[arg-type]
        action=jnp.asarray(action)[..., None],
        mask=jnp.array([[1.0, 1.0], [1.0, 0.0]]),
    )

    def log_density(i, t):
        u = math.atanh(action[i][t])
        exponent = -((u - mean[i][t]) ** 2) / (2 * std[i][t] ** 2)
        normal = math.exp(exponent) / (std[i][t] * math.sqrt(2 * math.pi))
        return math.log(normal / (1 - action[i][t] ** 2))

    alpha, discount = 0.7, 0.8
    preferred = alpha * (log_density(0, 0) + discount * log_density(0, 1))
    rejected = alpha * log_density(1, 0)
    expected = -math.log(math.exp(preferred) / (math.exp(preferred) + math.exp(bias * rejected)))
    score = cpl.segment_log_probability(distribution, segments, alpha, discount)
    np.testing.assert_allclose(score, [preferred, rejected], rtol=1e-5)
    loss, _ = cpl.preference_loss(score, jnp.array([[0.0, 1.0], [0.0, 0.0]]), bias)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@given(
    scores=st.lists(st.integers(-60, 60), min_size=2, max_size=5),
    bias=st.floats(0.05, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_preference_loss_is_the_plain_one_over_a_matrix_of_weights(scores, bias, seed):
    weight = np.random.default_rng(seed).integers(0, 3, (len(scores), len(scores)))
    np.fill_diagonal(weight, 0)
    scores = np.asarray(scores, np.float32) / 4
    loss, accuracy = cpl.preference_loss(
        jnp.asarray(scores), jnp.asarray(weight, jnp.float32), bias
    )
    expected = plain_preference_loss(scores.astype(np.float64), weight, bias)
    np.testing.assert_allclose([loss, accuracy], expected, rtol=1e-5, atol=1e-6)


def test_without_a_preference_the_loss_is_zero_and_so_is_its_gradient():
    def loss(score):
        return cpl.preference_loss(score, jnp.zeros((3, 3)), 1.0)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array([1.0, 2.0, 3.0]))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))


# --- The whole loss ---------------------------------------------------------------------


@methods
def test_whole_loss_is_the_plain_one(config):
    reference, parameters = make_parameters(0), make_parameters(1)
    problem = make_problem(config, parameters=reference)
    loss, metrics = loss_of(parameters, problem, jnp.array(BATCH), config, AGENT, LAYOUT)
    expected = plain_loss(parameters, reference, BATCH, config)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["loss"]) == float(loss)
    if config.method != "behavior-cloning":
        scores = [
            plain_score(parameters, TRAJECTORIES[i], config.alpha, config.discount) for i in BATCH
        ]
        weight = WEIGHT[np.ix_(BATCH, BATCH)]
        accuracy = plain_preference_loss(scores, weight, 1.0)[1]
        assert float(metrics["preference_accuracy"]) == pytest.approx(accuracy)


def test_gradient_of_the_whole_loss_is_that_of_finite_differences():
    config = METHODS[2]  # It has all parts.
    # JAX 0.11 has it in another place.
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else experimental.enable_x64
    with enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), make_parameters(1))
        problem = make_problem(config)
        problem = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf, problem
        )

        flat, restore = ravel_pytree(double)

        def loss(numbers):
            batch = jnp.array(BATCH)
            return cpl.loss(restore(numbers), problem, batch, config, AGENT, LAYOUT)[0]

        assert loss(flat).dtype == jnp.float64
        gradient, steps = jax.jit(jax.grad(loss))(flat), 1e-6 * jnp.eye(len(flat))
        above, below = jax.jit(jax.vmap(loss))(
            jnp.concatenate([flat + steps, flat - steps])
        ).reshape(2, -1)
        differences = (above - below) / 2e-6
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)
        assert np.abs(gradient).max() > 1e-3


def test_padded_control_steps_change_nothing():
    config = METHODS[2]  # It has all parts.
    parameters, batch = make_parameters(1), jnp.array([0, 1, 2, 3])

    def loss_and_gradient(problem):
        (value, _), gradient = differentiate(parameters, problem, batch, config, AGENT, LAYOUT)
        return [value, *jax.tree.leaves(gradient)]

    problem = make_problem(config)
    plain = loss_and_gradient(problem)
    # A further segment, longer than all, in no preference.
    weight = np.pad(WEIGHT, (0, 1))
    longer = make_problem(config, [*TRAJECTORIES, make_trajectory(9, 9)], weight)
    # Other numbers where a segment has ended.
    ended = problem.segments.mask == 0
    other = problem._replace(
        segments=problem.segments._replace(
            action=jnp.where(ended[..., None], 0.9, problem.segments.action)
        ),
        **{
            name: TanhGaussian(
                *(jnp.where(ended[..., None], 7.0, part) for part in getattr(problem, name))
            )
            for name in ("start", "reference")
        },
    )
    assert bool(ended.any())
    for changed in (longer, other):
        for here, there in zip(plain, loss_and_gradient(changed), strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-6)


def test_conservative_loss_begins_at_zero_with_its_gradient():
    config = original(preference_weight=0.0, conservative_weight=1.0)
    problem, batch = make_problem(config), jnp.arange(4)
    (value, _), gradient = differentiate(make_parameters(), problem, batch, config, AGENT, LAYOUT)
    assert float(value) == pytest.approx(0.0, abs=1e-10)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5
    (value, _), _ = differentiate(make_parameters(1), problem, batch, config, AGENT, LAYOUT)
    assert float(value) > 0.01


def test_conservative_loss_by_hand():
    here = TanhGaussian(jnp.array([[[1.0], [5.0]]]), jnp.array([[[2.0], [5.0]]]))
    there = TanhGaussian(jnp.array([[[0.0], [9.0]]]), jnp.array([[[5.0], [9.0]]]))
    # Of the first control step alone: (1 + 9) / 2.
    assert float(cpl.conservative_loss(here, there, jnp.array([[1.0, 0.0]]))) == 5.0


# --- The log-density --------------------------------------------------------------------


@given(mean=st.floats(-1.5, 1.5), log_std=st.floats(-3, 0.5), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_log_probability_is_that_of_sampling_away_from_the_edge(mean, log_std, seed):
    action, expected, found = _sample_and_ask(mean, log_std, jax.random.PRNGKey(seed))
    inside = np.abs(np.asarray(action)[:, 0]) < 0.998
    # Undoing the tanh in single precision costs up to 1e-7 / (1 - a^2) of the numbers before it.
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-3, atol=5e-3)


@jax.jit
def _sample_and_ask(mean, log_std, key):
    distribution = TanhGaussian(jnp.full((20, 1), mean), jnp.full((20, 1), log_std))
    action, log_probability = distribution.sample_with_log_probability(key)
    return action, log_probability, distribution.log_probability(action)


@given(
    action=st.floats(-1, 1) | st.sampled_from([-1.0, 1.0, -0.9999999, 0.0]),
    mean=st.floats(-1e4, 1e4) | st.sampled_from([-1e4, 1e4]),
    log_std=st.floats(-20, 2) | st.sampled_from([-20.0, 2.0]),
)
@settings(max_examples=200, deadline=None)
def test_log_probability_and_its_gradient_are_finite_everywhere(action, mean, log_std):
    value, gradient = _differentiate(jnp.float32(action), jnp.float32(mean), jnp.float32(log_std))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@jax.jit
def _differentiate(action, mean, log_std):
    def log_probability(action, mean, log_std):
        return TanhGaussian(mean[None], log_std[None]).log_probability(action[None])

    return jax.value_and_grad(log_probability, argnums=(0, 1, 2))(action, mean, log_std)


# --- Updates ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", METHODS[1:], ids=lambda config: config.method)
def test_five_steps_at_once_are_five_steps(config):
    problem = make_problem(config)
    begun = cpl.initial_state(make_parameters(), config, 3, EVERYTHING)
    together, reports = cpl.update(begun, problem, 5, config, AGENT, LAYOUT)
    state, batches = begun, []
    for _ in range(5):
        state, report = cpl.update(state, problem, 1, config, AGENT, LAYOUT)
        batches.append(np.asarray(report.batch[0]))
    np.testing.assert_array_equal(reports.batch, batches)
    np.testing.assert_array_equal(together.key, state.key)
    assert not np.array_equal(together.key, begun.key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        together.parameters,
        state.parameters,
    )
    # Of the four in pairs the best half: 0, preferred in 3 of 4, and 2, in 3 of 5.
    drawn_from = {0, 2} if config.method == "behavior-cloning" else {0, 1, 2, 3}
    assert set(np.unique(batches).tolist()) == drawn_from
    assert reports.batch.shape == (5, config.batch_size)
    assert bool(reports.finite.all())


def test_the_first_step_is_adam_s_on_a_shortened_gradient():
    config = original(learning_rate=1e-3, max_gradient_norm=1e-9, batch_size=4)
    problem = make_problem(config)
    begun = cpl.initial_state(make_parameters(1), config, 0, EVERYTHING)
    after, report = cpl.update(begun, problem, 1, config, AGENT, LAYOUT)
    _, gradient = differentiate(begun.parameters, problem, report.batch[0], config, AGENT, LAYOUT)
    norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
    assert float(report.metrics["gradient_norm"][0]) == pytest.approx(norm, rel=1e-4)

    def moved(parameter, g):
        short = g * 1e-9 / norm
        # Adam's first step: epsilon is no longer small beside so short a gradient.
        return parameter - 1e-3 * short / (jnp.abs(short) + 1e-8)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
        after.parameters,
        jax.tree.map(moved, begun.parameters, gradient),
    )


def ranked(count):
    """Preferences of segments of which each is better than those after it."""
    return np.triu(np.ones((count, count), np.float32), k=1)


def learn(config, weight, steps=300):
    problem = make_problem(config, weight=weight)
    begun = cpl.initial_state(make_parameters(), config, 0, EVERYTHING)
    state, _ = cpl.update(begun, problem, steps, config, AGENT, LAYOUT)
    before, after = (
        np.asarray(cpl.segment_scores(parameters, problem, config, AGENT, LAYOUT))
        for parameters in (begun.parameters, state.parameters)
    )
    return before, after


@pytest.mark.parametrize("method", ["cpl", "cpl-behavior-cloning"])
def test_preferences_are_learnt(method):
    weight = ranked(len(TRAJECTORIES))[::-1, ::-1].copy()  # The last segment is the best.
    config = original(
        method=method,
        contrastive_bias=1.0,
        learning_rate=1e-2,
        conservative_weight=0.0,
        behavior_cloning_weight=0.01,
    )
    before, after = learn(config, weight)
    losses, accuracies = zip(
        *(cpl.preference_loss(jnp.asarray(s), jnp.asarray(weight), 1.0) for s in (before, after)),
        strict=True,
    )
    assert float(accuracies[0]) < 1.0
    assert float(accuracies[1]) == 1.0
    assert float(losses[1]) < 0.5 * float(losses[0])


def test_behavior_cloning_makes_the_best_likelier():
    config = original(method="behavior-cloning", learning_rate=1e-2, best_fraction=0.4)
    before, after = learn(config, ranked(len(TRAJECTORIES)))
    assert (after[:2] > before[:2] + 0.1).all()


def test_scores_of_all_segments_are_the_plain_ones():
    config, parameters = original(alpha=0.4, discount=0.9), make_parameters(1)
    scores = cpl.segment_scores(parameters, make_problem(config), config, AGENT, LAYOUT)
    expected = [plain_score(parameters, t, 0.4, 0.9) for t in TRAJECTORIES]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"alpha": 0.0},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"learning_rate": -1.0},
        {"max_gradient_norm": 0.0},
        {"preference_weight": -0.1},
        {"preference_weight": math.inf},
        {"conservative_weight": -0.1},
        {"behavior_cloning_weight": -0.1},
        {"discount": 0.0},
        {"discount": 1.1},
        {"contrastive_bias": 0.0},
        {"contrastive_bias": 1.5},
        {"best_fraction": 0.0},
        {"batch_size": 3},
        {"batch_size": 0},
    ],
)
def test_settings_out_of_range_name_the_flag(values):
    (name,) = values
    with pytest.raises(BadInput, match=f"--{name.replace('_', '-')} is"):
        original(**values)


# --- The fine-tuner ---------------------------------------------------------------------

TUNED_LAYOUT = ObservationLayout(before=4, features=3, after=PROPRIOCEPTION - 4)
LEARNER = LearnerConfig(agent_config=SACConfig(hidden_dims=(8,)))


@pytest.fixture
def make_tuner(tmp_path):
    """A fine-tuner of random segments, of which the lower number is the better."""
    collection = make_collection(tmp_path / "collections", segments=5, video=False)
    state = sac.initial_state(LEARNER, TUNED_LAYOUT.observation_dim, ACTIONS, seed=0)
    base = checkpoint.pack(state, {"song": "x"})

    def make(
        config,
        learner_config=LEARNER,
        damage=lambda trajectory: trajectory,
        training=None,
        validation=None,
        round_base=None,
    ):
        trajectories = {one.name: one.trajectory() for one in collection.segments()}
        trajectories["0003"] = damage(trajectories["0003"])
        weights = {
            "training": ranked(5) if training is None else training,
            "validation": np.zeros((5, 5), np.float32) if validation is None else validation,
        }
        table = np.zeros((ROWS, 3), np.uint8)
        rounds = [Round(trajectories, round_base, learner_config.agent_config)]
        tuner = FineTuner(
            rounds, base, weights, config, learner_config, TUNED_LAYOUT, table, seed=0
        )
        assert tuner.load().device == "cpu"
        return tuner

    return make


def test_fine_tuner_learns_and_leaves_all_but_the_policy(make_tuner, tmp_path):
    tuner = make_tuner(original(learning_rate=1e-2, conservative_weight=0.0))
    before = tuner.measure()
    assert tuner.tune(25).step == 25
    assert tuner.tune(285).step == 310
    after = tuner.measure()
    # No pair is held out.
    assert set(after) == {"training/preference_loss", "training/preference_accuracy"}
    assert before["training/preference_accuracy"] < after["training/preference_accuracy"] == 1.0
    packed = tuner.checkpoint({"song": "x"})
    folder = packed.write(tmp_path / "checkpoints")
    assert folder.name == "step_000000310"
    assert checkpoint.load_description(folder) == {
        "song": "x",
        "learner_steps": 310,
        "share": 1.0,
        "written_by": program(),
    }
    template = sac.initial_state(LEARNER, TUNED_LAYOUT.observation_dim, ACTIONS, seed=1)
    base = sac.initial_state(LEARNER, TUNED_LAYOUT.observation_dim, ACTIONS, seed=0)
    saved = checkpoint.load_state(packed, template)
    assert int(saved.step) == 310
    assert not all(
        np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (base.actor, saved.actor)), strict=True)
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        saved._replace(actor=base.actor, step=base.step),
        base,
    )


def spoil(value):
    def spoiled(trajectory):
        proprioception = trajectory.proprioception.copy()
        proprioception[5, 0, 2] = value
        return dataclasses.replace(trajectory, proprioception=proprioception)

    return spoiled


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_segment_that_is_no_number_is_named_with_step_and_checkpoint(make_tuner, value):
    # So many segments in a step that the spoilt one is among the first.
    tuner = make_tuner(original(batch_size=64), damage=spoil(value))
    with pytest.raises(
        NotFinite, match=r"^step 1: .* in segments 0003; .* the one that it began with"
    ):
        tuner.tune(3)
    saved = tuner.checkpoint({}).name
    with pytest.raises(NotFinite, match=f"in segments 0003; the last good checkpoint is {saved}"):
        tuner.tune(3)


def test_a_gradient_that_is_no_number_is_seen_where_the_loss_is_one(make_tuner):
    """The tanh of infinity is 1, but nothing can be said of its slope."""
    saturating = LearnerConfig(agent_config=SACConfig(hidden_dims=(8,), activation="tanh"))
    tuner = make_tuner(original(batch_size=64), saturating, spoil(math.inf))
    assert np.isfinite(tuner.measure()["training/preference_loss"])
    with pytest.raises(NotFinite, match=r"^step 1: .* in segments .*0003"):
        tuner.tune(3)


def test_a_policy_that_breaks_down_names_its_step_and_batch(make_tuner):
    tuner = make_tuner(original(batch_size=64, learning_rate=1e38, alpha=1.0))
    with pytest.raises(NotFinite, match=r"^step 2: .* in segments 0000, 0001, 0002, 0003, 0004;"):
        tuner.tune(3)
    # What was good is kept.
    assert np.isfinite(tuner.measure()["training/preference_loss"])


def test_a_checkpoint_of_another_network_is_refused(make_tuner):
    wider = LearnerConfig(agent_config=SACConfig(hidden_dims=(16,)))
    with pytest.raises(BadInput, match="of another network"):
        make_tuner(original(), wider)


# --- Relative to the reference policy -----------------------------------------------------------


RELATIVE = cpl.CPLConfig(alpha=0.3, discount=0.9, kl_weight=0.0)


def test_at_the_start_every_margin_is_zero():
    problem = make_problem(RELATIVE)
    scores = cpl.segment_scores(make_parameters(), problem, RELATIVE, AGENT, LAYOUT)
    np.testing.assert_allclose(scores, 0.0, atol=1e-6)
    _, metrics = loss_of(make_parameters(), problem, np.array([0, 1, 2]), RELATIVE, AGENT, LAYOUT)
    assert metrics["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_relative_scores_are_differences_of_the_plain_ones():
    problem, parameters = make_problem(RELATIVE), make_parameters(1)
    scores = cpl.segment_scores(parameters, problem, RELATIVE, AGENT, LAYOUT)
    for score, trajectory in zip(scores, TRAJECTORIES, strict=True):
        plain = [plain_score(p, trajectory, 0.3, 0.9) for p in (parameters, make_parameters())]
        assert score == pytest.approx(plain[0] - plain[1], rel=1e-4, abs=1e-5)


def test_equal_segments_give_no_gradient():
    twins = [TRAJECTORIES[1]] * len(TRAJECTORIES)
    problem = make_problem(RELATIVE, twins)
    (_, _), gradient = differentiate(
        make_parameters(1), problem, np.array([0, 1, 2]), RELATIVE, AGENT, LAYOUT
    )
    np.testing.assert_allclose(ravel_pytree(gradient)[0], 0.0, atol=1e-6)


@pytest.mark.parametrize("units", [2.0, 10.0])
def test_scaling_the_units_of_actions_changes_no_relative_score(units):
    """Before the tanh: the density of scaled actions changes by a constant, which cancels."""
    random = np.random.default_rng(3)
    raw, here, there = (random.normal(size=(1, 4, ACTION_DIM)) for _ in range(3))
    log_std = random.normal(size=(1, 4, ACTION_DIM))

    def difference(scale):
        def log_density(mean):
            noise = (scale * raw - scale * mean) / (scale * np.exp(log_std))
            return np.sum(-0.5 * noise**2 - log_std - math.log(scale), axis=-1)

        return log_density(here) - log_density(there)

    np.testing.assert_allclose(difference(units), difference(1.0))
    gaussians = [TanhGaussian(jnp.asarray(mean), jnp.asarray(log_std)) for mean in (here, there)]
    action = jnp.tanh(jnp.asarray(raw))
    ours = gaussians[0].log_probability(action) - gaussians[1].log_probability(action)
    np.testing.assert_allclose(ours, difference(1.0), rtol=1e-3, atol=1e-3)


def test_kl_divergence_by_hand():
    here = TanhGaussian(jnp.array([[[1.0], [5.0]]]), jnp.array([[[math.log(2.0)], [0.0]]]))
    there = TanhGaussian(jnp.array([[[0.0], [0.0]]]), jnp.array([[[0.0], [0.0]]]))
    # ln(1 / 2) + (4 + 1) / 2 - 1 / 2; the second step is padding.
    by_hand = math.log(0.5) + 2.5 - 0.5
    mask = jnp.array([[1.0, 0.0]])
    assert cpl.kl_divergence(here, there, mask) == pytest.approx(by_hand, rel=1e-5)
    assert cpl.kl_divergence(there, there, mask) == 0


def test_a_member_learns_from_its_own_segments_alone():
    problem = make_problem(RELATIVE)
    included = np.array([True, True, False, True, False])
    state = cpl.initial_state(make_parameters(), RELATIVE, 3, included)
    _, report = cpl.update(state, problem, 30, RELATIVE, AGENT, LAYOUT)
    assert set(np.unique(report.batch)) == {0, 1, 3}


def test_members_together_are_each_by_itself():
    problem = make_problem(RELATIVE)
    states = [cpl.initial_state(make_parameters(), RELATIVE, seed, EVERYTHING) for seed in (3, 4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together, _ = cpl.update_members(stacked, problem, 3, RELATIVE, AGENT, LAYOUT)
    for number, state in enumerate(states):
        alone, _ = cpl.update(state, problem, 3, RELATIVE, AGENT, LAYOUT)
        jax.tree.map(
            lambda a, b, number=number: np.testing.assert_allclose(
                a[number], b, rtol=1e-4, atol=1e-5
            ),
            together.parameters,
            alone.parameters,
        )


def test_a_share_of_the_way_is_on_the_line_from_the_start_to_the_average(make_tuner, tmp_path):
    tuner = make_tuner(cpl.CPLConfig(learning_rate=1e-2, members=3))
    tuner.tune(20)
    found = {}
    for share in (0.0, 0.5, 1.0, 2.0):
        folder = tuner.checkpoint({}, share).write(tmp_path / f"share-{share}")
        arrays = safetensors.numpy.load_file(folder / "training_state.safetensors")
        found[share] = np.concatenate(
            [arrays[name].ravel() for name in sorted(arrays) if name.startswith(".actor[")]
        )
    way = found[1.0] - found[0.0]
    assert np.abs(way).max() > 1e-3
    for share in (0.5, 2.0):
        np.testing.assert_allclose(found[share] - found[0.0], share * way, atol=1e-5)


# --- Several rounds -----------------------------------------------------------------------------


def test_each_round_is_scored_relative_to_its_own_base():
    now, first, second = (make_parameters(seed) for seed in (1, 0, 2))
    bases = [cpl.Base(first, AGENT, [0, 2]), cpl.Base(second, AGENT, [3])]
    problem = cpl.make_problem(
        *(TRAJECTORIES, WEIGHT, TABLE, now, RELATIVE, AGENT, LAYOUT), bases=bases
    )
    scores = cpl.segment_scores(now, problem, RELATIVE, AGENT, LAYOUT)
    # At the start, what the rounds since then have gained; without a base, nothing.
    for number, base in enumerate((first, now, first, second, now)):
        plain = [plain_score(one, TRAJECTORIES[number], 0.3, 0.9) for one in (now, base)]
        assert scores[number] == pytest.approx(plain[0] - plain[1], rel=1e-4, abs=1e-5)
    assert abs(float(scores[0])) > 0.01


@pytest.mark.parametrize("config", [cpl.CPLConfig(), original()], ids=lambda one: one.method)
def test_what_is_kept_is_the_policy_that_is_fine_tuned(config):
    """Neither divergence nor conservative loss knows where earlier rounds began."""
    bases = [cpl.Base(make_parameters(0), AGENT, range(5))]
    now = make_parameters(1)
    problem = cpl.make_problem(
        *(TRAJECTORIES, WEIGHT, TABLE, now, config, AGENT, LAYOUT), bases=bases
    )
    _, metrics = loss_of(now, problem, jnp.arange(4), config, AGENT, LAYOUT)
    name = "kl_divergence" if config.is_relative else "conservative_loss"
    assert float(metrics[name]) == pytest.approx(0.0, abs=1e-5)


def test_a_base_may_have_another_network():
    wide = SACConfig(hidden_dims=(16,), activation="relu")
    state = sac.initial_state(
        LearnerConfig(agent_config=wide), LAYOUT.observation_dim, ACTION_DIM, 4
    )
    bases = [cpl.Base(state.actor, wide, [1])]
    problem = cpl.make_problem(
        *(TRAJECTORIES, WEIGHT, TABLE, make_parameters(), RELATIVE, AGENT, LAYOUT), bases=bases
    )
    segments = cpl.pad(TRAJECTORIES)
    theirs = cpl.outputs(state.actor, segments, jnp.asarray(TABLE), wide, LAYOUT)
    for found, expected in zip(problem.reference, theirs, strict=True):
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_the_base_of_a_round_is_loaded(make_tuner):
    other = sac.initial_state(LEARNER, TUNED_LAYOUT.observation_dim, ACTIONS, seed=5)
    config = cpl.CPLConfig(members=2)
    loss = "training/preference_loss"
    same = make_tuner(config).measure()[loss]
    moved = make_tuner(config, round_base=checkpoint.pack(other, {})).measure()[loss]
    assert same == pytest.approx(math.log(2), abs=1e-4)
    assert abs(moved - same) > 1e-3
    wider = LearnerConfig(agent_config=SACConfig(hidden_dims=(16,)))
    another = sac.initial_state(wider, TUNED_LAYOUT.observation_dim, ACTIONS, seed=5)
    with pytest.raises(BadInput, match="of another network"):
        make_tuner(config, round_base=checkpoint.pack(another, {}))


# --- When to stop -------------------------------------------------------------------------------


def actor_of(tuner, share=1.0):
    arrays = safetensors.numpy.load(tuner.checkpoint({}, share).files["training_state.safetensors"])
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays) if ".actor[" in name])


def test_it_returns_to_the_step_of_the_least_held_out_loss(make_tuner):
    # The held-out pairs are those that are learnt from, reversed: every step makes them worse.
    tuner = make_tuner(cpl.CPLConfig(learning_rate=1e-3, members=2), validation=ranked(5).T.copy())
    losses, actors = [], []
    tuner.measure()
    for _ in range(3):
        tuner.tune(10)
        losses.append(tuner.measure()["validation/preference_loss"])
        actors.append(actor_of(tuner))
    assert losses == sorted(losses)
    assert losses[0] > math.log(2)  # That of the start, to which it does not return.
    assert tuner.stop() == 10
    np.testing.assert_array_equal(actor_of(tuner), actors[0])
    assert np.abs(actors[2] - actors[0]).max() > 1e-4
    assert tuner.measure()["validation/preference_loss"] == pytest.approx(losses[0])
    # The number of steps that were taken names the checkpoint: it is the run's newest.
    assert tuner.checkpoint({}).name == "step_000000030"


def test_it_goes_on_as_long_as_the_held_out_loss_falls(make_tuner):
    tuner = make_tuner(cpl.CPLConfig(learning_rate=1e-3, members=1), validation=ranked(5))
    for _ in range(3):
        tuner.tune(10)
        tuner.measure()
    assert tuner.stop() == 30


def test_too_few_held_out_pairs_choose_no_step(make_tuner):
    validation = ranked(5).T.copy()
    validation[4, 0] = 0  # Nine are left.
    tuner = make_tuner(cpl.CPLConfig(learning_rate=1e-3, members=2), validation=validation)
    for _ in range(2):
        tuner.tune(10)
        tuner.measure()
    last = actor_of(tuner)
    assert tuner.stop() is None
    np.testing.assert_array_equal(actor_of(tuner), last)


def test_one_policy_learns_from_all_where_pairs_are_too_few_for_members(make_tuner):
    one_pair = np.zeros((5, 5), np.float32)
    one_pair[0, 1] = 1
    settings = cpl.CPLConfig(members=6, member_fraction=0.05)
    assert make_tuner(settings, training=one_pair).load().members == 1
    assert make_tuner(settings, training=ranked(5)).load().members == 6
    assert make_tuner(original()).load().members == 1


def test_the_start_is_the_policy_that_it_began_with_bit_by_bit(make_tuner):
    """A mean of equal weights is rounded, which chaotic performances show."""
    tuner = make_tuner(cpl.CPLConfig(learning_rate=1e-2, members=6))
    begun = sac.initial_state(LEARNER, TUNED_LAYOUT.observation_dim, ACTIONS, seed=0)
    arrays = safetensors.numpy.load(checkpoint.pack(begun, {}).files["training_state.safetensors"])
    expected = [arrays[name].ravel() for name in sorted(arrays) if ".actor[" in name]
    tuner.tune(10)
    np.testing.assert_array_equal(actor_of(tuner, share=0.0), np.concatenate(expected))
