"""Which segment a rater is asked about next: pure functions, so that a reload asks the same again.

A *passage* is a part of a song. Its renditions are asked about one after another, so that the rater
hears the same music several times before it changes. Within a passage renditions are drawn from all
makers (checkpoint and variation) in turn, so that few answers span the whole range of quality. One
answer in ten is asked for again.

Which pairs are asked about: `rlhf.asking_pairs`.
"""

import collections
import hashlib
from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

import numpy as np

from rlhf.collection import PlannedSegment

REPEAT_EVERY = 10
"""After every so many answers one is asked for again."""
LEAST_ANSWERS_BETWEEN = 5
"""Answers that lie between a question and its repetition, at least."""

_Question = TypeVar("_Question", bound=Hashable)


def seed_of(rater: str) -> int:
    """The seed that gives each rater an order of their own."""
    return int.from_bytes(hashlib.sha256(rater.encode()).digest()[:8], "big")


def next_segment(
    segments: Sequence[PlannedSegment], answered: Sequence[str], seed: int
) -> str | None:
    """The segment to be rated next.

    The passage of the last answer is completed first; which one follows is drawn. Within a passage
    checkpoints take turns, and within each its variations; what is still equal is drawn.

    Args:
        segments: all that can be rated, always in the same order.
        answered: names that this rater has rated or skipped, oldest first.
        seed: of the draw.

    Returns:
        Its name; None when all have been answered.
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
    """The question to be asked again now, if any: one for every ten answers.

    Args:
        answered: what has been answered, oldest first, without repetitions.
        repeated: what has been asked again.
        seed: of the draw.
    """
    number = sum(question in repeated for question in answered)
    if len(answered) // REPEAT_EVERY <= number:
        return None
    old = [one for one in answered[:-LEAST_ANSWERS_BETWEEN] if one not in repeated]
    return old[np.random.default_rng((seed, number)).integers(len(old))] if old else None


def repeats_in(total: int) -> int:
    """How many repetitions a session of so many answers has."""
    return total // REPEAT_EVERY


# --- Makers and passages --------------------------------------------------------------------


def _parts(segment: PlannedSegment) -> tuple[Hashable, ...]:
    """What shall be asked equally often within a passage, the most important first."""
    variation, passage = segment.variation, segment.passage
    return (
        (passage, segment.checkpoint),
        (passage, segment.checkpoint, variation),
        (passage, variation),
    )
