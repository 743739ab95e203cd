"""The bytes of MIDI files: notes, pedal, tempi and meters, with the oddities of real files.

The format is that of "Standard MIDI Files 1.0" (MIDI Manufacturers Association, RP-001). Files of
notation programs, sequencers and archives depart from it in many ways. This module reads what is
unambiguous and lists it, and refuses the rest.
"""

import dataclasses
import pathlib
from typing import NamedTuple

from common.errors import BadInput, require
from piano.keyboard import PEDAL_CONTROLLER

_MOST_FILE_BYTES = 4_000_000  # Half a million notes.
_MOST_TICKS = 2**28 - 1  # Largest delta time: the standard has four bytes of seven bits.
_MOST_BYTES_BEFORE_HEADER = 4096
_HEADER, _TRACK = b"MThd", b"MTrk"
_EXPORT = "export the piece as a standard MIDI file (.mid, type 1)"
# Data bytes of channel messages by their high four bits, and of system messages.
_DATA_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}
_SYSTEM_DATA_BYTES = {
    **{0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0},
    **dict.fromkeys((0xF8, 0xFA, 0xFB, 0xFC, 0xFE), 0),
}
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive, such as a MuseScore file or compressed MusicXML",
    b"<?xml": "an XML file, such as MusicXML",
    b"<score": "a MusicXML file",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF file",
    b"ID3": "an MP3 recording",
    b"\xff\xfb": "an MP3 recording",
    b"OggS": "an Ogg recording",
    b"fLaC": "a FLAC recording",
    b"SMF2CLIP": "a MIDI 2.0 clip",
}


class NoteEvent(NamedTuple):
    """A note-on, or with velocity 0 a note-off."""

    tick: int
    channel: int
    """Channel, 0 to 15."""
    pitch: int
    velocity: int


class ChannelEvent(NamedTuple):
    """A new value of a channel's pedal (0 to 127) or program (0 to 127)."""

    tick: int
    channel: int
    value: int


class Oddity(NamedTuple):
    """A departure from the standard that was read all the same."""

    what: str
    tick: int | None
    """Tick at which it is; None if it concerns the file or a whole track. The words for a tick
    follow a number: 3 tempo(s)."""


@dataclasses.dataclass
class Track:
    """The events of one track, each list in the order of the file.

    Attributes:
        number: Number of the track in the file, from 1.
        name: Name of the track; empty if it has none.
        notes: Note-ons and note-offs.
        pedal: Values of controller 64.
        programs: Program changes.
        end: Tick of the last event.
    """

    number: int
    name: str = ""
    notes: list[NoteEvent] = dataclasses.field(default_factory=list)
    pedal: list[ChannelEvent] = dataclasses.field(default_factory=list)
    programs: list[ChannelEvent] = dataclasses.field(default_factory=list)
    end: int = 0

    @property
    def onsets(self) -> list[NoteEvent]:
        """The note-ons."""
        return [event for event in self.notes if event.velocity > 0]


@dataclasses.dataclass
class MidiContents:
    """The contents of a MIDI file.

    Attributes:
        ticks_per_beat: Number of ticks per quarter note; None if the file counts SMPTE frames.
        ticks_per_second: Number of ticks per second; None if the file counts beats.
        tracks: Tracks in the order of the file.
        tempi: Microseconds per quarter note, by the tick from which they hold.
        meters: Numerator and denominator of the time signature, by the tick from which they hold.
        oddities: Departures from the standard, in the order of the file.
    """

    ticks_per_beat: int | None
    ticks_per_second: float | None
    tracks: list[Track] = dataclasses.field(default_factory=list)
    tempi: dict[int, int] = dataclasses.field(default_factory=dict)
    meters: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)
    oddities: list[Oddity] = dataclasses.field(default_factory=list)


def read_midi_file(path: pathlib.Path) -> MidiContents:
    """Reads a MIDI file of type 0 or 1, or of type 2 with a single track.

    Raises:
        BadInput: The file is missing, of another kind, or damaged. The message says what to do.
    """
    return _Parser(path, _read_bytes(path)).parse()


def _read_bytes(path: pathlib.Path) -> bytes:
    require(path.exists(), f"no MIDI file at {path}")
    require(path.is_file(), f"{path} is a folder, not a MIDI file")
    size = path.stat().st_size
    require(size > 0, f"{path} is empty")
    require(
        size <= _MOST_FILE_BYTES,
        f"{path} has {size} bytes, more than the limit of {_MOST_FILE_BYTES}: export a part of it",
    )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


