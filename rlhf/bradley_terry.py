"""The Bradley-Terry model: from comparisons to how strong each of several things is.

    P(i is preferred over j) = 1 / (1 + exp(θⱼ - θᵢ))

Bradley and Terry, "Rank analysis of incomplete block designs", Biometrika 39, 1952. The strengths θ
have a Gaussian prior, so that the fit exists for any answers; the posterior is approximated by a
Gaussian at its maximum (Laplace), found by Newton's method.
"""

import numpy as np
import scipy.special

PRIOR_DEVIATION = 2.0
"""Standard deviation of the prior of each strength. Of two things drawn from it, the better one is
preferred with a probability of 0.83 in the mean: most of what is compared can be told apart."""
_LARGEST_STEP = 1e-9
_MOST_STEPS = 100


def probability_better(wins: np.ndarray) -> np.ndarray:
    """How probable it is that one thing is stronger than another, given the comparisons.

    Args:
        wins: (N, N) float64: how often row was preferred over column; a tie is half a win for
            either.

    Returns:
        (N, N) float64: posterior probability that row is stronger than column; 0.5 on the
        diagonal, and where nothing is known.

    Raises:
        FloatingPointError: the fit did not converge.
    """
    size = len(wins)
    strength, total = np.zeros(size), wins + wins.T
    for _ in range(_MOST_STEPS):
        expected = scipy.special.expit(strength[:, None] - strength[None, :])
        gradient = (wins - total * expected).sum(axis=1) - strength / PRIOR_DEVIATION**2
        information = total * expected * expected.T
        hessian = np.diag(information.sum(axis=1) + PRIOR_DEVIATION**-2) - information
        step = np.linalg.solve(hessian, gradient)
        # Newton's steps can be too long far from the maximum.
        strength = strength + step / max(1.0, np.abs(step).max(initial=0.0))
        if np.abs(step).max(initial=0.0) < _LARGEST_STEP:
            break
    else:
        raise FloatingPointError("the Bradley-Terry fit did not converge")
    covariance = np.linalg.inv(hessian)
    variance = np.diag(covariance)
    spread = variance[:, None] + variance[None, :] - 2 * covariance
    np.fill_diagonal(spread, 1.0)
    return scipy.special.ndtr((strength[:, None] - strength[None, :]) / np.sqrt(spread))
