"""The status of every key and every note: hit, missed or wrong.

Keys are compared frame by frame. Notes are compared by their onsets, as in `piano.metrics`.
"""

from typing import NamedTuple

import numpy as np

from piano.metrics import ONSET_TOLERANCE_SECONDS, match_notes
from piano.performance import Performance, notes_of_frames

TOLERANCE = f"{1000 * ONSET_TOLERANCE_SECONDS:.0f} ms"

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


class Bar(NamedTuple):
    """A span of time in seconds during which a key or the pedal keeps one status."""

    status: str
    """Status: hit (due and played), missed (due only), wrong (played only), or due (only for the
    pedal)."""
    key: int
    onset: float
    offset: float

    @property
    def span(self) -> str:
        """Onset and offset in words."""
        return _span(self.onset, self.offset)


class Onset(NamedTuple):
    """The onset of a due or a wrong note."""

    status: str
    key: int
    seconds: float
    words: str
    due: float | None
    """MIDI velocity in the score; None if the score has none or the note is not due."""
    played: float | None
    """MIDI velocity as played; None if the note was missed."""


def find_bars(performance: Performance) -> list[Bar]:
    """Returns the bars of all keys, grouped by status with the missed ones first."""
    due, played = performance.due_keys, performance.played_keys
    masks = {"missed": due & ~played, "wrong": played & ~due, "hit": due & played}
    return _bars(masks, performance)


def find_pedal_bars(performance: Performance) -> list[Bar]:
    """Returns the bars of the pedal: due, played as due, and played wrongly."""
    due, played = performance.due_pedal[:, None], performance.played_pedal[:, None]
    return _bars({"due": due, "hit": due & played, "wrong": played & ~due}, performance)


def _bars(masks: dict[str, np.ndarray], performance: Performance) -> list[Bar]:
    control_timestep = float(performance.control_timestep)
    return [
        Bar(status, int(key), onset, offset)
        for status, mask in masks.items()
        for onset, offset, key in notes_of_frames(mask, control_timestep).tolist()
    ]


def find_onsets(performance: Performance) -> list[Onset]:
    """Returns one onset for each due note and for each played note that hits none."""
    due, played = performance.due_notes, performance.played_notes
    wanted = [value if np.isfinite(value) else None for value in performance.due_velocities]
    hits = dict(match_notes(due, played))
    onsets = []
    for i, (note, loud) in enumerate(zip(due, wanted, strict=True)):
        asked = "" if loud is None else f", due {loud:.0f}"
        if i in hits:
            onset, _, _, velocity = played[hits[i]]
            words = f"hit, {_delay(onset - note[0])}, velocity {velocity:.0f}{asked}"
            onsets.append(_onset("hit", note, words, loud, velocity))
        else:
            words = f"missed, no onset within {TOLERANCE}"
            onsets.append(_onset("missed", note, words, loud, None))
    for j in sorted(set(range(len(played))) - set(hits.values())):
        words = f"wrong, velocity {played[j, 3]:.0f}, none due within {TOLERANCE}"
        onsets.append(_onset("wrong", played[j], words, None, played[j, 3]))
    return onsets


def _onset(
    status: str, note: np.ndarray, words: str, due: float | None, played: float | None
) -> Onset:
    onset, offset, key = note[:3].tolist()
    words = f"{note_name(int(key))}, {_span(onset, offset)}: {words}"
    return Onset(status, int(key), onset, words, due, played)


def _span(onset: float, offset: float) -> str:
    return f"{onset:.2f} to {offset:.2f} s"


def _delay(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    if not milliseconds:
        return "exactly on time"
    return f"{abs(milliseconds)} ms {'late' if milliseconds > 0 else 'early'}"


def note_name(key: int) -> str:
    """Returns the name of a piano key, 0 (A0) to 87 (C8), for example C#5."""
    return f"{_NAMES[(key + 21) % 12]}{(key + 21) // 12 - 1}"


def key_range(*performances: Performance) -> tuple[int, int]:
    """Returns the lowest and highest key to draw: all keys due or played, plus two per side."""
    notes = [one.due_notes[:, 2] for one in performances]
    notes += [one.played_notes[:, 2] for one in performances]
    keys = np.concatenate(notes)
    return max(0, int(keys.min()) - 2), min(87, int(keys.max()) + 2)
