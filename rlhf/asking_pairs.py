"""The order in which a rater is asked about pairs of segments.

All functions are pure, so that a reload of the page asks the same question again.

Similar renditions are hard to tell apart, and answers about them are mostly noise (CLARIFY, arXiv
2506.00388). Both segments of a pair therefore belong to one passage and differ clearly. If both
have been rated, people's mean scores differ by 5 to 25 points; otherwise the difference in sound
decides, see `rlhf.difference`. Closer pairs are never asked; pairs further apart are asked only
when no others are left. Renditions by different makers (checkpoint and variation) come first.

A pair is not asked if its answer is predictable: a Bradley-Terry fit of the earlier answers gives a
probability of at least 0.8 that one of the two is better. A passage is finished as soon as all of
its pairs are predictable, because further answers would hardly change the order. Simulated raters
without errors are asked 15 of the 21 pairs of 7 renditions, and their order is recovered
completely. For simulated raters with errors (of half the standard deviation of the renditions)
Kendall's tau to the true order is 0.73; with all 21 pairs it is 0.76.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf.bradley_terry import probability_better
from rlhf.collection import PlannedSegment
from rlhf.ratings import Comparison, Rating

LEAST_GAP, GREATEST_GAP = 5.0, 25.0
"""Range of the gap between two mean scores, in points, that is clear but not trivial."""
LEAST_DIFFERENCE = 0.02
"""Difference (see `rlhf.difference`) below which two renditions sound alike."""
FORETOLD = 0.8
"""Posterior probability of an answer at which its pair is not asked any more."""
PAIRS_A_SEGMENT = 3
"""Maximum number of pairs of a passage that a rater is asked, per rendition of the passage. It
bounds the questions to a rater who answers at random, whose order never settles."""
PAIRS_A_VISIT = 4
"""Number of pairs of one passage that are asked in a row before another passage has its turn."""


class Asked(NamedTuple):
    """The answers and measurements that decide which pair is asked next."""

    ratings: Sequence[Rating]
    """Ratings that hold, of all raters whose scores count."""
    comparisons: Sequence[Comparison]
    """Comparisons that hold, of this rater alone, oldest first."""
    difference: np.ndarray | None = None
    """(N, N) float: how far two segments differ for a listener, see `rlhf.difference`. NaN marks an
    unknown difference; None means that all are unknown."""


class _Pairs(NamedTuple):
    """P pairs that may be asked; both segments of a pair belong to the same passage."""

    first: np.ndarray
    """(P,) int64: index of one segment."""
    second: np.ndarray
    """(P,) int64: index of the other segment."""
    passage: np.ndarray
    """(P,) int64: index of the passage."""
    group: np.ndarray
    """(P,) int64: the lower the group, the more an answer tells."""
    certainty: np.ndarray
    """(P,) float64, 0 to 0.5: how predictable the answer is."""


def next_pair(
    segments: Sequence[PlannedSegment], asked: Asked, seed: int
) -> tuple[str, str] | None:
    """Chooses the two segments to be compared next.

    After `PAIRS_A_VISIT` pairs of a passage, the passage with the fewest answers has its turn.
    Within a passage, pairs of the lowest group come first. Within a group, pairs whose segments
    have been compared least come first, then pairs with the least certain answer. Ties are broken
    at random; the order within the pair is random, too.

    Args:
        segments: All segments that can be compared, always in the same order.
        asked: Answers and measurements so far.
        seed: Random seed of the draw.

    Returns:
        The names of the two; None if all remaining pairs are predictable or sound alike.
    """
    pairs = _open_pairs(segments, asked)
    if not len(pairs.first):
        return None
    times = collections.Counter(
        name for comparison in asked.comparisons for name in (comparison.first, comparison.second)
    )
    count = np.array([times[segment.name] for segment in segments])
    draw = np.random.default_rng(seed).random((len(segments), len(segments)))
    order = np.lexsort(
        (
            draw[pairs.first, pairs.second],
            pairs.certainty,
            count[pairs.first] + count[pairs.second],
            pairs.group,
            _turns(segments, asked.comparisons, seed)[pairs.passage],
        )
    )
    i, j = pairs.first[order[0]], pairs.second[order[0]]
    first, second = segments[i].name, segments[j].name
    # The lower triangle of `draw` has not been used yet.
    return (first, second) if draw[j, i] < 0.5 else (second, first)


def pairs_left(segments: Sequence[PlannedSegment], asked: Asked) -> int:
    """Estimates how many pairs are still to be asked.

    It is an estimate because each answer can make other answers certain, and sometimes uncertain
    again.
    """
    pairs, passages = _open_pairs(segments, asked), _passages(segments)
    left = _capacity(passages, _answers_of(segments, asked.comparisons))
    open_of = np.bincount(pairs.passage, minlength=len(left))
    return int(np.minimum(open_of, left).sum())


def _passages(segments: Sequence[PlannedSegment]) -> np.ndarray:
    """Returns (N,) int64: the passage of each segment, numbered in the order of the music."""
    of = [segment.passage for segment in segments]
    number = {passage: index for index, passage in enumerate(sorted(set(of)))}
    return np.array([number[passage] for passage in of], np.int64)


def _answers_of(
    segments: Sequence[PlannedSegment], comparisons: Sequence[Comparison]
) -> list[tuple[int, int, Comparison]]:
    """Returns answers within one passage, oldest first, with the indices of the two segments."""
    index = {segment.name: number for number, segment in enumerate(segments)}
    passages = _passages(segments)
    found = [
        (index[one.first], index[one.second], one)
        for one in comparisons
        if one.first in index and one.second in index
    ]
    return [(i, j, one) for i, j, one in found if passages[i] == passages[j]]


def _capacity(passages: np.ndarray, answers: list[tuple[int, int, Comparison]]) -> np.ndarray:
    """Returns (passages,) int64: the number of pairs of each that may still be asked."""
    given = np.bincount([passages[i] for i, _, _ in answers], minlength=_count(passages))
    return np.maximum(PAIRS_A_SEGMENT * np.bincount(passages) - given, 0)


def _count(passages: np.ndarray) -> int:
    return int(passages.max(initial=-1)) + 1


def _turns(
    segments: Sequence[PlannedSegment], comparisons: Sequence[Comparison], seed: int
) -> np.ndarray:
    """Returns (passages,) float64: the passage with the lowest value comes next."""
    passages = _passages(segments)
    visited = [passages[i] for i, _, _ in _answers_of(segments, comparisons)]
    count = _count(passages)
    # The integer part counts answers; the fraction breaks ties at random.
    turn = np.bincount(visited, minlength=count) + np.random.default_rng((seed, 1)).random(count)
    if visited:
        recent = visited[-PAIRS_A_VISIT:]
        same = len(recent) == PAIRS_A_VISIT and len(set(recent)) == 1
        # A passage comes last after a complete visit, and first during an incomplete one.
        turn[visited[-1]] = np.inf if same else -np.inf
    return turn


# --- Pairs ----------------------------------------------------------------------------------


def _open_pairs(segments: Sequence[PlannedSegment], asked: Asked) -> _Pairs:
    """Returns pairs that can be told apart, have not been asked, and are not predictable."""
    passages = _passages(segments)
    first, second = np.triu_indices(len(segments), k=1)
    within = passages[first] == passages[second]
    first, second = first[within], second[within]
    group = _groups(segments, asked, first, second)
    answers = _answers_of(segments, asked.comparisons)
    known = np.zeros((len(segments), len(segments)), bool)
    for i, j, _ in answers:
        known[i, j] = known[j, i] = True
    certainty = _certainty(passages, answers)[first, second]
    room = _capacity(passages, answers)[passages[first]] > 0
    may = (group >= 0) & ~known[first, second] & (certainty < FORETOLD - 0.5) & room
    return _Pairs(
        first[may], second[may], passages[first[may]], group[may], np.round(certainty[may], 9)
    )


def _groups(
    segments: Sequence[PlannedSegment], asked: Asked, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Returns (P,) int64, the group of each pair: -1 for a pair that cannot be told apart."""
    index = {segment.name: number for number, segment in enumerate(segments)}
    scores = _mean_scores(index, asked.ratings)
    gap = np.abs(scores[first] - scores[second])
    difference = np.full(len(first), np.nan)
    if asked.difference is not None:
        difference = asked.difference[first, second]
    makers = {segment.name: (segment.checkpoint, segment.variation) for segment in segments}
    number = {maker: at for at, maker in enumerate(dict.fromkeys(makers.values()))}
    maker = np.array([number[makers[segment.name]] for segment in segments], np.int64)
    passages = _passages(segments)[first]
    clear = np.isnan(difference)
    for passage in np.unique(passages):
        here = passages == passage
        if not np.isnan(difference[here]).all():
            clear[here] |= difference[here] >= np.nanmedian(difference[here])
    return np.select(
        [
            gap < LEAST_GAP,
            gap <= GREATEST_GAP,
            gap > GREATEST_GAP,
            difference < LEAST_DIFFERENCE,
            clear & (maker[first] != maker[second]),
            maker[first] != maker[second],
        ],
        [-1, 0, 3, -1, 1, 2],
        default=3,
    )


def _certainty(passages: np.ndarray, answers: list[tuple[int, int, Comparison]]) -> np.ndarray:
    """Returns (N, N) float64: the distance of P(row is better than column) from 0.5."""
    certainty = np.zeros((len(passages), len(passages)))
    wins = np.zeros_like(certainty)
    for i, j, answer in answers:
        share = {"first": 1.0, "second": 0.0, "neither": 0.5}[answer.preferred]
        wins[i, j] += share
        wins[j, i] += 1 - share
    for passage in {passages[i] for i, _, _ in answers}:
        inside = np.ix_(passages == passage, passages == passage)
        certainty[inside] = np.abs(probability_better(wins[inside]) - 0.5)
    return certainty


def _mean_scores(index: dict[str, int], ratings: Sequence[Rating]) -> np.ndarray:
    """Returns (segments,) float64: means over raters, NaN where there is no rating."""
    total, count = np.zeros(len(index)), np.zeros(len(index))
    for rating in ratings:
        if rating.segment in index:
            total[index[rating.segment]] += rating.score
            count[index[rating.segment]] += 1
    return np.divide(total, count, out=np.full(len(index), np.nan), where=count > 0)
