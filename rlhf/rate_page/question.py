"""What a rater is shown: segments, what was answered about them, how far the rater is."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf.asking_order import next_repeat, next_segment, repeats_in, seed_of
from rlhf.asking_pairs import Asked, next_pair, pairs_left
from rlhf.collection import PlannedSegment
from rlhf.ratings import Comparison, Rater, Rating, Ratings

Mode = Literal["single", "pairs"]
_LEAST_GAPS = 2  # Times between answers from which the time left is estimated.

Segments = tuple[str, ...]


class Place(NamedTuple):
    """Where a question stands among those that a rater has answered, repetitions left out."""

    answered: bool
    """Whether it is one of them, to be corrected."""
    earlier: Segments
    """What was answered before it; empty if nothing was."""
    later: Segments
    """What was answered after it; empty if the next new question comes after it."""


class Question(NamedTuple):
    """One question to one rater."""

    mode: Mode
    attribute: str
    """What is asked for; empty for quality as a whole."""
    segments: Segments
    """Names: one, or the two of a pair; empty when there is nothing left to ask."""
    repetition: bool
    """Whether the rater has answered it before, and is asked again to see how consistent the
    answers are. The page does not show it."""
    place: Place
    score: int | None
    """What the rater has answered."""
    comment: str
    preferred: str | None
    passage: int
    """Which passage it is about, from 1, in the order of the music; 0 if nothing is asked."""
    passages: int
    """How many there are."""
    done: int
    """Questions that this rater has answered."""
    total: int
    """That and what is still to be asked; of pairs about so many."""
    seconds_left: float | None
    """By this rater's median time an answer; None as long as that is unknown."""


class Subject(NamedTuple):
    """What a session asks about."""

    segments: Sequence[PlannedSegment]
    """Always in the same order."""
    attribute: str
    difference: Callable[[], np.ndarray]
    """Gives the differences between segments that `rlhf.asking_pairs.Asked` describes."""

    def passage(self, show: Segments) -> int:
        """The number of a question's passage, from 1; 0 if there is none."""
        of = {segment.name: segment.passage for segment in self.segments}
        return sorted(set(of.values())).index(of[show[0]]) + 1 if show else 0

    @property
    def passages(self) -> int:
        """How many there are."""
        return len({segment.passage for segment in self.segments})


def ask(subject: Subject, ratings: Ratings, rater: Rater, mode: Mode, show: Segments) -> Question:
    """The question that a rater is to be shown.

    Args:
        subject: what is asked about.
        ratings: of the collection.
        rater: who is asked.
        mode: what to ask.
        show: what to ask about, to be corrected; empty for what is to be asked next.
    """
    if mode == "pairs":
        return _ask_pair(subject, ratings, rater, show)
    return _ask_single(subject, ratings, rater, show)


def of_people(ratings: Sequence[Rating]) -> list[Rating]:
    """Without those of simulated raters."""
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
        place=_find([(name,) for name in answered], () if again is not None else show),
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
    # The two change places when they come again.
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
        place=_find(list(own), show),
        score=None,
        comment="",
        preferred=own[show].preferred if show in own else None,
        passage=subject.passage(show),
        passages=subject.passages,
        done=done,
        total=total,
        seconds_left=_seconds_left([one.time for one in answers], total - done),
    )


def _find(answered: Sequence[Segments], show: Segments) -> Place:
    """Where a question stands among those answered, oldest first."""
    around: list[Segments] = [(), *answered, ()]
    if show and show in answered:
        index = around.index(show, 1)
        return Place(True, around[index - 1], around[index + 1])
    return Place(False, around[-2], ())


def _seconds_left(times: Sequence[float], left: int) -> float | None:
    """The median is not moved by breaks."""
    gaps = np.diff(sorted(times))
    return left * float(np.median(gaps)) if len(gaps) >= _LEAST_GAPS else None
