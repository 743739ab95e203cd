"""Questions to a rater: segments, earlier answers about them, and progress."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf.asking_order import next_repeat, next_segment, repeats_in, seed_of
from rlhf.asking_pairs import Asked, next_pair, pairs_left
from rlhf.collection import PlannedSegment
from rlhf.ratings import Comparison, Rater, Rating, Ratings

Mode = Literal["single", "pairs"]
_LEAST_GAPS = 2  # Minimum number of gaps between answers for an estimate of the time left.

Segments = tuple[str, ...]


class Position(NamedTuple):
    """Position of a question among a rater's answered questions, without repetitions."""

    answered: bool
    """Whether the question has been answered and can be corrected."""
    earlier: Segments
    """Segments of the question answered before this one; empty if there is none."""
    later: Segments
    """Segments of the question answered after this one; empty if a new question follows."""


class Question(NamedTuple):
    """One question to one rater."""

    mode: Mode
    attribute: str
    """Attribute that is asked about; empty for quality as a whole."""
    segments: Segments
    """Names of one segment, or of the two of a pair; empty if nothing is left to ask."""
    repetition: bool
    """Whether the rater is asked again, to measure the consistency of the answers. The page does
    not show it."""
    position: Position
    score: int | None
    """Score that the rater has given; None if there is none."""
    comment: str
    preferred: str | None
    passage: int
    """Number of the passage, from 1, in the order of the music; 0 if nothing is asked."""
    passages: int
    """Number of passages in the collection."""
    done: int
    """Number of questions that this rater has answered."""
    total: int
    """Number of answered and open questions; an estimate for pairs."""
    seconds_left: float | None
    """Estimated time left from this rater's median time per answer; None if unknown."""


class Subject(NamedTuple):
    """The segments and the attribute that a session asks about."""

    segments: Sequence[PlannedSegment]
    """Segments, always in the same order."""
    attribute: str
    difference: Callable[[], np.ndarray]
    """Function that returns the differences between segments, see `rlhf.asking_pairs.Asked`."""

    def passage(self, show: Segments) -> int:
        """Returns the number of a question's passage, from 1; 0 if there is none."""
        of = {segment.name: segment.passage for segment in self.segments}
        return sorted(set(of.values())).index(of[show[0]]) + 1 if show else 0

    @property
    def passages(self) -> int:
        """Number of passages."""
        return len({segment.passage for segment in self.segments})


def ask(subject: Subject, ratings: Ratings, rater: Rater, mode: Mode, show: Segments) -> Question:
    """Returns the question that a rater is shown.

    Args:
        subject: Segments and attribute of the session.
        ratings: Ratings of the collection.
        rater: Rater who is asked.
        mode: Kind of the question.
        show: Segments of an answered question to be corrected; empty for the next question.
    """
    if mode == "pairs":
        return _ask_pair(subject, ratings, rater, show)
    return _ask_single(subject, ratings, rater, show)


def of_people(ratings: Sequence[Rating]) -> list[Rating]:
    """Returns the ratings by people, without those by simulated raters."""
    return [rating for rating in ratings if rating.rater.kind == "person"]


def _ask_single(subject: Subject, ratings: Ratings, rater: Rater, show: Segments) -> Question:
    segments, attribute = subject.segments, subject.attribute
    names = {segment.name for segment in segments}

    def of_rater(repetition: bool) -> list[str]:
        answers = ratings.answered(rater.name, attribute, repetition)
        return [name for name in answers if name in names]

    answered, repeated = of_rater(False), of_rater(True)
    own = {one.segment: one for one in ratings.ratings(attribute) if one.rater == rater}
    scored = [name for name in answered if name in own]
    again = None if show else next_repeat(scored, repeated, seed_of(rater.name))
    following = again or next_segment(segments, answered, seed_of(rater.name))
    if not show and following is not None:
        show = (following,)
    answer = own.get(show[0]) if show and again is None else None
    total = len(segments) + max(
        len(repeated), repeats_in(len(segments) - len(answered) + len(scored))
    )
    done = len(answered) + len(repeated)
    return Question(
        mode="single",
        attribute=attribute,
        segments=show,
        repetition=again is not None,
        position=_find([(name,) for name in answered], () if again is not None else show),
        score=None if answer is None else answer.score,
        comment="" if answer is None else answer.comment,
        preferred=None,
        passage=subject.passage(show),
        passages=subject.passages,
        done=done,
        total=total,
        seconds_left=_seconds_left([rating.time for rating in own.values()], total - done),
    )


def _ask_pair(subject: Subject, ratings: Ratings, rater: Rater, show: Segments) -> Question:
    segments, attribute = subject.segments, subject.attribute
    names = {segment.name for segment in segments}

    def of_rater(repetition: bool) -> list[Comparison]:
        return [
            one
            for one in ratings.comparisons(attribute, repetition)
            if one.rater == rater and {one.first, one.second} <= names
        ]

    answers, repetitions = of_rater(False), of_rater(True)
    own = {(one.first, one.second): one for one in answers}
    # The two segments swap places when their pair is repeated.
    repeated = {frozenset((one.first, one.second)) for one in repetitions}
    asked = Asked(of_people(ratings.ratings(attribute)), answers, subject.difference())
    again = None
    if not show:
        pairs = [frozenset(pair) for pair in own]
        again = next_repeat(pairs, repeated, seed_of(rater.name))
        show = next_pair(segments, asked, seed_of(rater.name)) or ()
    if again is not None:
        show = next((second, first) for first, second in own if {first, second} == again)
    wanted = len(own) + pairs_left(segments, asked)
    done = len(own) + len(repeated)
    total = wanted + max(len(repeated), repeats_in(wanted))
    return Question(
        mode="pairs",
        attribute=attribute,
        segments=show,
        repetition=again is not None,
        position=_find(list(own), show),
        score=None,
        comment="",
        preferred=own[show].preferred if show in own else None,
        passage=subject.passage(show),
        passages=subject.passages,
        done=done,
        total=total,
        seconds_left=_seconds_left([one.time for one in answers], total - done),
    )


def _find(answered: Sequence[Segments], show: Segments) -> Position:
    """Returns the position of a question among those answered, oldest first."""
    around: list[Segments] = [(), *answered, ()]
    if show and show in answered:
        index = around.index(show, 1)
        return Position(True, around[index - 1], around[index + 1])
    return Position(False, around[-2], ())


def _seconds_left(times: Sequence[float], left: int) -> float | None:
    """Estimates the time left by the median gap, which breaks hardly affect."""
    gaps = np.diff(sorted(times))
    return left * float(np.median(gaps)) if len(gaps) >= _LEAST_GAPS else None
