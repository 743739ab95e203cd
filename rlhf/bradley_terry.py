"""The Bradley-Terry model, which estimates strengths from pairwise comparisons.

    P(i is preferred over j) = 1 / (1 + exp(θⱼ - θᵢ))

Source: Bradley and Terry, "Rank analysis of incomplete block designs", Biometrika 39, 1952. The
strengths θ have a Gaussian prior, so that the fit exists for any answers. The posterior is
approximated by a Gaussian at its maximum (Laplace), which Newton's method finds.
"""

import numpy as np
import scipy.special

PRIOR_DEVIATION = 2.0
"""Standard deviation of the prior of each strength. If two strengths are drawn from the prior, the
stronger one is preferred with a mean probability of 0.83: most pairs can be told apart."""
_LARGEST_STEP = 1e-9
_MOST_STEPS = 100


def probability_better(wins: np.ndarray) -> np.ndarray:
    """Computes the probability that one item is stronger than another, given the comparisons.

    Args:
        wins: (N, N) float64 number of times that row was preferred over column; a tie counts as
            half a win for each.

    Returns:
        (N, N) float64 posterior probability that row is stronger than column; 0.5 on the diagonal
        and for pairs without any information.

    Raises:
        FloatingPointError: The fit did not converge.
    """
    size = len(wins)
    strength, total = np.zeros(size), wins + wins.T
    for _ in range(_MOST_STEPS):
        expected = scipy.special.expit(strength[:, None] - strength[None, :])
        gradient = (wins - total * expected).sum(axis=1) - strength / PRIOR_DEVIATION**2
        information = total * expected * expected.T
        hessian = np.diag(information.sum(axis=1) + PRIOR_DEVIATION**-2) - information
        step = np.linalg.solve(hessian, gradient)
        # Far from the maximum Newton's steps can be too long.
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
