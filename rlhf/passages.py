"""Passages: which stretches of the songs are recorded, and which of them first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import require
from piano.metrics import note_metrics
from piano.performance import Performance

LEAST_PASSAGES, MOST_PASSAGES = 7, 14
"""Least and greatest default number of passages in all."""


class Passage(NamedTuple):
    """A stretch of a song, in control steps."""

    song: int
    first_step: int
    last_step: int
    """The one after its last."""


def choose(
    due_keys: Sequence[np.ndarray],
    size: int,
    count: int | None = None,
    begin: int = 0,
    end: int | None = None,
) -> list[Passage]:
    """Passages of `size` control steps, spread evenly.

    Songs get as many passages as they are long, each at least one. Passages of a song begin a
    quarter of their size apart at least, and may overlap. A passage moves by up to an eighth of
    its size, so that it neither begins nor ends where a note is due: those notes, played a little
    early or late, would belong to the neighbor.

    Args:
        due_keys: of each song, (T, 88) bool.
        size: of a passage; a shorter song is one passage.
        count: in all; by default one for every two sizes, but no fewer than `LEAST_PASSAGES`,
            as far as there is room, and no more than `MOST_PASSAGES`.
        begin: control step from which passages are taken.
        end: control step up to which they are taken; by default the end of the song.

    Returns:
        By song, then by control step.

    Raises:
        BadInput: there is no room for any, or for as many as `count` says.
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
    """The passages by how many of their notes are missed or wrong, most mistakes first.

    Args:
        passages: each is taken once; of those with as many mistakes the earlier comes first.
        performances: of the whole songs, by song.
    """

    def mistakes(passage: Passage) -> float:
        window = performances[passage.song].window(passage.first_step, passage.last_step)
        found = note_metrics(window.due_notes, window.played_notes)
        return found["missed_notes"] + found["wrong_notes"]

    return sorted(sorted(set(passages)), key=mistakes, reverse=True)


def _between_notes(due: np.ndarray, place: int, size: int, begin: int, end: int) -> int:
    """The first step, near `place`, whose edges are furthest from a note's beginning."""
    onsets = np.flatnonzero((due & ~np.vstack([np.zeros_like(due[:1]), due[:-1]])).any(axis=1)) + 1
    nearby = range(max(begin, place - size // 8), min(end - size, place + size // 8) + 1)

    def clearance(first: int) -> tuple[float, int]:
        edges = np.array([edge for edge in (first, first + size) if 0 < edge < len(due)])
        distance = np.abs(onsets[:, None] - edges[None, :]).min(initial=_CLEAR)
        return distance, -abs(first - place)

    return max(nearby, key=clearance)


_CLEAR = 3
"""Control steps between an edge and a note's beginning beyond which more makes no difference."""
