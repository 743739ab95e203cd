"""Songs: the notes that are due and their times."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

from note_seq import sequences_lib
from note_seq.protobuf import music_pb2
from robopianist import music, suite
from robopianist.music import midi_file

from common.errors import BadInput, require
from common.files import as_utf8
from piano import excerpt
from piano.config import ArrangementConfig, SongConfig
from piano.keyboard import HIGHEST_PITCH, LOWEST_PITCH, PEDAL_CONTROLLER
from piano.midi_notes import Finding, MidiPiece, read_piece
from piano.score_time import Place

LONGEST_SONG_SECONDS = 600.0
_HIGHEST_VELOCITY = 127
_SHORTEST_NOTE_SECONDS = 0.01


class TooLong(BadInput):
    """What is to be played is longer than the limit."""


@dataclasses.dataclass(frozen=True)
class Song:
    """A piece in the form that robopianist plays.

    Attributes:
        title: Title for people.
        midi: Notes and pedal in robopianist's format, stretched, transposed and trimmed.
        source: Name of the file or piece that it was read from.
        findings: What was left out of the source or repaired.
        origin: Time in the source at which the song begins, in seconds.
    """

    title: str
    midi: midi_file.MidiFile
    source: str = ""
    findings: tuple[Finding, ...] = ()
    origin: float = 0.0

    @property
    def repairs(self) -> tuple[str, ...]:
        """What was left out of the source or repaired, one line each."""
        return tuple(f"{self.source}: {finding}" for finding in self.findings)

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
                if change.control_number == PEDAL_CONTROLLER
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
                sequence.control_changes.add(
                    time=time, control_number=PEDAL_CONTROLLER, control_value=value
                )
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
        song = _named_piece(config.environment_name)
        return [_arrange(_part(song, config), config, midi_file.MidiFile.trim_silence)]
    songs = [
        arrange(path, read_piece(path, config.tracks, config.channels), config)
        for path in config.midi_file
    ]
    titles = [song.title for song in songs]
    for title in titles:
        require(titles.count(title) == 1, f"--midi-file names {title} twice")
    return songs


def arrange(path: pathlib.Path, piece: MidiPiece, config: ArrangementConfig) -> Song:
    """Returns what is played of a MIDI file.

    Args:
        path: Path of the file.
        piece: Notes of the file.
        config: The part to play, and how to play it.

    Raises:
        BadInput: The piece lacks the part, or nothing of it can be played, or it is too long.
    """
    song = Song(
        title=as_utf8(path.stem).replace("_", " "),
        midi=midi_file.MidiFile(seq=_to_sequence(piece)),
        source=path.name,
        findings=tuple(piece.findings),
    )
    return _arrange(_part(song, config, piece), config, _trim_silence)


def _part(song: Song, config: ArrangementConfig, piece: MidiPiece | None = None) -> Song:
    """Returns the part of a song that the flags choose; without them, the whole song.

    Args:
        song: Whole song.
        config: The part to play.
        piece: Piece with the song's bars; None if it has none.

    Raises:
        BadInput: The song lacks the part, or no note sounds in it.
    """
    if config.bars:
        assert piece is not None
        begin, end = _span_of_bars(song, config, piece)
        words = f"bars {config.bars}"
    elif config.excerpt_seconds:
        begin, end = config.excerpt_seconds
        seconds = song.midi.seq.total_time
        require(
            begin < seconds and end <= seconds + _SHORTEST_NOTE_SECONDS,
            f"--excerpt is {config.excerpt}, but {song.title} ends after {seconds:.2f} s",
        )
        end = min(end, seconds)
        words = f"{begin:g}-{end:g} s"
    else:
        return song
    part = excerpt.take(song.midi.seq, begin, end)
    require(
        len(part.sequence.notes) > 0,
        f"no note of {song.title} sounds from {begin:.2f} to {end:.2f} s: choose another part",
    )
    findings = [finding.within(begin, end) for finding in song.findings]
    for times, what in (
        (part.cut, "note(s) cut at the edges of the part"),
        (
            part.too_short,
            "note(s) left out, because less than "
            f"{excerpt.SHORTEST_CUT_NOTE_SECONDS} s of them is in the part",
        ),
    ):
        places = [piece.time.place_of_seconds(t) if piece else Place(None, t) for t in times]
        findings += [Finding(what, tuple(sorted(places)))] if places else []
    return dataclasses.replace(
        song,
        title=f"{song.title} {words}",
        midi=midi_file.MidiFile(seq=part.sequence),
        origin=begin,
        findings=tuple(finding for finding in findings if finding),
    )


def _span_of_bars(song: Song, config: ArrangementConfig, piece: MidiPiece) -> tuple[float, float]:
    """Returns begin and end of --bars in seconds."""
    assert config.first_and_last_bar is not None
    first, last = config.first_and_last_bar
    last_there = piece.last_bar
    if last_there is None:
        raise BadInput(
            f"--bars is {config.bars}, but {song.source} counts time in SMPTE frames and has no "
            "bars: choose a part with --excerpt"
        )
    require(
        last <= last_there, f"--bars is {config.bars}, but {song.title} has {last_there} bar(s)"
    )
    end = min(piece.time.start_of_bar(last + 1), song.midi.seq.total_time)
    return piece.time.start_of_bar(first), end


def _arrange(
    song: Song,
    config: ArrangementConfig,
    trim: Callable[[midi_file.MidiFile], midi_file.MidiFile],
) -> Song:
    """Returns the song stretched, transposed and trimmed."""
    midi = song.midi.stretch(config.stretch_factor).transpose(config.shift_factor)
    lost = len(song.midi.seq.notes) - len(midi.seq.notes)
    require(
        len(midi.seq.notes) > 0,
        f"no note of {song.title} is left on the keyboard after --shift-factor "
        f"{config.shift_factor}",
    )
    origin = song.origin
    if config.trim_silence:
        origin += min(note.start_time for note in midi.seq.notes) / config.stretch_factor
        midi = trim(midi)
    _check_playable(midi.seq, song.title)
    moved = f"{lost} note(s) left out, because --shift-factor moves them off the keyboard"
    findings = (*song.findings, *([Finding(moved)] if lost else []))
    return dataclasses.replace(song, midi=midi, findings=findings, origin=origin)


def _trim_silence(midi: midi_file.MidiFile) -> midi_file.MidiFile:
    """Removes the silence at both ends.

    robopianist's own method ends with the note that is listed last. In a file with several tracks
    another note may sound last. Named pieces keep robopianist's behavior.
    """
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
    return Song(title=midi.title or piece, midi=midi, source=piece)


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
        all(LOWEST_PITCH <= note.pitch <= HIGHEST_PITCH for note in sequence.notes),
        f"{title} has notes off the keyboard",
    )
    require(
        all(1 <= note.velocity <= _HIGHEST_VELOCITY for note in sequence.notes),
        f"{title} has MIDI velocities outside 1 to {_HIGHEST_VELOCITY}",
    )
    seconds = max(numbers)
    if seconds > LONGEST_SONG_SECONDS:
        raise TooLong(
            f"{title} lasts {seconds:.0f} s, longer than the limit of "
            f"{LONGEST_SONG_SECONDS:.0f} s: choose a part with --excerpt or --bars"
        )


def _to_sequence(piece: MidiPiece) -> music_pb2.NoteSequence:
    """Converts a piece to robopianist's format, with times in seconds."""
    sequence = music_pb2.NoteSequence()
    for note in sorted(piece.notes, key=lambda note: (note.start, note.pitch)):
        start = piece.time.seconds(note.start)
        end = max(piece.time.seconds(note.end), start + _SHORTEST_NOTE_SECONDS)
        sequence.notes.add(start_time=start, end_time=end, pitch=note.pitch, velocity=note.velocity)
    for tick, _, value in piece.pedal:
        sequence.control_changes.add(
            time=piece.time.seconds(tick), control_number=PEDAL_CONTROLLER, control_value=value
        )
    ends = [note.end_time for note in sequence.notes]
    sequence.total_time = max(ends + [change.time for change in sequence.control_changes])
    return sequence
