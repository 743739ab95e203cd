"""The noise that an actor plays with."""

import jax.numpy as jnp
import numpy as np
import pytest

from actors.actor import CorrelatedNoise
from learner.networks import TanhGaussian


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_noise_is_standard_normal_and_correlated_as_wanted(correlation):
    noise = CorrelatedNoise(correlation, (3, 4), np.random.default_rng(0))
    drawn = np.array([noise.draw() for _ in range(20_000)])
    assert (drawn.shape, drawn.dtype) == ((20_000, 3, 4), np.float32)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), 1, atol=0.05)
    after_one = (drawn[1:] * drawn[:-1]).mean(axis=0)
    np.testing.assert_allclose(after_one, correlation, atol=0.05)
    after_three = (drawn[3:] * drawn[:-3]).mean(axis=0)
    np.testing.assert_allclose(after_three, correlation**3, atol=0.05)
    # Each number by itself.
    assert abs((drawn[:, 0, 0] * drawn[:, 2, 3]).mean()) < 0.1


def test_noise_draws_from_the_policy():
    mean, log_std, noise = jnp.array([0.3, -2.0]), jnp.array([-1.0, 0.5]), jnp.array([1.0, -0.5])
    distribution = TanhGaussian(mean, log_std)
    np.testing.assert_allclose(
        distribution.action(noise), np.tanh(mean + np.exp(log_std) * noise), rtol=1e-5
    )
    np.testing.assert_allclose(distribution.action(jnp.zeros(2)), distribution.mode(), rtol=1e-6)
