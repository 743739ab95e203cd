"""Which pair a rater is asked about next: pure functions, so that a reload asks the same again.

Similar renditions are hard to tell apart, and answers about them are mostly noise (CLARIFY, arXiv
2506.00388). Pairs are therefore of one passage and differ clearly: in people's mean scores by 5 to
25 points where both have been rated, otherwise by what is heard, see `rlhf.difference`. Closer
pairs are never asked; pairs further apart only when no others are left. Renditions by different
makers (checkpoint and variation) come first.

A pair is not asked when its answer can be foretold: when the answers before it, fitted by the
Bradley-Terry model, say with a probability of at least 0.8 which of the two is better. A passage is
finished as soon as this holds for each of its pairs: further answers would hardly change the order.
Simulated raters who do not err are asked 15 of the 21 pairs of 7 renditions, and their order is
found whole; with raters who err (by half the deviation of the renditions) Kendall's tau to the true
order is 0.73, and 0.76 from all 21.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf.bradley_terry import probability_better
from rlhf.collection import PlannedSegment
from rlhf.ratings import Comparison, Rating

LEAST_GAP, GREATEST_GAP = 5.0, 25.0
"""Points between the mean scores of two segments whose difference is clear, but not trivial."""
LEAST_DIFFERENCE = 0.02
"""Difference between two renditions, see `rlhf.difference`, below which they sound alike."""
FORETOLD = 0.8
"""Posterior probability of an answer from which it need not be asked for."""
PAIRS_A_SEGMENT = 3
"""A rater is asked at most so many times as many pairs of a passage as it has renditions; this
ends what never settles, as with a rater who answers at random."""
PAIRS_A_VISIT = 4
"""So many pairs of one passage are asked in a row before another one has its turn."""


class Asked(NamedTuple):
    """What is known about pairs."""

    ratings: Sequence[Rating]
    """That hold, of all whose scores count."""
    comparisons: Sequence[Comparison]
    """That hold, of this rater alone, oldest first."""
    difference: np.ndarray | None = None
    """(N, N) float: how far two segments differ for a listener, see `rlhf.difference`; NaN, or
    None for all, where that is unknown."""


class _Pairs(NamedTuple):
    """P pairs that may be asked, all of one passage each."""

    first: np.ndarray
    """(P,) int64, index of a segment."""
    second: np.ndarray
    passage: np.ndarray
    """(P,) int64, index of the passage."""
    group: np.ndarray
    """(P,) int64: the lower, the more is learnt from an answer."""
    certainty: np.ndarray
    """(P,) float64, 0 to 0.5: how far the answer can be foretold."""


def next_pair(
    segments: Sequence[PlannedSegment], asked: Asked, seed: int
) -> tuple[str, str] | None:
    """The two segments to be compared next.

    After `PAIRS_A_VISIT` pairs of a passage, the one with the fewest answers has its turn. Among
    the pairs of a passage of which equally much is to be learnt, those come first whose segments
    have been compared least, then those whose answer is least certain; what is still equal is
    drawn, and so is the order within the pair.

    Args:
        segments: all that can be compared, always in the same order.
        asked: what is known about them.
        seed: of the draw.

    Returns:
        Their names; None when the rest can be foretold, or no pair is left that can be told apart.
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
    # The lower triangle of the draw has not been used yet.
    return (first, second) if draw[j, i] < 0.5 else (second, first)


def pairs_left(segments: Sequence[PlannedSegment], asked: Asked) -> int:
    """How many pairs are still to be asked, by what is known now.

    Answers can make others certain, and seldom uncertain again: this is an estimate.
    """
    pairs, passages = _open_pairs(segments, asked), _passages(segments)
    left = _capacity(passages, _answers_of(segments, asked.comparisons))
    open_of = np.bincount(pairs.passage, minlength=len(left))
    return int(np.minimum(open_of, left).sum())


def _passages(segments: Sequence[PlannedSegment]) -> np.ndarray:
    """(N,) int64: the passage of each segment, numbered in the order of the music."""
    of = [segment.passage for segment in segments]
    number = {passage: index for index, passage in enumerate(sorted(set(of)))}
    return np.array([number[passage] for passage in of], np.int64)


def _answers_of(
    segments: Sequence[PlannedSegment], comparisons: Sequence[Comparison]
) -> list[tuple[int, int, Comparison]]:
    """Answers about pairs of one passage, oldest first, with the indices of the two segments."""
    index = {segment.name: number for number, segment in enumerate(segments)}
    passages = _passages(segments)
    found = [
        (index[one.first], index[one.second], one)
        for one in comparisons
        if one.first in index and one.second in index
    ]
    return [(i, j, one) for i, j, one in found if passages[i] == passages[j]]


def _capacity(passages: np.ndarray, answers: list[tuple[int, int, Comparison]]) -> np.ndarray:
    """(passages,) int64: how many more pairs of each may be asked."""
    given = np.bincount([passages[i] for i, _, _ in answers], minlength=_count(passages))
    return np.maximum(PAIRS_A_SEGMENT * np.bincount(passages) - given, 0)


def _count(passages: np.ndarray) -> int:
    return int(passages.max(initial=-1)) + 1


def _turns(
    segments: Sequence[PlannedSegment], comparisons: Sequence[Comparison], seed: int
) -> np.ndarray:
    """(passages,) float64: the lowest comes next."""
    passages = _passages(segments)
    visited = [passages[i] for i, _, _ in _answers_of(segments, comparisons)]
    count = _count(passages)
    # The whole part counts answers; the rest is drawn.
    turn = np.bincount(visited, minlength=count) + np.random.default_rng((seed, 1)).random(count)
    if visited:
        recent = visited[-PAIRS_A_VISIT:]
        same = len(recent) == PAIRS_A_VISIT and len(set(recent)) == 1
        # A whole visit makes a passage the last, a begun one the first.
        turn[visited[-1]] = np.inf if same else -np.inf
    return turn


# --- Pairs ----------------------------------------------------------------------------------


def _open_pairs(segments: Sequence[PlannedSegment], asked: Asked) -> _Pairs:
    """The pairs that may be told apart, have not been asked, and cannot be foretold."""
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
    """(P,) int64 of pairs of one passage: -1 for those that cannot be told apart."""
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
    """(N, N) float64: how far above or below 0.5 the probability is that row is better."""
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
    """(segments,) float64: means over raters, NaN where there is no rating."""
    total, count = np.zeros(len(index)), np.zeros(len(index))
    for rating in ratings:
        if rating.segment in index:
            total[index[rating.segment]] += rating.score
            count[index[rating.segment]] += 1
    return np.divide(total, count, out=np.full(len(index), np.nan), where=count > 0)
