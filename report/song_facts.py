"""What a MIDI file holds, what would be played of it, and which parts suit a training."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from common.errors import BadInput
from piano.config import ArrangementConfig
from piano.jumps import Jump, find_jumps, most_at_once
from piano.keyboard import LOWEST_PITCH
from piano.midi_notes import Finding, MidiPiece, Programs, read_piece
from piano.midi_reader import Track
from piano.score_time import DEFAULT_TEMPO, Place
from piano.song import Song, TooLong, arrange
from report.key_statuses import note_name

_SAME_MOMENT = 1e-6
_MOST_BARS = 5000  # Files without music have bars of microseconds.
_MOST_BARS_OF_A_PART = 64
_SHORT_ENOUGH_SECONDS = 15.0
_SHORTEST_SECONDS, _BEST_SECONDS = 5.0, 10.0
_SPARSE = 0.25
"""Notes per second, in those of a usual part, below which a part is a rest."""
_ON_THE_BEAT = 0.8
"""Share of the notes of a score that begin on sixteenths or triplets of eighths."""

_Notes = list[tuple[float, float, int]]


class Suggestion(NamedTuple):
    """A part of a piece to train on."""

    flag: str
    """Flag that chooses it."""
    why: str
    seconds: float
    notes: int
    jumps: int
    """Jumps that a hand cannot make in time."""


@dataclasses.dataclass(frozen=True)
class SongFacts:
    """A MIDI file, and what would be played of it.

    Attributes:
        piece: Notes of the whole file.
        song: What would be played; None if it is too long.
        too_long: Why nothing can be played; empty if something can.
        jumps: Jumps in what would be played.
        stretch: Factor on the durations of what is played.
        suggestions: Parts to train on.
    """

    piece: MidiPiece
    song: Song | None
    too_long: str
    jumps: list[Jump]
    stretch: float
    suggestions: list[Suggestion]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was left out or repaired."""
        return self.song.findings if self.song else tuple(self.piece.findings)

    def place(self, seconds: float) -> Place:
        """Returns the place in the file of a time in what is played."""
        assert self.song is not None
        return self.piece.time.place_of_seconds(self.song.origin + seconds / self.stretch)

    def bar_lines(self) -> Iterator[tuple[int, float]]:
        """Yields the bars that begin in what is played, with their times in it in seconds."""
        assert self.song is not None
        first, last = self.place(0.0).bar, self.place(self.song.midi.seq.total_time).bar
        if first is None or last is None or last - first > _MOST_BARS:
            return
        for bar in range(first, last + 1):
            begin = (self.piece.time.start_of_bar(bar) - self.song.origin) * self.stretch
            if -_SAME_MOMENT <= begin < self.song.midi.seq.total_time:
                yield bar, max(0.0, begin)

    def to_json(self) -> dict[str, Any]:
        """Returns the facts as JSON values."""
        return {
            "holds": _describe_file(self.piece),
            "plays": self._describe_song(),
            "jumps": [
                _place_to_json(self.place(jump.seconds))
                | {
                    "hand": jump.hand,
                    "semitones": jump.semitones,
                    "available_seconds": round(jump.available, 3),
                }
                for jump in self.jumps
            ],
            "findings": [
                {
                    "what": finding.what,
                    "places": [_place_to_json(place) for place in finding.places],
                }
                for finding in self.findings
            ],
            "suggestions": [
                one._asdict() | {"seconds": round(one.seconds, 2)} for one in self.suggestions
            ],
        }

    def _describe_song(self) -> dict[str, Any] | None:
        if self.song is None:
            return None
        notes = notes_of(self.song)
        seconds = self.song.midi.seq.total_time
        pitches = [pitch for _, _, pitch in notes]
        return {
            "title": self.song.title,
            "seconds": round(seconds, 2),
            "notes": len(notes),
            "notes_per_second": round(len(notes) / seconds, 2),
            "lowest_key": note_name(min(pitches) - LOWEST_PITCH),
            "highest_key": note_name(max(pitches) - LOWEST_PITCH),
            "most_notes_at_once": most_at_once(notes),
            "hard_jumps": len(self.jumps),
        }


def find_facts(path: pathlib.Path, config: ArrangementConfig) -> SongFacts:
    """Reads a MIDI file, and finds what would be played of it.

    Args:
        path: Path of the file.
        config: The part to play, and how to play it.

    Raises:
        BadInput: The file cannot be read, or lacks what the flags name.
    """
    piece = read_piece(path, config.tracks, config.channels)
    song, too_long = None, ""
    try:
        song = arrange(path, piece, config)
    except TooLong as error:
        too_long = str(error)
    return SongFacts(
        piece=piece,
        song=song,
        too_long=too_long,
        jumps=find_jumps(notes_of(song)) if song else [],
        stretch=config.stretch_factor,
        suggestions=[] if config.excerpt or config.bars else _suggest(path, piece, config),
    )


def notes_of(song: Song) -> _Notes:
    """Returns start and end in seconds, and pitch, of each note."""
    return [(note.start_time, note.end_time, note.pitch) for note in song.midi.seq.notes]


def _place_to_json(place: Place) -> dict[str, Any]:
    return {"bar": place.bar, "seconds": round(place.seconds, 3)}


