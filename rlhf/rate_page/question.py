"""What a rater is shown: segments, what was answered about them, how far the rater is."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf.asking_order import next_pair, next_segment, pairs_left, seed_of
from rlhf.collection import PlannedSegment
from rlhf.ratings import Rater, Rating, Ratings

Mode = Literal["single", "pairs"]
_LEAST_GAPS = 2  # Times between answers from which the time left is estimated.

Segments = tuple[str, ...]


class Place(NamedTuple):
    """Where a question stands among those that a rater has answered."""

    answered: bool
    """Whether it is one of them, to be corrected."""
    earlier: Segments
    """What was answered before it; empty if nothing was."""
    later: Segments
    """What was answered after it; empty if the next new question comes after it."""


class Question(NamedTuple):
    """One question to one rater."""

    mode: Mode
    segments: Segments
    """Names: one, or the two of a pair; empty when there is nothing left to ask."""
    place: Place
    score: int | None
    """What the rater has answered."""
    comment: str
    preferred: str | None
    done: int
    """Questions that this rater has answered."""
    total: int
    seconds_left: float | None
    """By this rater's median time an answer; None as long as that is unknown."""


def ask(
    segments: Sequence[PlannedSegment], ratings: Ratings, rater: Rater, mode: Mode, show: Segments
) -> Question:
    """The question that a rater is to be shown.

    Args:
        segments: all that are asked about, always in the same order.
        ratings: of the collection.
        rater: who is asked.
        mode: what to ask.
        show: what to ask about; empty for what has not been answered yet.
    """
    if mode == "pairs":
        return _ask_pair(segments, ratings, rater, show)
    return _ask_single(segments, ratings, rater, show)


def of_people(ratings: Sequence[Rating]) -> list[Rating]:
    """Without those of simulated raters."""
    return [rating for rating in ratings if rating.rater.kind == "person"]


def _ask_single(
    segments: Sequence[PlannedSegment], ratings: Ratings, rater: Rater, show: Segments
) -> Question:
    names = {segment.name for segment in segments}
    answered = [name for name in ratings.answered(rater.name) if name in names]
    own = {rating.segment: rating for rating in ratings.ratings() if rating.rater == rater}
    if not show:
        following = next_segment(segments, set(answered), seed_of(rater.name))
        show = () if following is None else (following,)
    answer = own.get(show[0]) if show else None
    left = len(segments) - len(answered)
    return Question(
        mode="single",
        segments=show,
        place=_find([(name,) for name in answered], show),
        score=None if answer is None else answer.score,
        comment="" if answer is None else answer.comment,
        preferred=None,
        done=len(answered),
        total=len(segments),
        seconds_left=_seconds_left([rating.time for rating in own.values()], left),
    )


def _ask_pair(
    segments: Sequence[PlannedSegment], ratings: Ratings, rater: Rater, show: Segments
) -> Question:
    names = {segment.name for segment in segments}
    own = {
        (comparison.first, comparison.second): comparison
        for comparison in ratings.comparisons()
        if comparison.rater == rater and {comparison.first, comparison.second} <= names
    }
    answers, scores = list(own.values()), of_people(ratings.ratings())
    if not show:
        show = next_pair(segments, scores, answers, seed_of(rater.name)) or ()
    left = pairs_left(segments, scores, answers)
    return Question(
        mode="pairs",
        segments=show,
        place=_find(list(own), show),
        score=None,
        comment="",
        preferred=own[show].preferred if show in own else None,
        done=len(own),
        total=len(own) + left,
        seconds_left=_seconds_left([comparison.time for comparison in answers], left),
    )


def _find(answered: Sequence[Segments], show: Segments) -> Place:
    """Where a question stands among those answered, oldest first."""
    around: list[Segments] = [(), *answered, ()]
    if show in answered:
        index = around.index(show, 1)
        return Place(True, around[index - 1], around[index + 1])
    return Place(False, around[-2], ())


def _seconds_left(times: Sequence[float], left: int) -> float | None:
    """The median is not moved by breaks."""
    gaps = np.diff(sorted(times))
    return left * float(np.median(gaps)) if len(gaps) >= _LEAST_GAPS else None
