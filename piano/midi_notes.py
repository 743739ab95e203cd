"""The notes of a MIDI file for ten fingers, and what was left out or repaired."""

import bisect
import collections
import dataclasses
import heapq
import itertools
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import pretty_midi

from common.errors import require
from piano.keyboard import HIGHEST_PITCH, LOWEST_PITCH
from piano.midi_reader import ChannelEvent, MidiContents, NoteEvent, Track, read_midi_file
from piano.score_time import Place, ScoreTime

PERCUSSION = 9
"""Channel of percussion by General MIDI, from 0: channel 10 for people."""
_PIANOS = 8
_FINGERS = 10


class Finding(NamedTuple):
    """Something that was left out of a piece, repaired, or is to be known."""

    what: str
    """What was found, in words that follow the number of places if there are any."""
    places: tuple[Place, ...] = ()
    """Where it is, in the order of time; empty if it concerns the whole file."""

    @property
    def counted(self) -> str:
        """What was found, after the number of places if there are any."""
        return f"{len(self.places)} {self.what}" if self.places else self.what

    def __str__(self) -> str:
        """Describes the finding and its first place in one line."""
        return f"{self.counted}, first at {self.places[0]}" if self.places else self.counted

    def within(self, begin: float, end: float) -> "Finding | None":
        """Returns the finding in a span of seconds; None if it has places, but none there."""
        there = tuple(place for place in self.places if begin <= place.seconds < end)
        return self._replace(places=there) if there or not self.places else None


class Programs:
    """The instruments of a file's channels.

    Args:
        contents: Contents of the file.
    """

    def __init__(self, contents: MidiContents):
        changes = sorted(
            (change for track in contents.tracks for change in track.programs),
            key=lambda change: change.tick,
        )
        self._changes: dict[int, list[ChannelEvent]] = {}
        for change in changes:
            self._changes.setdefault(change.channel, []).append(change)

    def instrument(self, event: NoteEvent) -> str:
        """Returns the name of the instrument that plays a note, by General MIDI."""
        if event.channel == PERCUSSION:
            return "percussion"
        return pretty_midi.program_to_instrument_name(self._program(event))

    def is_piano(self, event: NoteEvent) -> bool:
        """Returns whether a note is of General MIDI's family of pianos."""
        return event.channel != PERCUSSION and self._program(event) < _PIANOS

    def _program(self, event: NoteEvent) -> int:
        changes = self._changes.get(event.channel, [])
        number = bisect.bisect_right(changes, event.tick, key=lambda change: change.tick)
        return changes[number - 1].value if number else 0


@dataclasses.dataclass
class Note:
    """A note with its times in ticks."""

    start: int
    end: int
    pitch: int
    velocity: int


@dataclasses.dataclass(frozen=True)
class MidiPiece:
    """A MIDI file as notes that ten fingers can play.

    Attributes:
        contents: Everything that the file holds.
        time: Seconds and bars of the ticks.
        notes: Notes to play.
        pedal: Values of the sustain pedal, by time.
        findings: What was left out or repaired.
    """

    contents: MidiContents
    time: ScoreTime
    notes: list[Note]
    pedal: list[ChannelEvent]
    findings: list[Finding]

    @property
    def last_bar(self) -> int | None:
        """Last bar that holds a part of a note or of the pedal; None if the file has no bars."""
        ends = [note.end for note in self.notes] + [event.tick for event in self.pedal]
        return self.time.bar(max(0, max(ends) - 1))


