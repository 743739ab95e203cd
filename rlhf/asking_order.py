"""What a rater is asked next: pure functions, so that a reload asks the same again.

Similar performances are hard to tell apart, and answers about them are mostly noise (CLARIFY,
arXiv 2506.00388). Single segments are therefore drawn from all checkpoints and noise levels in
turn, so that few answers span the whole range of quality; and pairs are chosen whose difference
can be heard: first of different checkpoints, and as soon as both have scores, those whose mean
scores are 5 to 25 points apart. Closer pairs are never asked; pairs further apart, whose answer
can be foretold, only when no others are left.
"""

import collections
import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from rlhf.collection import PlannedSegment
from rlhf.ratings import Comparison, Rating

LEAST_GAP, GREATEST_GAP = 5.0, 25.0
"""Points between the mean scores of two segments whose difference is clear, but not trivial."""
PAIRS_A_SEGMENT = 2
"""A rater is asked so many times as many pairs as there are segments."""


class _Pairs(NamedTuple):
    """P pairs that may be asked."""

    first: np.ndarray
    """(P,) int64, index of a segment."""
    second: np.ndarray
    group: np.ndarray
    """(P,) int64: the lower, the more is learnt from an answer."""


def seed_of(rater: str) -> int:
    """The seed that gives each rater an order of their own."""
    return int.from_bytes(hashlib.sha256(rater.encode()).digest()[:8], "big")


def next_segment(
    segments: Sequence[PlannedSegment], answered: Collection[str], seed: int
) -> str | None:
    """The segment to be rated next.

    Checkpoints take turns, and within each its noise levels; what is still equal is drawn.

    Args:
        segments: all that can be rated, always in the same order.
        answered: names that this rater has rated or skipped.
        seed: of the draw.

    Returns:
        Its name; None when all have been answered.
    """
    asked: collections.Counter[object] = collections.Counter()
    for segment in segments:
        if segment.name in answered:
            for part in _parts(segment):
                asked[part] += 1
    places = np.random.default_rng(seed).permutation(len(segments))
    left = [
        (*(asked[part] for part in _parts(segment)), place, segment.name)
        for segment, place in zip(segments, places, strict=True)
        if segment.name not in answered
    ]
    return min(left)[-1] if left else None


def next_pair(
    segments: Sequence[PlannedSegment],
    ratings: Sequence[Rating],
    comparisons: Sequence[Comparison],
    seed: int,
) -> tuple[str, str] | None:
    """The two segments to be compared next.

    Among pairs of which equally much is to be learnt, those of the same passage come first, then
    those of one song, then those whose segments have been compared least; what is still equal is
    drawn, and so is the order within the pair.

    Args:
        segments: all that can be compared, always in the same order.
        ratings: that hold, of all whose scores count.
        comparisons: that hold, of this rater alone.
        seed: of the draw.

    Returns:
        Their names; None when enough has been asked, or no pair is left that can be told apart.
    """
    if not pairs_left(segments, ratings, comparisons):
        return None
    pairs = _open_pairs(segments, ratings, comparisons)
    song, passage = np.array([(segment.song, segment.first_step) for segment in segments]).T
    times = collections.Counter(
        name for comparison in comparisons for name in (comparison.first, comparison.second)
    )
    asked = np.array([times[segment.name] for segment in segments])
    draw = np.random.default_rng(seed).random((len(segments), len(segments)))
    order = np.lexsort(
        (
            draw[pairs.first, pairs.second],
            asked[pairs.first] + asked[pairs.second],
            passage[pairs.first] != passage[pairs.second],
            song[pairs.first] != song[pairs.second],
            pairs.group,
        )
    )
    i, j = pairs.first[order[0]], pairs.second[order[0]]
    first, second = segments[i].name, segments[j].name
    # The lower triangle of the draw has not been used yet.
    return (first, second) if draw[j, i] < 0.5 else (second, first)


def pairs_left(
    segments: Sequence[PlannedSegment],
    ratings: Sequence[Rating],
    comparisons: Sequence[Comparison],
) -> int:
    """How many pairs are still to be asked, by what is known now; arguments as `next_pair`."""
    wanted = PAIRS_A_SEGMENT * len(segments) - len(comparisons)
    return max(0, min(wanted, len(_open_pairs(segments, ratings, comparisons).first)))


def _parts(segment: PlannedSegment) -> tuple[object, ...]:
    """What shall be asked equally often, the most important first."""
    noise = (segment.noise, segment.temperature)
    return segment.checkpoint, (segment.checkpoint, noise), noise


def _open_pairs(
    segments: Sequence[PlannedSegment],
    ratings: Sequence[Rating],
    comparisons: Sequence[Comparison],
) -> _Pairs:
    """The pairs that have not been asked and may be told apart."""
    index = {segment.name: number for number, segment in enumerate(segments)}
    first, second = np.triu_indices(len(segments), k=1)
    gap = np.abs(np.subtract(*_mean_scores(index, ratings)[np.stack([first, second])]))
    checkpoint = np.array([segment.checkpoint for segment in segments])
    group = np.select(
        [
            (gap >= LEAST_GAP) & (gap <= GREATEST_GAP),
            np.isnan(gap) & (checkpoint[first] != checkpoint[second]),
            np.isnan(gap) | (gap > GREATEST_GAP),
        ],
        [0, 1, 2],
        default=-1,
    )
    asked = np.zeros((len(segments), len(segments)), bool)
    for comparison in comparisons:
        if comparison.first in index and comparison.second in index:
            i, j = sorted((index[comparison.first], index[comparison.second]))
            asked[i, j] = True
    may = (group >= 0) & ~asked[first, second]
    return _Pairs(first[may], second[may], group[may])


def _mean_scores(index: dict[str, int], ratings: Sequence[Rating]) -> np.ndarray:
    """(segments,) float64: means over raters, NaN where there is no rating."""
    total, count = np.zeros(len(index)), np.zeros(len(index))
    for rating in ratings:
        if rating.segment in index:
            total[index[rating.segment]] += rating.score
            count[index[rating.segment]] += 1
    return np.divide(total, count, out=np.full(len(index), np.nan), where=count > 0)
