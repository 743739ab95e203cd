"""How variations become actions, on a small network that is computed here once more by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from learner.config import SACConfig
from learner.networks import Actor
from learner.networks import policy as distribution_of
from learner.observation import ObservationLayout, assemble
from learner.policy import Policy
from replay.transition import Observation
from rlhf.variation import Variation
from rlhf.varied_policy import VariedPolicy

CONFIG = SACConfig(hidden_dims=(16, 8))
LAYOUT = ObservationLayout(before=2, features=5, after=3, frames=2)
ACTIONS, ROWS, FIRST_ROW, LAST_ROW = 4, 30, 11, 17
TABLE = np.random.default_rng(0).integers(0, 2, (ROWS, 5)).astype(np.uint8)


def held_table(hold):
    """Some other table for each number of control steps."""
    return TABLE if hold == 0 else np.roll(1 - TABLE, hold, axis=0)


@pytest.fixture(scope="module")
def parameters():
    network = Actor(CONFIG, ACTIONS)
    return network.init(jax.random.PRNGKey(3), np.zeros((1, LAYOUT.observation_dim)))


@pytest.fixture(scope="module")
def policy(parameters):
    return Policy(CONFIG, LAYOUT, TABLE, parameters)


def observations(count=6):
    random = np.random.default_rng(1)
    return [
        Observation(random.normal(size=(2, 5)).astype(np.float32), np.int32(FIRST_ROW + step))
        for step in range(count)
    ]


def play(policy, variation, seed=0, count=6):
    varied = VariedPolicy(policy, variation, seed, (FIRST_ROW, LAST_ROW), held_table)
    played = [varied.act(observation) for observation in observations(count)]
    return (
        np.array([one.action for one in played]),
        np.array([one.log_probability for one in played]),
    )


def network(parameters, table=TABLE, delay=0, count=6):
    """Mean and deviation before the tanh, at goals of another table or of earlier steps."""
    means, deviations = [], []
    for observation in observations(count):
        row = np.int32(np.clip(observation.goal_index - delay, FIRST_ROW, LAST_ROW))
        assembled = assemble(LAYOUT, table, observation._replace(goal_index=row))
        mean, log_std = distribution_of(CONFIG, parameters, assembled)
        means.append(np.asarray(mean))
        deviations.append(np.exp(np.asarray(log_std)))
    return np.array(means), np.array(deviations)


def raw(actions):
    return np.arctanh(np.asarray(actions, np.float64))


def assert_close(here, there, atol=2e-5):
    np.testing.assert_allclose(here, there, rtol=0, atol=atol)


def test_without_variation_it_is_exactly_the_deterministic_play(policy):
    for seed in (0, 1):
        actions, _ = play(policy, Variation(), seed)
        for action, observation in zip(actions, observations(), strict=True):
            np.testing.assert_array_equal(action, policy.mode(observation.batch_of_one())[0])


def test_amplitude_is_a_factor_on_the_mean_before_the_tanh(policy, parameters):
    mean, _ = network(parameters)
    for amplitude in (0.5, 1.3):
        assert_close(raw(play(policy, Variation(amplitude=amplitude))[0]), amplitude * mean)


@pytest.mark.parametrize("share", [0.3, -0.3])
def test_smoothing_mixes_with_the_action_before(policy, parameters, share):
    """A negative share sharpens, and what leaves the range of actions is clipped."""
    plain = np.tanh(network(parameters)[0])
    actions, _ = play(policy, Variation(smoothing=share))
    assert_close(actions[0], plain[0])
    for before, action, alone in zip(actions[:-1], actions[1:], plain[1:], strict=True):
        assert_close(action, np.clip((1 - share) * alone + share * before, -1, 1))
    change, without = (np.abs(np.diff(one, axis=0)).mean() for one in (actions, plain))
    assert change < without if share > 0 else change > without


def test_sharpened_actions_stay_in_range(policy):
    actions, log_probabilities = play(policy, Variation(amplitude=50.0, smoothing=-1.0))
    assert np.abs(actions).max() == 1.0
    assert np.isfinite(log_probabilities).all()


@pytest.mark.parametrize(
    ("hold", "shares"), [(1, {1: 1}), (-2, {-2: 1}), (0.25, {0: 0.75, 1: 0.25})]
)
def test_hold_mixes_outputs_for_notes_that_end_later_or_earlier(policy, parameters, hold, shares):
    expected = sum(
        share * network(parameters, held_table(steps))[0] for steps, share in shares.items()
    )
    assert_close(raw(play(policy, Variation(hold=hold))[0]), expected)


@pytest.mark.parametrize(
    ("delay", "shares"),
    [(1, {1: 1}), (2.5, {2: 0.5, 3: 0.5}), (-2, {-2: 1}), (-0.25, {-1: 0.25, 0: 0.75})],
)
def test_delay_mixes_outputs_for_earlier_or_later_goals(policy, parameters, delay, shares):
    """Goals reach neither back beyond the beginning of the song nor beyond its end."""
    expected = sum(share * network(parameters, delay=steps)[0] for steps, share in shares.items())
    assert_close(raw(play(policy, Variation(delay=delay))[0]), expected)


def test_hold_and_delay_mix_together(policy, parameters):
    expected = sum(
        share * network(parameters, held_table(hold), delay)[0]
        for hold, delay, share in ((-1, 0, 0.25), (-1, 1, 0.25), (0, 0, 0.25), (0, 1, 0.25))
    )
    assert_close(raw(play(policy, Variation(hold=-0.5, delay=0.5))[0]), expected)


def changes(policy, parameters, variation, seeds=60):
    """Changes of the mean in units of the policy's own deviation, (seeds, steps, actions)."""
    mean, deviation = network(parameters)
    drawn = np.array([play(policy, variation, seed)[0] for seed in range(seeds)])
    return (raw(drawn) - mean) / deviation


