"""The policy that actors play by, against the one that learns."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from learner.config import SACConfig
from learner.networks import Actor, policy
from learner.numpy_policy import NumpyPolicy
from learner.observation import ObservationLayout, active_goals, assemble
from replay.transition import Observation

ACTION_DIM = 5


@pytest.fixture(params=[1, 3])
def layout(request):
    return ObservationLayout(before=6, features=20, after=4, frames=request.param)


def problem(layout, activation, scale=3.0):
    """Network, table, parameters that matter, and observations."""
    random = np.random.default_rng(0)
    config = SACConfig(hidden_dims=(16, 8), activation=activation)
    whole = random.integers(0, 2, (30, layout.features)).astype(np.uint8)
    whole[:, ::3] = 0
    active = active_goals(layout, whole)
    shape = (1, active.layout.observation_dim)
    begun = Actor(config, ACTION_DIM).init(jax.random.PRNGKey(0), np.zeros(shape))
    parameters = jax.tree.map(lambda leaf: np.asarray(scale * leaf), begun)
    observation = Observation(
        random.normal(size=(7, layout.frames, layout.proprioception_dim)).astype(np.float32),
        random.integers(layout.frames - 1, 30, 7).astype(np.int32),
    )
    return config, active, parameters, observation


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_its_distribution_is_that_of_the_network(layout, activation):
    config, active, parameters, observation = problem(layout, activation)
    ours = NumpyPolicy(config, active.layout, active.table, parameters).distribution(observation)
    there = jax.tree.map(jax.numpy.asarray, observation)
    theirs = policy(config, parameters, assemble(active.layout, active.table, there))
    np.testing.assert_allclose(ours[0], theirs.mean, atol=2e-5)
    np.testing.assert_allclose(ours[1], theirs.log_std, atol=2e-5)
    assert ours[0].dtype == ours[1].dtype == np.float32
    assert np.ptp(ours[0]) > 0.5


def test_what_it_draws_is_of_that_distribution(layout):
    config, active, parameters, observation = problem(layout, "gelu", scale=0.7)
    acting = NumpyPolicy(config, active.layout, active.table, parameters)
    mean, log_std = acting.distribution(observation)
    random = np.random.default_rng(1)
    draws = np.stack([acting.sample(observation, random) for _ in range(4000)])
    assert draws.dtype == np.float32
    assert np.abs(draws).max() <= 1
    inside = np.arctanh(np.clip(draws.astype(np.float64), -1 + 1e-7, 1 - 1e-7))
    fair = np.abs(mean) + 4 * np.exp(log_std) < 6  # Elsewhere the tanh has lost it.
    assert fair.mean() > 0.5
    error = np.exp(log_std) / np.sqrt(len(draws))
    assert (np.abs(inside.mean(axis=0) - mean) < 6 * error)[fair].all()
    assert (np.abs(inside.std(axis=0) / np.exp(log_std) - 1) < 0.1)[fair].all()


def test_an_actor_imports_no_jax():
    """Each core of a machine has one: half the memory, and seconds less to start."""
    code = "import sys, actors.actor; print('jax' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True
    )
    assert said.stdout.splitlines()[-1] == "False"  # Libraries say something, too.
