"""The piano roll of a song, laid out for the SVG of `song_roll.html`."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from piano.keyboard import KEYS, LOWEST_PITCH
from report.key_statuses import Bar, Onset, note_name
from report.piano_roll import MOST_TITLES, View, count_rows, lay_out_velocities
from report.song_facts import SongFacts

_MOST_BAR_NUMBERS = 20
_DOWN = 64  # Pedal values from here on are down.


def lay_out_song(facts: SongFacts) -> dict[str, Any]:
    """Lays out notes, pedal, bars, velocities and hard jumps, in rows of about 20 s.

    Returns:
        `rows`, whether there are `bars`, and whether there are few enough notes to be `titled`.
    """
    assert facts.song is not None
    sequence = facts.song.midi.seq
    notes = [
        Bar("hit", note.pitch - LOWEST_PITCH, note.start_time, note.end_time)
        for note in sequence.notes
    ]
    onsets = [
        Onset(
            "hit",
            bar.key,
            bar.onset,
            f"{note_name(bar.key)}, {bar.span}: velocity {note.velocity}",
            None,
            note.velocity,
        )
        for bar, note in zip(notes, sequence.notes, strict=True)
    ]
    changes = [(one.time, one.control_value >= _DOWN) for one in sequence.control_changes]
    pedal = _pedal_bars(changes, sequence.total_time)
    lines = list(facts.bar_lines())
    low = max(0, min(bar.key for bar in notes) - 2)
    high = min(KEYS - 1, max(bar.key for bar in notes) + 2)
    rows = []
    edges = np.linspace(0, sequence.total_time, count_rows(sequence.total_time) + 1).tolist()
    for start, stop in itertools.pairwise(edges):
        view = View(low, high, start, stop)
        within = [onset for onset in onsets if start <= onset.seconds < stop]
        bars = [line for line in lines if start <= line[1] < stop]
        rows.append(
            {
                "view": view,
                "notes": view.cut(notes),
                "pedal": view.cut(pedal),
                "lines": bars,
                "numbered": max(1, len(bars) // _MOST_BAR_NUMBERS),
                "jumps": [jump for jump in facts.jumps if start <= jump.seconds < stop],
                "velocities": lay_out_velocities(view, within),
            }
        )
    return {"rows": rows, "bars": bool(lines), "titled": len(notes) <= MOST_TITLES}


def _pedal_bars(changes: Sequence[tuple[float, bool]], seconds: float) -> list[Bar]:
    """Returns the spans in which the pedal is down."""
    bars, since = [], None
    for time, down in [*changes, (seconds, False)]:
        if down and since is None:
            since = time
        elif not down and since is not None:
            bars.append(Bar("hit", 0, since, time))
            since = None
    return bars
