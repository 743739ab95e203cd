"""Style: a few knobs of the whole policy that the answers favor.

Renditions that differ only in style knobs (`rlhf.variation`) tell more than their actions do,
because the effect of a knob is shared by all passages. Let x be the knobs of a rendition, in units
of the range that they are drawn from. Its worth is modeled as

    u(x) = b . x - c |x|^2 / 2,

and answers follow the model of Bradley and Terry: + is preferred over - with probability
1 / (1 + exp(u(x-) - u(x+))). Contrastive preference learning has the same loss, with the segment
log-probability in place of u (arXiv 2310.13639, equation 5). Here b and c are learned, five numbers
instead of the weights of a network, so that fifty answers are many.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf import preferences
from rlhf.variation import STYLE_RANGES, Variation

_FEWEST_PAIRS = 10
_RIDGE = 1.0  # Prior: the coefficients have a standard deviation of 1.
_NEWTON_STEPS = 50
_CHANCE = 0.1  # Accepted probability that answers without any style seem to favor one.
_TURNED = 999
_UNIT = 0.5
_PLAIN = Variation().knobs
# Unit of each knob: the greatest distance of its range from plain play.
_REACH = {name: max(abs(end - _PLAIN[name]) for end in ends) for name, ends in STYLE_RANGES.items()}


class Knob(NamedTuple):
    """Estimate for one style knob from the answers."""

    coefficient: float
    """Coefficient b of the knob; positive if more of it is better."""
    standard_error: float
    """Standard error of the coefficient, from the jackknife over renditions."""

    @property
    def kept(self) -> float:
        """The coefficient, shrunk by its uncertainty; 0 if it is within one standard error of 0."""
        if abs(self.coefficient) <= self.standard_error:
            return 0.0
        return self.coefficient * (1 - (self.standard_error / self.coefficient) ** 2)


class Style(NamedTuple):
    """The style that the answers favor."""

    knobs: dict[str, Knob]
    """Estimates by knob, see `rlhf.variation.Variation.knobs`."""
    curvature: float
    """Curvature c: how fast renditions get worse with distance from plain play, in any direction;
    negative if they get better."""
    pairs: int
    """Number of pairs of renditions that the style was fitted to."""
    accuracy: float
    """Share of these pairs that the style agrees with."""
    chance: float
    """Probability of an equally good fit if the direction of the knobs did not matter: the share of
    random sign changes of the knobs with such a fit (R. A. Fisher, The Design of Experiments, 1935,
    section 21)."""

    @property
    def furthest_share(self) -> float:
        """The share beyond which renditions get worse; infinite unless curvature is positive."""
        length = float(np.linalg.norm([knob.kept for knob in self.knobs.values()]))
        return length / (_UNIT * self.curvature) if self.curvature > 0 else math.inf

    def variation(self, share: float) -> Variation:
        """Returns the variation that plays in this style.

        Args:
            share: Distance from plain play; 1 is half of the range of the renditions.
        """
        kept = np.array([knob.kept for knob in self.knobs.values()])
        length = max(float(np.linalg.norm(kept)), 1e-9)
        values = {
            name: _PLAIN[name] + share * _UNIT * _REACH[name] * part
            for name, part in zip(self.knobs, kept / length, strict=True)
        }
        return Variation.in_style(**values)


def fit(variations: Sequence[Variation | None], weight: np.ndarray) -> Style | None:
    """Fits the style that preferences favor.

    Args:
        variations: Variations of the N segments; None for a segment that another policy plays.
            Segments that vary in something other than style are ignored.
        weight: (N, N) preferences, see `rlhf.preferences.preferences`.

    Returns:
        The style; None if the answers are too few, or favor no style clearly.
    """
    knobs = np.array(
        [
            [math.nan] * len(_REACH)
            if variation is None or not variation.is_of_style
            else [(variation.knobs[name] - _PLAIN[name]) / reach for name, reach in _REACH.items()]
            for variation in variations
        ]
    ).reshape(len(variations), len(_REACH))
    pairs = preferences.pairs(weight)
    pairs = pairs[np.isfinite(knobs[pairs]).all(axis=(1, 2))]
    # Two renditions with the same knobs carry no information about them.
    pairs = pairs[(knobs[pairs[:, 0]] != knobs[pairs[:, 1]]).any(axis=1)]
    if len(pairs) < _FEWEST_PAIRS:
        return None
    differences = _differences(knobs, pairs)
    whole = _fit(differences)
    without = np.array(
        [_fit(differences[(pairs != left_out).all(axis=1)]) for left_out in np.unique(pairs)]
    )
    # Source: B. Efron and C. Stein, The Jackknife Estimate of Variance, 1981, equation 1.2.
    spread = np.sum((without - without.mean(axis=0)) ** 2, axis=0)
    errors = np.sqrt((len(without) - 1) / len(without) * spread)
    style = Style(
        {
            name: Knob(float(coefficient), float(error))
            for name, coefficient, error in zip(_REACH, whole, errors, strict=False)
        },
        float(whole[-1]),
        len(pairs),
        float(np.mean(differences @ whole > 0)),
        _chance(knobs, pairs),
    )
    return style if style.chance < _CHANCE else None


def _chance(knobs: np.ndarray, pairs: np.ndarray) -> float:
    """Computes `Style.chance`."""
    random = np.random.default_rng(0)
    reached, as_well = _likelihood(_differences(knobs, pairs)), 0
    for _ in range(_TURNED):
        turned = knobs * random.choice([-1.0, 1.0], knobs.shape)
        as_well += _likelihood(_differences(turned, pairs)) >= reached
    return (1 + as_well) / (1 + _TURNED)


def _differences(knobs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns (P, K + 1): features of the preferred rendition minus those of the rejected one."""
    features = np.column_stack([knobs, -0.5 * np.sum(knobs**2, axis=1)])
    return features[pairs[:, 0]] - features[pairs[:, 1]]


def _likelihood(differences: np.ndarray) -> float:
    """Computes the maximum of the log-likelihood, including the prior."""
    found = _fit(differences)
    loss = np.logaddexp(0, -differences @ found).sum()
    return float(-loss - 0.5 * _RIDGE * found @ found)


def _fit(differences: np.ndarray) -> np.ndarray:
    """Fits the coefficients b, with c last, (K + 1,), by logistic regression with a ridge.

    Args:
        differences: (P, K + 1) features of the preferred minus those of the rejected renditions.
    """
    coefficients = np.zeros(differences.shape[1])
    ridge = _RIDGE * np.eye(len(coefficients))
    for _ in range(_NEWTON_STEPS):
        wrong = 1 / (1 + np.exp(differences @ coefficients))
        gradient = differences.T @ wrong - ridge @ coefficients
        curvature = (differences.T * (wrong * (1 - wrong))) @ differences + ridge
        step = np.linalg.solve(curvature, gradient)
        coefficients = coefficients + step
        if np.max(np.abs(step)) < 1e-9:
            break
    return coefficients
