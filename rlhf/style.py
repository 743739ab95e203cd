"""Style: what the answers say about how the policy as a whole should play.

Renditions that differ in style knobs alone (`rlhf.variation`) tell more than their actions do: what
is better about them is shared by all passages. With x the knobs of a rendition, in units of the
range that they are drawn from, its worth is taken to be

    u(x) = b . x - c |x|^2 / 2,

and a pair to be answered as in Bradley and Terry's model, with probability
1 / (1 + exp(u(x-) - u(x+))). Contrastive preference learning has the same loss, with the segment's
log-probability in place of u (arXiv 2310.13639, equation 5): here four numbers are learnt instead
of a network's weights, so that fifty answers are many.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf import preferences
from rlhf.variation import STYLE_RANGES, Variation

_FEWEST_PAIRS = 10
_RIDGE = 1.0  # A prior: coefficients of a standard deviation of 1.
_NEWTON_STEPS = 50
_CHANCE = 0.1  # How likely it may be that answers without any style seem to favor one.
_TURNED = 999
_UNIT = 0.5
_PLAIN = Variation().knobs
# What each knob is divided by: the reach of its range.
_REACH = {name: max(abs(end - _PLAIN[name]) for end in ends) for name, ends in STYLE_RANGES.items()}


class Knob(NamedTuple):
    """What the answers say about one style knob."""

    coefficient: float
    """b of this knob; positive if more of it is better."""
    standard_error: float
    """By the jackknife over renditions."""

    @property
    def kept(self) -> float:
        """The coefficient, shrunk by its uncertainty; 0 within a standard error."""
        if abs(self.coefficient) <= self.standard_error:
            return 0.0
        return self.coefficient * (1 - (self.standard_error / self.coefficient) ** 2)


class Style(NamedTuple):
    """The style that the answers favor."""

    knobs: dict[str, Knob]
    """By name, see `rlhf.variation.Variation.knobs`."""
    curvature: float
    """c: how fast it gets worse the further a rendition goes, whichever way; negative if better."""
    pairs: int
    """Pairs of renditions that it was learnt from."""
    accuracy: float
    """Share of these pairs that it agrees with."""
    chance: float
    """How likely answers that are explained as well would be if it did not matter which way the
    knobs are turned: the share of random turns that are (R. A. Fisher, The Design of Experiments,
    1935, section 21)."""

    @property
    def furthest_share(self) -> float:
        """The share from which on further is worse; infinite if the answers show no such end."""
        length = float(np.linalg.norm([knob.kept for knob in self.knobs.values()]))
        return length / (_UNIT * self.curvature) if self.curvature > 0 else math.inf

    def variation(self, share: float) -> Variation:
        """How a rendition of this style is played.

        Args:
            share: How far to go: at 1, half of what renditions vary by.
        """
        kept = np.array([knob.kept for knob in self.knobs.values()])
        length = max(float(np.linalg.norm(kept)), 1e-9)
        values = {
            name: _PLAIN[name] + share * _UNIT * _REACH[name] * part
            for name, part in zip(self.knobs, kept / length, strict=True)
        }
        return Variation.in_style(**values)


def fit(variations: Sequence[Variation | None], weight: np.ndarray) -> Style | None:
    """The style that preferences favor.

    Args:
        variations: Of the N segments; None for one that another policy plays. Those that vary in
            something else than style are left out.
        weight: (N, N) preferences, see `rlhf.preferences.preferences`.

    Returns:
        None where the answers favor no style: they are too few, or contradict each other.
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
    # Two renditions of the same knobs say nothing about them.
    pairs = pairs[(knobs[pairs[:, 0]] != knobs[pairs[:, 1]]).any(axis=1)]
    if len(pairs) < _FEWEST_PAIRS:
        return None
    differences = _differences(knobs, pairs)
    whole = _fit(differences)
    without = np.array(
        [_fit(differences[(pairs != left_out).all(axis=1)]) for left_out in np.unique(pairs)]
    )
    # Jackknife: B. Efron and C. Stein, The Jackknife Estimate of Variance, 1981, equation 1.2.
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
    """See `Style.chance`."""
    random = np.random.default_rng(0)
    reached, as_well = _likelihood(_differences(knobs, pairs)), 0
    for _ in range(_TURNED):
        turned = knobs * random.choice([-1.0, 1.0], knobs.shape)
        as_well += _likelihood(_differences(turned, pairs)) >= reached
    return (1 + as_well) / (1 + _TURNED)


def _differences(knobs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Features (P, K + 1) of the preferred less those of the rejected."""
    features = np.column_stack([knobs, -0.5 * np.sum(knobs**2, axis=1)])
    return features[pairs[:, 0]] - features[pairs[:, 1]]


def _likelihood(differences: np.ndarray) -> float:
    """The logarithm of the likelihood at its fit, with the prior."""
    found = _fit(differences)
    loss = np.logaddexp(0, -differences @ found).sum()
    return float(-loss - 0.5 * _RIDGE * found @ found)


def _fit(differences: np.ndarray) -> np.ndarray:
    """Coefficients b, and c last, (K + 1,), of least logistic loss with a ridge.

    Args:
        differences: (P, K + 1) features of the preferred less those of the rejected.
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
