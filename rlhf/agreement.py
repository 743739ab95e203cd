"""Whether people who rate the same performances agree."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import krippendorff
import numpy as np
import scipy.stats

from rlhf.ratings import Rating

LEAST_COMMON_SEGMENTS = 3


class Agreement(NamedTuple):
    """How far people agree; 1 is perfectly."""

    people: int
    """Who share at least three segments with somebody else."""
    segments: int
    """That at least two of them have rated."""
    alpha: float | None
    """Krippendorff's alpha for interval scales: 0 is chance. None where all scores are equal."""
    spearman: float | None
    """Spearman's rank correlation, mean over the pairs of people. None where somebody gave all
    segments the same score, so that there is no rank."""


def agreement(ratings: Sequence[Rating]) -> Agreement | None:
    """How far people agree; simulated raters are left out.

    Args:
        ratings: that hold: at most one of each rater and segment.

    Returns:
        None unless two people have rated three common segments.
    """
    scores: dict[str, dict[str, int]] = {}
    for rating in ratings:
        if rating.rater.kind == "person":
            scores.setdefault(rating.rater.name, {})[rating.segment] = rating.score
    shared = {
        pair: common
        for pair in itertools.combinations(sorted(scores), 2)
        if len(common := sorted(scores[pair[0]].keys() & scores[pair[1]].keys()))
        >= LEAST_COMMON_SEGMENTS
    }
    if not shared:
        return None
    people = sorted({name for pair in shared for name in pair})
    segments = sorted({segment for name in people for segment in scores[name]})
    table = np.array(
        [[scores[name].get(segment, np.nan) for segment in segments] for name in people]
    )
    table = table[:, np.sum(~np.isnan(table), axis=0) >= 2]
    correlations = [
        _spearman([[scores[name][segment] for segment in common] for name in pair])
        for pair, common in shared.items()
    ]
    defined = [value for value in correlations if value is not None]
    return Agreement(
        people=len(people),
        segments=table.shape[1],
        alpha=_alpha(table),
        spearman=float(np.mean(defined)) if defined else None,
    )


def _alpha(table: np.ndarray) -> float | None:
    """Of (people, segments) scores, NaN where there is none."""
    if len(np.unique(table[~np.isnan(table)])) < 2:
        return None  # No disagreement is to be expected: 0 / 0.
    return float(krippendorff.alpha(table, level_of_measurement="interval"))


def _spearman(pair: Sequence[Sequence[int]]) -> float | None:
    if any(len(set(scores)) < 2 for scores in pair):
        return None
    return float(scipy.stats.spearmanr(*pair).statistic)
