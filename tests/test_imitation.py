"""Imitation: a policy learns to play by itself what it was made to play."""

import jax
import numpy as np
import pytest

from learner.config import SACConfig
from learner.networks import Actor, policy
from learner.observation import ObservationLayout, assemble
from replay.transition import Observation
from rlhf import imitation

CONFIG = SACConfig(hidden_dims=(32, 32))
LAYOUT = ObservationLayout(before=2, features=5, after=3, frames=2)
ACTIONS, ROWS, STEPS = 4, 30, 400
TABLE = np.random.default_rng(0).integers(0, 2, (ROWS, 5)).astype(np.uint8)


@pytest.fixture(scope="module")
def parameters():
    return Actor(CONFIG, ACTIONS).init(jax.random.PRNGKey(3), np.zeros((1, LAYOUT.observation_dim)))


def outputs(parameters, shown):
    observation = Observation(shown.proprioception, shown.goal_index)
    return policy(CONFIG, parameters, assemble(LAYOUT, TABLE, observation))


def demonstrate(parameters, gain, seed=0):
    """What the policy would play with its means multiplied."""
    random = np.random.default_rng(seed)
    shown = imitation.Demonstration(
        random.normal(size=(STEPS, 2, 5)).astype(np.float32),
        random.integers(0, ROWS, STEPS).astype(np.int32),
        np.zeros((STEPS, ACTIONS), np.float32),
    )
    return shown._replace(intended=np.tanh(gain * np.asarray(outputs(parameters, shown).mean)))


def imitate(parameters, *shown):
    return imitation.imitate(parameters, shown, TABLE, CONFIG, LAYOUT, seed=0)


def test_the_intended_actions_are_learnt_and_the_deviation_stays(parameters):
    learnt = imitate(parameters, demonstrate(parameters, 0.7, 1), demonstrate(parameters, 0.7, 2))
    assert learnt.loss.shape == (imitation.STEPS,)
    assert learnt.loss[-20:].mean() < 0.1 * learnt.loss[0]
    fresh = demonstrate(parameters, 0.7, seed=3)
    before, after = outputs(parameters, fresh), outputs(learnt.parameters, fresh)
    ratio = np.sum(after.mean * before.mean) / np.sum(before.mean**2)
    assert ratio == pytest.approx(0.7, abs=0.05)
    assert np.abs(after.log_std - before.log_std).mean() < 0.1


def test_the_first_loss_is_the_formula(parameters):
    shown = demonstrate(parameters, 0.5)
    # All control steps alike, so that the batch does not matter.
    shown = imitation.Demonstration(*(np.repeat(array[:1], STEPS, axis=0) for array in shown))
    before = outputs(parameters, shown)
    mean, std = np.asarray(before.mean[0]), np.exp(np.asarray(before.log_std[0]))
    by_hand = np.sum(((mean - np.arctanh(shown.intended[0])) / std) ** 2)
    assert imitate(parameters, shown).loss[0] == pytest.approx(by_hand, rel=1e-4)


def test_what_is_played_already_changes_nothing(parameters):
    learnt = imitate(parameters, demonstrate(parameters, 1.0))
    assert learnt.loss.max() < 1e-3


def test_actions_at_the_edge_are_finite(parameters):
    shown = demonstrate(parameters, 1.0)
    learnt = imitate(parameters, shown._replace(intended=np.sign(shown.intended)))
    assert np.isfinite(learnt.loss).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learnt.parameters))
