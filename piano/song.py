"""Songs: the notes that are due and their times."""

import dataclasses
import math
import pathlib
from typing import Any

from note_seq import sequences_lib
from note_seq.protobuf import music_pb2
from robopianist import music, suite
from robopianist.music import midi_file

from common.errors import BadInput, require
from common.files import as_utf8
from piano.config import SongConfig
from piano.midi_notes import HIGHEST_PITCH, LOWEST_PITCH, MidiPiece, read_piece

LONGEST_SONG_SECONDS = 600.0
_HIGHEST_VELOCITY = 127
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
        all(LOWEST_PITCH <= note.pitch <= HIGHEST_PITCH for note in sequence.notes),
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


def _read_midi_file(path: pathlib.Path) -> Song:
    piece = read_piece(path)
    return Song(
        title=as_utf8(path.stem).replace("_", " "),
        midi=midi_file.MidiFile(seq=_to_sequence(piece)),
        repairs=tuple(f"{path.name}: {finding}" for finding in piece.findings),
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
            time=piece.time.seconds(tick), control_number=64, control_value=value
        )
    ends = [note.end_time for note in sequence.notes]
    sequence.total_time = max(ends + [change.time for change in sequence.control_changes])
    return sequence