class _Parser:
    """The state of reading one file."""

    def __init__(self, path: pathlib.Path, data: bytes):
        self._path = path
        self._data = data
        self._tempi: list[tuple[int, int]] = []
        self._meters: list[tuple[int, tuple[int, int]]] = []

    def parse(self) -> MidiContents:
        self._unwrap()
        kind, stated, division = self._header()
        self._contents = contents = _contents_with_time(division)
        at = 8 + int.from_bytes(self._data[4:8], "big")
        while at < len(self._data):
            at = self._chunk(at)
        tracks = len(contents.tracks)
        require(tracks > 0, f"{self._path} is damaged: it holds no track; {_EXPORT}")
        require(
            kind in (0, 1) or (kind == 2 and tracks == 1),
            f"{self._path} is a MIDI file of type {kind}, whose tracks do not belong together in "
            f"time: {_EXPORT}",
        )
        if stated != tracks:
            self._say(f"the header names {stated} track(s), the file has {tracks}")
        # Several tracks may hold tempi and meters. Of one tick the last track's counts.
        contents.tempi.update(sorted(self._tempi, key=lambda pair: pair[0]))
        contents.meters.update(sorted(self._meters, key=lambda pair: pair[0]))
        return contents

    def _unwrap(self) -> None:
        """Removes what some programs write around a file: RIFF (.rmi), or MacBinary."""
        data = self._data
        for magic, name in _OTHER_FORMATS.items():
            require(not data.startswith(magic), f"{self._path} is {name}: {_EXPORT}")
        require(data[8:12] != b"WAVE", f"{self._path} is a WAV recording: {_EXPORT}")
        begin = data.find(_HEADER, 0, _MOST_BYTES_BEFORE_HEADER)
        require(
            begin >= 0,
            f"{self._path} is not a MIDI file, or is damaged: it has no header (MThd); {_EXPORT}",
        )
        end = len(data)
        if data.startswith(b"RIFF") and data[begin - 8 : begin - 4] == b"data":
            end = begin + int.from_bytes(data[begin - 4 : begin], "little")
        self._data = data[begin:end]

    def _header(self) -> tuple[int, int, int]:
        """Returns type, stated number of tracks and division."""
        size = int.from_bytes(self._data[4:8], "big")
        require(
            size >= 6 and len(self._data) >= 8 + size,
            f"{self._path} is damaged: it ends within its header; download or export it again",
        )
        kind, stated, division = (
            int.from_bytes(self._data[at : at + 2], "big") for at in (8, 10, 12)
        )
        frames = 256 - (division >> 8)
        require(
            division & 0xFF > 0 and frames in (24, 25, 29, 30)
            if division >= 0x8000
            else division > 0,
            f"{self._path} counts time in a way that is not supported (division {division}): "
            f"{_EXPORT} with a tempo",
        )
        return kind, stated, division

    def _chunk(self, at: int) -> int:
        """Reads the chunk at a position, and returns the position after it."""
        data = self._data
        begin, size = at + 8, int.from_bytes(data[at + 4 : at + 8], "big")
        if data[at : at + 4] == _TRACK and begin <= len(data):
            track = Track(len(self._contents.tracks) + 1)
            self._contents.tracks.append(track)
            return self._track(track, begin, begin + size)
        if self._is_chunk(at):
            name = data[at : at + 4].decode("ascii")
            self._say(f"chunk {name!r} of {size} byte(s), which holds no track, ignored")
            return begin + size
        after = data.find(_TRACK, at + 1)
        after = len(data) if after < 0 else after
        self._say(f"{after - at} byte(s) between or behind the tracks ignored")
        return after

    def _is_chunk(self, at: int) -> bool:
        """Returns whether a whole chunk with a name in letters begins at a position."""
        name, size = self._data[at : at + 4], self._data[at + 4 : at + 8]
        return (
            len(size) == 4
            and name.isalnum()
            and at + 8 + int.from_bytes(size, "big") <= len(self._data)
        )

    def _track(self, track: Track, begin: int, stated_end: int) -> int:
        """Reads a track, and returns the position after its chunk."""
        try:
            at = self._events(track, begin, stated_end)
        except IndexError:
            raise BadInput(
                f"{self._path} is damaged: it ends in the middle of track {track.number}; "
                "download or export it again"
            ) from None
        if at == stated_end:
            return at
        if at < stated_end and self._may_end(stated_end):
            left = stated_end - at
            self._say(f"{left} byte(s) behind the end of track {track.number} ignored")
            return stated_end
        self._say(f"track {track.number} has another length than the file says")
        return at

    def _may_end(self, at: int) -> bool:
        """Returns whether a chunk or the end of the file is at a position."""
        return at == len(self._data) or self._data[at : at + 4] == _TRACK or self._is_chunk(at)

    def _events(self, track: Track, begin: int, stated_end: int) -> int:
        """Reads the events of a track up to its end event or stated end.

        Returns:
            Position after the last event.

        Raises:
            IndexError: The file ends before the track.
        """
        data, at = self._data, begin
        status: int | None = None
        # Some programs leave a length of 0, and others one that is too small.
        while at != stated_end or not self._may_end(at):
            delta, at = self._number(at, track)
            track.end += delta
            byte = data[at]
            if byte in (0xF0, 0xF7):
                length, at = self._number(at + 1, track)
                at = self._past(at, length)
            elif byte == 0xFF:
                kind = data[at + 1]
                length, at = self._number(at + 2, track)
                content = data[at : self._past(at, length)]
                at += length
                if kind == 0x2F:
                    break
                self._meta(track, kind, content)
            elif byte > 0xF0:
                if byte not in _SYSTEM_DATA_BYTES:
                    raise self._damaged(track, at, f"MIDI has no event {byte:#x}")
                at = self._past(at + 1, _SYSTEM_DATA_BYTES[byte])
            else:
                if byte >= 0x80:
                    status, at = byte, at + 1
                if status is None:
                    raise self._damaged(track, at, "a note or other event lacks its kind")
                count = _DATA_BYTES[status & 0xF0]
                self._channel_event(track, status, data[at : self._past(at, count)])
                at += count
        return at

    def _channel_event(self, track: Track, status: int, values: bytes) -> None:
        kind, channel = status & 0xF0, status & 0x0F
        if max(values) > 127:
            self._say(f"value(s) above 127 in track {track.number} read as 127", track.end)
            values = bytes(min(value, 127) for value in values)
        if kind in (0x80, 0x90):
            velocity = values[1] if kind == 0x90 else 0
            track.notes.append(NoteEvent(track.end, channel, values[0], velocity))
        elif kind == 0xB0 and values[0] == PEDAL_CONTROLLER:
            track.pedal.append(ChannelEvent(track.end, channel, values[1]))
        elif kind == 0xC0:
            track.programs.append(ChannelEvent(track.end, channel, values[0]))

    def _meta(self, track: Track, kind: int, content: bytes) -> None:
        if kind == 0x03 and not track.name:
            text = content.decode("utf-8", errors="replace")
            track.name = "".join(letter for letter in text if letter.isprintable()).strip()
        elif kind == 0x51:
            tempo = int.from_bytes(content[:3], "big")
            if len(content) < 3 or tempo == 0:
                self._say("tempo(s) without a value above 0 ignored", track.end)
            else:
                self._tempi.append((track.end, tempo))
        elif kind == 0x58:
            if len(content) < 2 or content[1] > 6 or not 1 <= content[0] <= 64:
                self._say("time signature(s) that music does not have ignored", track.end)
            else:
                self._meters.append((track.end, (content[0], 2 ** content[1])))

    def _number(self, at: int, track: Track) -> tuple[int, int]:
        """Returns the number of variable length at a position, and the position after it."""
        number = 0
        while True:
            byte = self._data[at]
            at += 1
            number = number << 7 | byte & 0x7F
            if number > _MOST_TICKS:
                raise self._damaged(track, at, "an event comes later than a MIDI file can say")
            if byte < 0x80:
                return number, at

    def _past(self, at: int, count: int) -> int:
        """Returns the position after some bytes, which must be in the file."""
        if at + count > len(self._data):
            raise IndexError
        return at + count

    def _damaged(self, track: Track, at: int, why: str) -> BadInput:
        return BadInput(
            f"{self._path} is damaged: {why} (track {track.number}, byte {at}); "
            "download or export it again"
        )

    def _say(self, what: str, tick: int | None = None) -> None:
        self._contents.oddities.append(Oddity(what, tick))


def _contents_with_time(division: int) -> MidiContents:
    if division < 0x8000:
        return MidiContents(division, None)
    frames = 256 - (division >> 8)
    # SMPTE's 29 stands for the drop frames of NTSC video.
    rate = 30_000 / 1001 if frames == 29 else float(frames)
    return MidiContents(None, rate * (division & 0xFF))
