"""Songs: the notes that are due and their times. Only this module reads and checks MIDI files."""

import bisect
import dataclasses
import heapq
import io
import itertools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import mido
from note_seq import sequences_lib
from note_seq.protobuf import music_pb2
from robopianist import music, suite
from robopianist.music import midi_file

from common.errors import BadInput, require
from common.files import as_utf8
from piano.config import SongConfig

LONGEST_SONG_SECONDS = 600.0
_LARGEST_FILE_BYTES = 2_000_000
_MOST_TICKS = 2**28 - 1  # Largest delta time: the standard has four bytes of seven bits.
_LOWEST_KEY, _HIGHEST_KEY = 21, 108
_HIGHEST_VELOCITY = 127
_FINGERS = 10
_SHORTEST_NOTE_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Song:
    """A piece in the form that robopianist plays.

    Attributes:
        title: Title for people.
        midi: Notes and pedal in robopianist's format, stretched, transposed and trimmed.
        repairs: Repairs that the file needed, one line each.
    """

    title: str
    midi: midi_file.MidiFile
    repairs: tuple[str, ...] = ()

    @property
    def has_fingering(self) -> bool:
        """Whether every note has an annotated finger."""
        return self.midi.has_fingering()

    def trajectory(self, control_timestep: float) -> midi_file.NoteTrajectory:
        """Returns the keys and the pedal due at each control step.

        Args:
            control_timestep: Length of a control step in seconds.
        """
        return midi_file.NoteTrajectory.from_midi(self.midi, control_timestep)

    def to_json(self) -> dict[str, Any]:
        """Returns the whole song as JSON values, which `from_json` reads."""
        return {
            "title": self.title,
            "seconds": self.midi.seq.total_time,
            "notes": [
                [note.start_time, note.end_time, note.pitch, note.velocity, note.part]
                for note in self.midi.seq.notes
            ],
            "pedal": [
                [change.time, change.control_value]
                for change in self.midi.seq.control_changes
                if change.control_number == 64
            ],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Song":
        """Returns the song from the values of `to_json`.

        Raises:
            BadInput: The description is damaged.
        """
        sequence = music_pb2.NoteSequence()
        try:
            for start, end, pitch, velocity, part in values["notes"]:
                sequence.notes.add(
                    start_time=start, end_time=end, pitch=pitch, velocity=velocity, part=part
                )
            for time, value in values["pedal"]:
                sequence.control_changes.add(time=time, control_number=64, control_value=value)
            sequence.total_time = values["seconds"]
            title = str(values["title"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the song's description is damaged: {error!r}") from error
        _check_playable(sequence, title)
        return cls(title=title, midi=midi_file.MidiFile(seq=sequence))


def load_songs(config: SongConfig) -> list[Song]:
    """Loads the songs that the flags name.

    Raises:
        BadInput: A piece or file does not exist, cannot be played, or is named twice.
    """
    if not config.midi_file:
        return [_arrange(_named_piece(config.environment_name), config)]
    songs = [_arrange(_read_midi_file(path), config) for path in config.midi_file]
    titles = [song.title for song in songs]
    for title in titles:
        require(titles.count(title) == 1, f"--midi-file names {title} twice")
    return songs


def _arrange(song: Song, config: SongConfig) -> Song:
    """Returns the song stretched, transposed and trimmed."""
    midi = song.midi.stretch(config.stretch_factor).transpose(config.shift_factor)
    require(
        len(midi.seq.notes) > 0,
        f"no note of {song.title} is left on the keyboard after --shift-factor "
        f"{config.shift_factor}",
    )
    if config.trim_silence:
        # robopianist's own method ends with the note that is listed last. In a file with several
        # tracks another note may sound last. Named pieces keep robopianist's behavior.
        midi = _trim_silence(midi) if config.midi_file else midi.trim_silence()
    _check_playable(midi.seq, song.title)
    return dataclasses.replace(song, midi=midi)


def _trim_silence(midi: midi_file.MidiFile) -> midi_file.MidiFile:
    notes = midi.seq.notes
    return midi_file.MidiFile(
        seq=sequences_lib.extract_subsequence(
            midi.seq,
            start_time=min(note.start_time for note in notes),
            end_time=max(note.end_time for note in notes),
        )
    )


def _named_piece(name: str) -> Song:
    if name not in suite.ALL:
        close = [known for known in suite.ALL if name.lower() in known.lower()][:3]
        raise BadInput(
            f"unknown --environment-name {name}: robopianist has {len(suite.ALL)} pieces"
            + (f", such as {', '.join(close or suite.DEBUG)}")
        )
    piece = name.removesuffix("-v0").rpartition("-")[2]
    if piece not in music.ALL:
        here = [
            known
            for known in suite.ALL
            if known.removesuffix("-v0").rpartition("-")[2] in music.ALL
        ]
        raise BadInput(
            f"--environment-name {name} needs the PIG data set, which robopianist may not "
            f"distribute: its package holds {', '.join(here)}. A MIDI file of the piece can be "
            "played with --midi-file"
        )
    midi = music.load(piece)
    return Song(title=midi.title or piece, midi=midi)


def _check_playable(sequence: music_pb2.NoteSequence, title: str) -> None:
    """Rejects a song that is too long for memory, has nothing to play, or has invalid values."""
    numbers = [sequence.total_time]
    numbers += [time for note in sequence.notes for time in (note.start_time, note.end_time)]
    require(
        all(math.isfinite(number) and number >= 0 for number in numbers),
        f"{title} has times that are no numbers",
    )
    require(len(sequence.notes) > 0, f"{title} has no note on the 88 keys of a piano")
    require(
        all(_LOWEST_KEY <= note.pitch <= _HIGHEST_KEY for note in sequence.notes),
        f"{title} has notes off the keyboard",
    )
    require(
        all(1 <= note.velocity <= _HIGHEST_VELOCITY for note in sequence.notes),
        f"{title} has MIDI velocities outside 1 to {_HIGHEST_VELOCITY}",
    )
    seconds = max(numbers)
    require(
        seconds <= LONGEST_SONG_SECONDS,
        f"{title} lasts {seconds:.0f} s, longer than the limit of {LONGEST_SONG_SECONDS:.0f} s",
    )


# --- MIDI files -------------------------------------------------------------------------


@dataclasses.dataclass
class _Note:
    start: int  # Start and end are in ticks.
    end: int
    pitch: int
    velocity: int


class _Clock:
    """Conversion of ticks to seconds, and to bars for messages.

    Args:
        ticks_per_beat: Number of ticks per beat in the file.
        tempi: Microseconds per beat, by the tick from which they hold.
        meters: Beats (quarter notes) per bar, by the tick from which they hold.
    """

    def __init__(self, ticks_per_beat: int, tempi: dict[int, int], meters: dict[int, float]):
        self._tempi = _Rates({0: 500_000} | tempi, scale=1e-6 / ticks_per_beat)
        self._meters = _Rates(
            {tick: 1 / beats for tick, beats in ({0: 4.0} | meters).items()},
            scale=1 / ticks_per_beat,
        )

    def seconds(self, tick: int) -> float:
        """Returns the time of a tick in seconds."""
        return self._tempi.total(tick)

    def bar_and_time(self, tick: int) -> str:
        """Returns bar and time of a tick, such as "bar 3, 4.50 s"."""
        return f"bar {int(self._meters.total(tick) + 1e-9) + 1}, {self.seconds(tick):.2f} s"


class _Rates:
    """The integral over ticks of a rate that changes at some of them."""

    def __init__(self, rates: Mapping[int, float], scale: float):
        self._begins = sorted(rates)
        self._rates = [rates[begin] * scale for begin in self._begins]
        self._totals = [0.0]
        for i in range(1, len(self._begins)):
            length = self._begins[i] - self._begins[i - 1]
            self._totals.append(self._totals[-1] + length * self._rates[i - 1])

    def total(self, tick: int) -> float:
        i = bisect.bisect_right(self._begins, tick) - 1
        return self._totals[i] + (tick - self._begins[i]) * self._rates[i]


def _read_midi_file(path: pathlib.Path) -> Song:
    file = _open_midi_file(path)
    tracks = [_with_ticks(track) for track in file.tracks]
    messages = sorted((pair for track in tracks for pair in track), key=lambda pair: pair[0])
    clock = _Clock(
        file.ticks_per_beat,
        {tick: message.tempo for tick, message in messages if message.type == "set_tempo"},
        {
            tick: message.numerator * 4 / message.denominator
            for tick, message in messages
            if message.type == "time_signature"
            and 1 <= message.numerator <= 64 >= message.denominator
        },
    )
    last_tick = messages[-1][0] if messages else 0
    require(
        clock.seconds(last_tick) <= LONGEST_SONG_SECONDS,
        f"{path} lasts {clock.seconds(last_tick):.0f} s, longer than the limit of "
        f"{LONGEST_SONG_SECONDS:.0f} s",
    )
    repairs: list[str] = []
    notes = [note for track in tracks for note in _pair_notes(track, clock, repairs)]
    notes = _keep_on_keyboard(notes, clock, repairs)
    notes = _separate_overlaps(notes, clock, repairs)
    notes = _keep_ten_at_once(notes, clock, repairs)
    require(bool(notes), f"{path} has no note on the 88 keys of a piano")
    sequence = _to_sequence(notes, messages, clock)
    return Song(
        title=as_utf8(path.stem).replace("_", " "),
        midi=midi_file.MidiFile(seq=sequence),
        repairs=tuple(f"{path.name}: {line}" for line in repairs),
    )


def _open_midi_file(path: pathlib.Path) -> mido.MidiFile:
    require(path.exists(), f"no MIDI file at {path}")
    require(path.is_file(), f"{path} is a folder, not a MIDI file")
    size = path.stat().st_size
    require(size > 0, f"{path} is empty")
    require(
        size <= _LARGEST_FILE_BYTES,
        f"{path} has {size} bytes, more than the limit of {_LARGEST_FILE_BYTES}",
    )
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    try:
        file = mido.MidiFile(file=io.BytesIO(contents), clip=True)
    except Exception as error:
        # mido's parser raises many kinds of exceptions: OSError, IndexError, ValueError, ...
        raise BadInput(f"{path} is not a MIDI file, or is damaged: {error!r}") from error
    require(
        file.ticks_per_beat > 0 and file.type in (0, 1),
        f"{path} counts time in a way that is not supported (SMPTE, or a type 2 file): "
        "export it as a type 1 file with a tempo",
    )
    require(
        all(message.time <= _MOST_TICKS for track in file.tracks for message in track),
        f"{path} is damaged: an event comes later than a MIDI file can say",
    )
    return file


def _with_ticks(track: mido.MidiTrack) -> list[tuple[int, mido.Message]]:
    """Returns the messages of a track with their absolute times in ticks."""
    tick, messages = 0, []
    for message in track:
        tick += message.time
        messages.append((tick, message))
    return messages


def _pair_notes(
    track: list[tuple[int, mido.Message]], clock: _Clock, repairs: list[str]
) -> list[_Note]:
    """Pairs note-ons with note-offs, and repairs events that lack a partner.

    Each note-off ends the earliest sounding note of its channel and pitch.
    """
    notes: list[_Note] = []
    sounding: dict[tuple[int, int], list[_Note]] = {}
    without_on: list[int] = []
    for tick, message in track:
        if message.type not in ("note_on", "note_off"):
            continue
        key = (message.channel, message.note)
        if message.type == "note_on" and message.velocity > 0:
            note = _Note(tick, tick, message.note, message.velocity)
            notes.append(note)
            sounding.setdefault(key, []).append(note)
        elif sounding.get(key):
            sounding[key].pop(0).end = tick
        else:
            without_on.append(tick)
    without_off = [note for stack in sounding.values() for note in stack]
    for note in without_off:
        note.end = track[-1][0]
    _report(repairs, clock, without_on, "note-off(s) without a note ignored")
    _report(
        repairs,
        clock,
        [note.start for note in without_off],
        "note(s) that never end now end with their track",
    )
    return notes


def _keep_on_keyboard(notes: list[_Note], clock: _Clock, repairs: list[str]) -> list[_Note]:
    off = [note for note in notes if not _LOWEST_KEY <= note.pitch <= _HIGHEST_KEY]
    _report(repairs, clock, [note.start for note in off], "note(s) off the keyboard left out")
    return [note for note in notes if _LOWEST_KEY <= note.pitch <= _HIGHEST_KEY]


def _separate_overlaps(notes: list[_Note], clock: _Clock, repairs: list[str]) -> list[_Note]:
    """Ends each note at the next onset of its key, because a key sounds only once at a time."""
    kept: list[_Note] = []
    latest: dict[int, _Note] = {}
    overlaps: list[int] = []
    for note in sorted(notes, key=lambda note: (note.start, note.end)):
        before = latest.get(note.pitch)
        if before is not None and note.start < before.end:
            overlaps.append(note.start)
            if note.start == before.start:  # Doubled: keep the greater length and velocity.
                before.end = max(before.end, note.end)
                before.velocity = max(before.velocity, note.velocity)
                continue
            before.end = note.start
        latest[note.pitch] = note
        kept.append(note)
    _report(repairs, clock, overlaps, "overlapping note(s) of one key separated")
    return kept


def _keep_ten_at_once(notes: list[_Note], clock: _Clock, repairs: list[str]) -> list[_Note]:
    """Limits the notes at any time to ten, one per finger, by removing the softest new ones."""
    kept: list[_Note] = []
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
    _report(repairs, clock, left_out, "note(s) beyond ten at once left out")
    return kept


def _report(repairs: list[str], clock: _Clock, ticks: list[int], what: str) -> None:
    if ticks:
        repairs.append(f"{len(ticks)} {what}, first at {clock.bar_and_time(min(ticks))}")


def _to_sequence(
    notes: list[_Note], messages: list[tuple[int, mido.Message]], clock: _Clock
) -> music_pb2.NoteSequence:
    """Converts the notes to robopianist's format, with times in seconds."""
    sequence = music_pb2.NoteSequence()
    for note in sorted(notes, key=lambda note: (note.start, note.pitch)):
        start = clock.seconds(note.start)
        end = max(clock.seconds(note.end), start + _SHORTEST_NOTE_SECONDS)
        sequence.notes.add(start_time=start, end_time=end, pitch=note.pitch, velocity=note.velocity)
    for tick, message in messages:
        if message.type == "control_change" and message.control == 64:
            sequence.control_changes.add(
                time=clock.seconds(tick), control_number=64, control_value=message.value
            )
    ends = [note.end_time for note in sequence.notes]
    sequence.total_time = max(ends + [change.time for change in sequence.control_changes])
    return sequence
