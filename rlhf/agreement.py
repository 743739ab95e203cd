"""Agreement between people who rate the same performances, and consistency of each rater."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import krippendorff
import numpy as np
import scipy.stats

from rlhf.ratings import Comparison, Rater, Rating

LEAST_COMMON_SEGMENTS = 3


class Agreement(NamedTuple):
    """Measures of agreement between people; 1 is perfect agreement."""

    people: int
    """Number of people who share at least three rated segments with another person."""
    segments: int
    """Number of segments that at least two of these people have rated."""
    alpha: float | None
    """Krippendorff's alpha for interval scales; 0 is chance. None if all scores are equal."""
    spearman: float | None
    """Mean of Spearman's rank correlation over pairs of people. A pair in which one person gave all
    shared segments the same score has no ranks and is left out. None if no pair is left."""


class Consistency(NamedTuple):
    """Measures of how similarly one rater answers the same question twice."""

    scores: int
    """Number of segments that were scored twice."""
    difference: float | None
    """Mean absolute difference between the two scores, in points. None if there are none."""
    difference_between_segments: float | None
    """Mean absolute difference between the rater's scores of different segments, in points. This is
    the value to expect if the second answer had nothing to do with the first."""
    pairs: int
    """Number of pairs that were compared twice."""
    alike: float | None
    """Share of these pairs with the same answer both times: the same segment, or neither."""


class Answers(NamedTuple):
    """Ratings and comparisons that hold: at most one per rater and question."""

    ratings: Sequence[Rating]
    comparisons: Sequence[Comparison]


def agreement(ratings: Sequence[Rating]) -> Agreement | None:
    """Measures how far people agree; simulated raters are left out.

    Args:
        ratings: Ratings that hold: at most one per rater and segment.

    Returns:
        The agreement; None unless two people have rated three common segments.
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
    """Alpha of (people, segments) scores, NaN where there is none."""
    if len(np.unique(table[~np.isnan(table)])) < 2:
        return None  # The expected disagreement is 0, and alpha would be 0 / 0.
    return float(krippendorff.alpha(table, level_of_measurement="interval"))


def _spearman(pair: Sequence[Sequence[int]]) -> float | None:
    if any(len(set(scores)) < 2 for scores in pair):
        return None
    return float(scipy.stats.spearmanr(*pair).statistic)


def consistency(first: Answers, repeated: Answers) -> dict[str, Consistency]:
    """Measures how consistently raters answer questions that are asked again.

    Args:
        first: First answers.
        repeated: Answers to the same questions, asked again.

    Returns:
        The consistency of each rater with repeated answers, by the rater's name.
    """
    scores = {(one.rater, one.segment): one.score for one in first.ratings}
    preferred = {_pair(one): _preferred(one) for one in first.comparisons}
    found = {}
    raters = {one.rater for one in repeated.ratings} | {one.rater for one in repeated.comparisons}
    for rater in sorted(raters):
        differences = [
            abs(scores[rater, one.segment] - one.score)
            for one in repeated.ratings
            if one.rater == rater and (rater, one.segment) in scores
        ]
        alike = [
            preferred[_pair(one)] == _preferred(one)
            for one in repeated.comparisons
            if one.rater == rater and _pair(one) in preferred
        ]
        between = [
            abs(one - other)
            for one, other in itertools.combinations(
                [score for (name, _), score in scores.items() if name == rater], 2
            )
        ]
        found[rater.name] = Consistency(
            scores=len(differences),
            difference=float(np.mean(differences)) if differences else None,
            difference_between_segments=float(np.mean(between)) if between else None,
            pairs=len(alike),
            alike=float(np.mean(alike)) if alike else None,
        )
    return found


def _pair(comparison: Comparison) -> tuple[Rater, frozenset[str]]:
    return comparison.rater, frozenset((comparison.first, comparison.second))


def _preferred(comparison: Comparison) -> str | None:
    """The preferred segment's name, regardless of the order of the two; None for neither."""
    names = {"first": comparison.first, "second": comparison.second}
    return names.get(comparison.preferred)