def test_an_offset_is_drawn_once_in_units_of_the_deviation(policy, parameters):
    drawn = changes(policy, parameters, Variation(offset=0.5))
    assert_close(drawn, drawn[:, :1].repeat(6, axis=1), atol=1e-3)
    assert 0.4 < drawn[:, 0].std() < 0.6
    assert abs(drawn[:, 0].mean()) < 0.12
    twice = changes(policy, parameters, Variation(offset=1.0), seeds=3)
    assert_close(twice, 2 * drawn[:3], atol=1e-3)


def test_weights_are_drawn_once_and_change_the_mean_by_their_size(policy, parameters):
    drawn = changes(policy, parameters, Variation(weights=0.5))
    assert 0.4 < drawn.std() < 0.6
    # They are no mere offset: each observation has a change of its own, which lasts.
    assert np.diff(drawn, axis=1).std() > 0.2
    varied = VariedPolicy(policy, Variation(weights=0.5), 0, (FIRST_ROW, LAST_ROW), held_table)
    here, there = observations(2)
    first, _, again = (varied.act(observation).action for observation in (here, there, here))
    np.testing.assert_array_equal(first, again)


def test_sampling_is_independent_at_each_step(policy, parameters):
    drawn = changes(policy, parameters, Variation(temperature=0.5))
    assert 0.45 < drawn.std() < 0.55
    assert abs(np.corrcoef(drawn[:, 0].ravel(), drawn[:, 5].ravel())[0, 1]) < 0.2


def test_noise_is_added_after_the_tanh(policy, parameters):
    mean, _ = network(parameters)
    drawn = np.array([play(policy, Variation(noise=0.05), seed)[0] for seed in range(60)])
    added = drawn - np.tanh(mean)
    inside = np.abs(drawn) < 1
    assert 0.04 < added[inside].std() < 0.06
    loud = play(policy, Variation(noise=3.0))[0]
    assert (np.abs(loud) == 1).any()
    assert np.abs(loud).max() == 1


@pytest.mark.parametrize(
    "variation",
    [
        Variation(),
        Variation(amplitude=1.2, smoothing=0.2, hold=-0.5, delay=0.25),
        Variation(offset=0.5, weights=0.5, temperature=0.3, noise=0.1),
    ],
)
def test_the_log_probability_is_the_policy_s_own(policy, parameters, variation):
    """At the goals as they are, whatever goals the variation saw; by the change of variables."""
    actions, log_probabilities = play(policy, variation)
    mean, deviation = network(parameters)
    inside = np.clip(actions.astype(np.float64), -0.999, 0.999)
    normal = -0.5 * ((np.arctanh(inside) - mean) / deviation) ** 2
    normal -= np.log(deviation) + 0.5 * np.log(2 * np.pi)
    expected = np.sum(normal - np.log(1 - inside**2), axis=-1)
    np.testing.assert_allclose(log_probabilities, expected, rtol=1e-3, atol=0.01)


def test_the_same_variation_and_seed_play_the_same(policy):
    variation = Variation(
        amplitude=0.9, hold=0.5, offset=0.4, weights=0.4, temperature=0.4, noise=0.05
    )
    here, there = play(policy, variation, seed=7), play(policy, variation, seed=7)
    np.testing.assert_array_equal(here[0], there[0])
    for name in ("offset", "weights", "temperature", "noise"):
        alone = dataclasses.replace(Variation(), **{name: 0.4})
        assert not np.array_equal(play(policy, alone, 7)[0], play(policy, alone, 8)[0])
