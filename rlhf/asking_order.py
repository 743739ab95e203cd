"""The order in which a rater is asked about segments.

All functions are pure, so that a reload of the page asks the same question again.

A *passage* is a part of a song. The rater is asked about its renditions one after another, and so
hears the same music several times before it changes. Within a passage all makers (checkpoint and
variation) take turns, so that a few answers span the whole range of quality. One question in ten
is asked again.

`rlhf.asking_pairs` decides which pairs a rater is asked about.
"""

import collections
import hashlib
from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

import numpy as np

from rlhf.collection import PlannedSegment

REPEAT_EVERY = 10
"""Number of answers after which one question is asked again."""
LEAST_ANSWERS_BETWEEN = 5
"""Minimum number of answers between a question and its repetition."""

_Question = TypeVar("_Question", bound=Hashable)


def seed_of(rater: str) -> int:
    """Returns a seed that gives each rater an individual order."""
    return int.from_bytes(hashlib.sha256(rater.encode()).digest()[:8], "big")


def next_segment(
    segments: Sequence[PlannedSegment], answered: Sequence[str], seed: int
) -> str | None:
    """Chooses the segment to be rated next.

    The passage of the last answer is completed first; the passage after it is drawn at random.
    Within a passage checkpoints take turns, and within a checkpoint its variations take turns. Ties
    are broken at random.

    Args:
        segments: All segments that can be rated, always in the same order.
        answered: Names of the segments that this rater has rated or skipped, oldest first.
        seed: Random seed of the draw.

    Returns:
        The segment's name; None if all have been answered.
    """
    done = set(answered)
    left = [segment for segment in segments if segment.name not in done]
    if not left:
        return None
    of = {segment.name: segment.passage for segment in segments}
    known = [of[name] for name in answered if name in of]
    current = known[-1] if known else None
    random = np.random.default_rng(seed)
    places = dict(zip(of, random.permutation(len(segments)), strict=True))
    turns = dict(zip(sorted(set(of.values())), random.permutation(len(segments)), strict=False))
    asked: collections.Counter[object] = collections.Counter()
    for segment in segments:
        if segment.name in done:
            asked.update(_parts(segment))

    def order(segment: PlannedSegment) -> tuple[int, ...]:
        passage = of[segment.name]
        times = (asked[part] for part in _parts(segment))
        return passage != current, turns[passage], *times, places[segment.name]

    return min(left, key=order).name


def next_repeat(
    answered: Sequence[_Question], repeated: Collection[_Question], seed: int
) -> _Question | None:
    """Chooses the question to be asked again now, if any: one for every ten answers.

    Args:
        answered: Questions that have been answered, oldest first, without repetitions.
        repeated: Questions that have been asked again.
        seed: Random seed of the draw.

    Returns:
        The question; None if none is to be asked again now.
    """
    number = sum(question in repeated for question in answered)
    if len(answered) // REPEAT_EVERY <= number:
        return None
    old = [one for one in answered[:-LEAST_ANSWERS_BETWEEN] if one not in repeated]
    return old[np.random.default_rng((seed, number)).integers(len(old))] if old else None


def repeats_in(total: int) -> int:
    """Returns the number of repetitions in a session of `total` answers."""
    return total // REPEAT_EVERY


# --- Makers and passages --------------------------------------------------------------------


def _parts(segment: PlannedSegment) -> tuple[Hashable, ...]:
    """Returns keys whose counts are to be balanced within a passage, the most important first."""
    variation, passage = segment.variation, segment.passage
    return (
        (passage, segment.checkpoint),
        (passage, segment.checkpoint, variation),
        (passage, variation),
    )