def read_piece(
    path: pathlib.Path, tracks: Collection[int] = (), channels: Collection[int] = ()
) -> MidiPiece:
    """Reads a MIDI file.

    Args:
        path: Path of the file.
        tracks: Tracks to play, from 1; empty for all.
        channels: Channels to play, from 1; empty for all but that of percussion.

    Raises:
        BadInput: The file cannot be read, lacks a track or channel, or has no note to play.
    """
    contents = read_midi_file(path)
    _require_choice(path, contents, tracks, channels)
    findings = _Findings(ScoreTime(contents))
    findings.add_oddities(contents)
    chosen = _choose(contents, tracks, channels, findings)
    _name_instruments(chosen, contents, findings)
    notes = [note for track in chosen for note in _pair_notes(track, findings)]
    require(
        bool(notes) or not any(track.onsets for track in contents.tracks),
        f"{path} has no note to play in the chosen tracks and channels; channel 10 is percussion, "
        "which only --channels 10 plays (pianist song FILE lists them)",
    )
    notes = _keep_on_keyboard(notes, findings)
    notes = _separate_overlaps(notes, findings)
    notes = _keep_ten_at_once(notes, findings)
    require(bool(notes), f"{path} has no note on the 88 keys of a piano")
    return MidiPiece(contents, findings.time, notes, _merge_pedals(chosen), findings.all)


def _merge_pedals(tracks: Sequence[Track]) -> list[ChannelEvent]:
    """Returns the changes of the piano's one pedal, which is down while any channel's is."""
    changes = [change for track in tracks for change in track.pedal]
    values: dict[int, int] = {}
    merged = []
    for change in sorted(changes, key=lambda change: change.tick):
        values[change.channel] = change.value
        merged.append(change._replace(value=max(values.values())))
    return merged


class _Findings:
    """The findings so far."""

    def __init__(self, time: ScoreTime):
        self.time = time
        self.all: list[Finding] = []

    def add(self, ticks: Sequence[int], what: str) -> None:
        """Adds a finding that is in several places, if there are any."""
        if ticks:
            places = tuple(self.time.place(tick) for tick in sorted(ticks))
            self.all.append(Finding(what, places))

    def add_oddities(self, contents: MidiContents) -> None:
        """Adds the oddities of a file. Those in the same words become one finding."""
        by_words: dict[str, list[Place]] = {}
        for oddity in contents.oddities:
            places = by_words.setdefault(oddity.what, [])
            if oddity.tick is not None:
                places.append(self.time.place(oddity.tick))
        for what, places in by_words.items():
            self.all.append(Finding(what, tuple(sorted(places))))


def _require_choice(
    path: pathlib.Path, contents: MidiContents, tracks: Collection[int], channels: Collection[int]
) -> None:
    """Rejects tracks and channels that the file lacks."""
    number = len(contents.tracks)
    for track in tracks:
        require(track <= number, f"--tracks names {track}, but {path} has {number} track(s)")
    there = {event.channel + 1 for track in contents.tracks for event in track.onsets}
    for channel in channels:
        require(
            channel in there,
            f"--channels names {channel}, but the notes of {path} are in channel(s) "
            + ", ".join(map(str, sorted(there))),
        )


def _choose(
    contents: MidiContents,
    tracks: Collection[int],
    channels: Collection[int],
    findings: _Findings,
) -> list[Track]:
    """Returns the tracks with what is played of them, and lists what is left out."""
    notes: dict[str, list[int]] = {}
    pedal: dict[str, list[int]] = {}

    def why_not(track: Track, channel: int) -> str | None:
        if tracks and track.number not in tracks:
            return "tracks that --tracks does not name"
        if channels and channel + 1 not in channels:
            return "channels that --channels does not name"
        if not channels and channel == PERCUSSION:
            return "percussion (channel 10)"
        return None

    chosen = []
    for track in contents.tracks:
        reasons = {channel: why_not(track, channel) for channel in range(16)}
        for event in track.onsets:
            if reason := reasons[event.channel]:
                notes.setdefault(reason, []).append(event.tick)
        for change in track.pedal:
            if reason := reasons[change.channel]:
                pedal.setdefault(reason, []).append(change.tick)
        played = dataclasses.replace(
            track,
            notes=[event for event in track.notes if not reasons[event.channel]],
            pedal=[change for change in track.pedal if not reasons[change.channel]],
        )
        chosen.append(played)
    for reason, ticks in notes.items():
        findings.add(ticks, f"note(s) of {reason} left out")
    for reason, ticks in pedal.items():
        findings.add(ticks, f"pedal change(s) of {reason} left out")
    return chosen


