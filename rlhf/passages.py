"""Passages: the parts of the songs that are recorded, and their order."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import require
from piano.metrics import note_metrics
from piano.performance import Performance

LEAST_PASSAGES, MOST_PASSAGES = 7, 14
"""Minimum and maximum of the default total number of passages."""


class Passage(NamedTuple):
    """A part of a song, in control steps."""

    song: int
    first_step: int
    last_step: int
    """Control step before which the passage ends."""


def choose(
    due_keys: Sequence[np.ndarray],
    size: int,
    count: int | None = None,
    begin: int = 0,
    end: int | None = None,
) -> list[Passage]:
    """Chooses passages of `size` control steps that are spread evenly.

    The number of passages of a song is proportional to its length, but at least one. Passages of a
    song begin at least a quarter of their size apart, and may overlap. A passage moves by up to an
    eighth of its size, so that it neither begins nor ends where a note is due. Such a note, played
    a little early or late, would fall outside its passage.

    Args:
        due_keys: Keys due in each song, (T, 88) bool.
        size: Length of a passage in control steps; a shorter song is one passage.
        count: Total number of passages. By default one per two sizes, but at least
            `LEAST_PASSAGES`, as far as there is space, and at most `MOST_PASSAGES`.
        begin: Control step at which the first passage may begin.
        end: Control step at which the last passage must end; by default the end of the song.

    Returns:
        The passages, by song and then by control step.

    Raises:
        BadInput: The songs have no space for any passage, or for `count` of them.
    """
    ends = [len(due) if end is None else min(end, len(due)) for due in due_keys]
    lengths = [max(0, last - begin) for last in ends]
    total = sum(lengths)
    require(total > 0, "--from lies beyond the end of the song")
    wanted = count or max(LEAST_PASSAGES, min(MOST_PASSAGES, math.ceil(total / size / 2)))
    found = []
    for song, (due, last, length) in enumerate(zip(due_keys, ends, lengths, strict=True)):
        own_size = min(size, length)
        room = length - own_size
        share = max(1, round(wanted * length / total)) if length else 0
        for place in np.linspace(begin, begin + room, min(share, 1 + room // max(1, size // 4))):
            first = _between_notes(due, round(place), own_size, begin, last)
            found.append(Passage(song, first, first + own_size))
    require(
        count is None or len(found) >= count,
        f"--passages is {count}, but there is room for {len(found)}: they begin a quarter of "
        "--window-seconds apart at least",
    )
    return found


def worst_first(
    passages: Iterable[Passage], performances: Mapping[int, Performance]
) -> list[Passage]:
    """Sorts passages by their number of missed and wrong notes, most mistakes first.

    Args:
        passages: Passages; duplicates are removed, and ties keep the order of the music.
        performances: Performances of the whole songs, by song.
    """

    def mistakes(passage: Passage) -> float:
        window = performances[passage.song].window(passage.first_step, passage.last_step)
        found = note_metrics(window.due_notes, window.played_notes)
        return found["missed_notes"] + found["wrong_notes"]

    return sorted(sorted(set(passages)), key=mistakes, reverse=True)


def _between_notes(due: np.ndarray, place: int, size: int, begin: int, end: int) -> int:
    """Returns the first step near `place` whose passage has its edges furthest from note onsets."""
    onsets = np.flatnonzero((due & ~np.vstack([np.zeros_like(due[:1]), due[:-1]])).any(axis=1)) + 1
    nearby = range(max(begin, place - size // 8), min(end - size, place + size // 8) + 1)

    def clearance(first: int) -> tuple[float, int]:
        edges = np.array([edge for edge in (first, first + size) if 0 < edge < len(due)])
        distance = np.abs(onsets[:, None] - edges[None, :]).min(initial=_CLEAR)
        return distance, -abs(first - place)

    return max(nearby, key=clearance)


_CLEAR = 3
"""Distance of an edge from a note onset, in control steps, at which more makes no difference."""