def _describe_file(piece: MidiPiece) -> dict[str, Any]:
    contents, time, programs = piece.contents, piece.time, Programs(piece.contents)
    onsets = sum(len(track.onsets) for track in contents.tracks)
    tempi = list(contents.tempi.values()) or [DEFAULT_TEMPO]
    beats = [round(60e6 / tempo, 2) for tempo in (max(tempi), min(tempi))]
    has_beats = contents.ticks_per_beat is not None
    meters = dict.fromkeys(f"{top}/{below}" for top, below in contents.meters.values())
    return {
        "seconds": round(time.seconds(max(track.end for track in contents.tracks)), 2),
        "notes": onsets,
        "bars": piece.last_bar,
        "time_signatures": list(meters) or (["4/4"] if has_beats else []),
        "tempo_changes": sum(tick > 0 for tick in contents.tempi) if has_beats else 0,
        "beats_per_minute": sorted(set(beats)) if has_beats else [],
        "tracks": [_describe_track(track, programs) for track in contents.tracks],
    }


def _describe_track(track: Track, programs: Programs) -> dict[str, Any]:
    onsets = track.onsets
    return {
        "track": track.number,
        "name": track.name,
        "channels": sorted({event.channel + 1 for event in onsets}),
        "instruments": sorted({programs.instrument(event) for event in onsets}),
        "notes": len(onsets),
    }


def _suggest(path: pathlib.Path, piece: MidiPiece, config: ArrangementConfig) -> list[Suggestion]:
    """Returns parts of about ten seconds: the opening, the sparsest, and the densest."""
    time = piece.time
    starts = np.sort([time.seconds(note.start) for note in piece.notes])
    last = time.seconds(max(note.end for note in piece.notes))
    if last - starts[0] <= _SHORT_ENOUGH_SECONDS:
        return []
    windows = list(_windows_of_bars(piece)) if _follows_its_bars(piece) else []
    windows = windows or list(_windows_of_seconds(starts, last))
    edges = np.array([[begin, end] for begin, end, _ in windows])
    counts = np.diff(np.searchsorted(starts, edges))[:, 0] / np.diff(edges)[:, 0]
    few = np.median(counts) * _SPARSE
    sparse = min(range(len(windows)), key=lambda i: (counts[i] < few, counts[i]))
    reasons: dict[int, list[str]] = {}
    for i, why in ((0, "the opening"), (sparse, "few notes"), (int(counts.argmax()), "many notes")):
        reasons.setdefault(i, []).append(why)
    found = (
        _suggestion(path, piece, config, windows[i][2], ", ".join(why))
        for i, why in sorted(reasons.items())
    )
    return [suggestion for suggestion in found if suggestion]


def _suggestion(
    path: pathlib.Path, piece: MidiPiece, config: ArrangementConfig, value: str, why: str
) -> Suggestion | None:
    """Returns a part of a piece; None if it cannot be played."""
    flag = "excerpt" if ":" in value else "bars"
    excerpt, bars = (value, "") if flag == "excerpt" else ("", value)
    try:
        song = arrange(path, piece, dataclasses.replace(config, excerpt=excerpt, bars=bars))
    except BadInput:
        return None
    notes = notes_of(song)
    seconds = song.midi.seq.total_time
    return Suggestion(f"--{flag} {value}", why, seconds, len(notes), len(find_jumps(notes)))


def _follows_its_bars(piece: MidiPiece) -> bool:
    """Returns whether the notes begin on fractions of the beat, as in a score."""
    beat = piece.contents.ticks_per_beat
    if beat is None:
        return False
    offsets = np.array([note.start for note in piece.notes], np.float64)
    near = np.zeros(len(offsets), bool)
    for parts in (4, 3):
        step = beat / parts
        near |= np.abs(offsets - np.round(offsets / step) * step) <= max(1.0, beat / 96)
    return bool(near.mean() >= _ON_THE_BEAT)


def _windows_of_bars(piece: MidiPiece) -> Iterator[tuple[float, float, str]]:
    """Yields begin, end and numbers of the bars of about ten seconds from each bar with a note."""
    time, last = piece.time, piece.last_bar
    assert last is not None
    for first in sorted({time.bar(note.start) or 1 for note in piece.notes}):
        begin = time.start_of_bar(first)
        bar = time.place_of_seconds(begin + _BEST_SECONDS).bar
        assert bar is not None
        # Bar `bar` holds the tenth second. The part ends before or after it.
        ends = [
            (abs(time.start_of_bar(one) - begin - _BEST_SECONDS), one) for one in (bar, bar + 1)
        ]
        after = min(ends)[1]
        end = time.start_of_bar(after)
        fits = after - 1 <= last and after - first <= _MOST_BARS_OF_A_PART
        if fits and _SHORTEST_SECONDS <= end - begin <= _SHORT_ENOUGH_SECONDS:
            yield begin, end, f"{first}-{after - 1}"


def _windows_of_seconds(starts: np.ndarray, last: float) -> Iterator[tuple[float, float, str]]:
    """Yields begin, end and both in words of ten seconds from the first note in each second."""
    for start in starts[np.unique(np.floor(starts), return_index=True)[1]].tolist():
        begin = math.floor(start * 100) / 100
        end = begin + _BEST_SECONDS
        if end <= last or start == starts[0]:
            yield begin, end, f"{begin:.2f}:{end:.2f}"