def _name_instruments(chosen: Sequence[Track], contents: MidiContents, findings: _Findings) -> None:
    """Lists the instruments other than pianos whose notes are played along."""
    programs = Programs(contents)
    played: dict[tuple[int, str], list[int]] = {}
    for track in chosen:
        for event in track.onsets:
            if not programs.is_piano(event):
                key = (event.channel, programs.instrument(event))
                played.setdefault(key, []).append(event.tick)
    for (channel, name), ticks in sorted(played.items()):
        findings.add(ticks, f"note(s) of {name} (channel {channel + 1}) played on the piano")


def _pair_notes(track: Track, findings: _Findings) -> list[Note]:
    """Pairs note-ons with note-offs, and repairs events that lack a partner.

    Each note-off ends the earliest sounding note of its channel and pitch.
    """
    notes: list[Note] = []
    sounding: dict[tuple[int, int], collections.deque[Note]] = {}
    without_on: list[int] = []
    for tick, channel, pitch, velocity in track.notes:
        key = (channel, pitch)
        if velocity > 0:
            note = Note(tick, tick, pitch, velocity)
            notes.append(note)
            sounding.setdefault(key, collections.deque()).append(note)
        elif sounding.get(key):
            sounding[key].popleft().end = tick
        else:
            without_on.append(tick)
    without_off = [note for queue in sounding.values() for note in queue]
    for note in without_off:
        note.end = track.end
    findings.add(without_on, "note-off(s) without a note ignored")
    findings.add(
        [note.start for note in without_off], "note(s) that never end now end with their track"
    )
    return notes


def _keep_on_keyboard(notes: list[Note], findings: _Findings) -> list[Note]:
    off = [note for note in notes if not LOWEST_PITCH <= note.pitch <= HIGHEST_PITCH]
    findings.add([note.start for note in off], "note(s) off the keyboard left out")
    return [note for note in notes if LOWEST_PITCH <= note.pitch <= HIGHEST_PITCH]


def _separate_overlaps(notes: list[Note], findings: _Findings) -> list[Note]:
    """Ends each note at the next onset of its key, because a key sounds only once at a time."""
    kept: list[Note] = []
    latest: dict[int, Note] = {}
    overlaps: list[int] = []
    for note in sorted(notes, key=lambda note: (note.start, note.end)):
        before = latest.get(note.pitch)
        is_doubled = before is not None and note.start == before.start
        if before is not None and (is_doubled or note.start < before.end):
            overlaps.append(note.start)
            if is_doubled:  # Keep the greater length and velocity.
                before.end = max(before.end, note.end)
                before.velocity = max(before.velocity, note.velocity)
                continue
            before.end = note.start
        latest[note.pitch] = note
        kept.append(note)
    findings.add(overlaps, "overlapping note(s) of one key separated")
    return kept


def _keep_ten_at_once(notes: list[Note], findings: _Findings) -> list[Note]:
    """Limits the notes at any time to ten, one per finger, by removing the softest new ones."""
    kept: list[Note] = []
    left_out: list[int] = []
    held: list[int] = []  # A heap of the end ticks of sounding notes.
    for start, group in itertools.groupby(notes, key=lambda note: note.start):
        while held and held[0] <= start:
            heapq.heappop(held)
        new = sorted(group, key=lambda note: -note.velocity)
        room = _FINGERS - len(held)
        for note in new[:room]:
            heapq.heappush(held, note.end)
        kept += new[:room]
        left_out += [start] * len(new[room:])
    findings.add(left_out, "note(s) beyond ten at once left out")
    return kept
