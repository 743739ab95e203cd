"""The bytes of MIDI files: as mido and pretty_midi read them, and oddities of real files."""

import io
import pathlib
import struct

import mido
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from piano.config import SongConfig
from piano.midi_notes import read_piece
from piano.midi_reader import read_midi_file
from piano.song import load_songs

EXAMPLES = sorted((pathlib.Path(__file__).parent.parent / "example_midis").glob("*.mid"))
SHORTEST_NOTE_SECONDS = 0.01

C4 = b"\x00\x90\x3c\x50\x60\x80\x3c\x40"
"""A note of 96 ticks."""
END = b"\x00\xff\x2f\x00"


def chunk(name, content, length=None):
    return name + struct.pack(">L", len(content) if length is None else length) + content


def midi(*chunks, kind=1, tracks=None, division=96):
    count = sum(one.startswith(b"MTrk") for one in chunks) if tracks is None else tracks
    return chunk(b"MThd", struct.pack(">HHH", kind, count, division)) + b"".join(chunks)


def track(content=C4, end=END, length=None):
    return chunk(b"MTrk", content + end, length)


def read(tmp_path, contents):
    path = tmp_path / "a.mid"
    path.write_bytes(contents)
    return read_piece(path)


def notes_of(piece):
    return [(note.start, note.end, note.pitch, note.velocity) for note in piece.notes]


# --- Beside other readers ----------------------------------------------------------------


def notes_of_song(path):
    (song,) = load_songs(SongConfig(midi_file=(path,)))
    notes = [(n.start_time, n.end_time, n.pitch, n.velocity) for n in song.midi.seq.notes]
    return sorted(notes, key=by_key_and_time)


def notes_of_pretty_midi(path):
    notes = [
        (n.start, max(n.end, n.start + SHORTEST_NOTE_SECONDS), n.pitch, n.velocity)
        for instrument in pretty_midi.PrettyMIDI(str(path)).instruments
        for n in instrument.notes
    ]
    return sorted(notes, key=by_key_and_time)


def by_key_and_time(note):
    """Readers round times differently, so notes of different keys may change places."""
    start, _, pitch, _ = note
    return pitch, start


def assert_same_notes(ours, theirs):
    assert [note[2:] for note in ours] == [note[2:] for note in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our[:2] == pytest.approx(their[:2], abs=1e-6)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_pieces_are_as_pretty_midi_reads_them(path):
    assert_same_notes(notes_of_song(path), notes_of_pretty_midi(path))


def events_of_mido(file):
    """Notes, pedal, programs, tempi and meters of a file, by track, with ticks."""
    found = []
    for one in file.tracks:
        tick, events = 0, list[tuple[object, ...]]()
        for message in one:
            tick += message.time
            if message.type in ("note_on", "note_off"):
                velocity = message.velocity if message.type == "note_on" else 0
                events.append(("note", tick, message.channel, message.note, velocity))
            elif message.type == "control_change" and message.control == 64:
                events.append(("pedal", tick, message.channel, message.value))
            elif message.type == "program_change":
                events.append(("program", tick, message.channel, message.program))
        found.append((events, tick))
    return found


def events_of_reader(contents):
    return [
        (
            {
                *(("note", *event) for event in one.notes),
                *(("pedal", *event) for event in one.pedal),
                *(("program", *event) for event in one.programs),
            },
            one.end,
        )
        for one in contents.tracks
    ]


byte = st.integers(0, 127)
channel = st.integers(0, 15)
messages = st.one_of(
    st.builds(mido.Message, st.sampled_from(["note_on", "note_off"]), note=byte, velocity=byte,
              channel=channel),
    st.builds(mido.Message, st.just("control_change"), control=st.sampled_from([1, 64, 67]),
              value=byte, channel=channel),
    st.builds(mido.Message, st.just("program_change"), program=byte, channel=channel),
    st.builds(mido.Message, st.just("pitchwheel"), pitch=st.integers(-8192, 8191)),
    st.builds(mido.Message, st.just("sysex"), data=st.lists(byte, max_size=5)),
    st.builds(mido.MetaMessage, st.just("set_tempo"), tempo=st.integers(1, 2**24 - 1)),
    st.builds(mido.MetaMessage, st.just("time_signature"), numerator=st.integers(1, 64),
              denominator=st.sampled_from([1, 2, 4, 8, 16, 32, 64])),
    st.builds(mido.MetaMessage, st.just("lyrics"), text=st.text("abc", max_size=200)),
)  # fmt: skip


@st.composite
def files(draw):
    file = mido.MidiFile(type=1, ticks_per_beat=draw(st.integers(1, 0x7FFF)))
    for _ in range(draw(st.integers(1, 3))):
        one = mido.MidiTrack()
        for message in draw(st.lists(messages, max_size=20)):
            one.append(message.copy(time=draw(st.integers(0, 100_000))))
        file.tracks.append(one)
    return file


@settings(max_examples=200, deadline=None)
@given(files())
def test_any_file_holds_the_events_that_mido_finds(tmp_path_factory, file):
    path = tmp_path_factory.getbasetemp() / "any.mid"
    file.save(path)
    contents = read_midi_file(path)
    assert contents.oddities == []
    theirs = mido.MidiFile(path)
    assert events_of_reader(contents) == [(set(e), end) for e, end in events_of_mido(theirs)]
    merged, tick = [], 0
    for message in theirs.merged_track:
        tick += message.time
        merged.append((tick, message))
    assert contents.tempi == {t: m.tempo for t, m in merged if m.type == "set_tempo"}
    assert contents.meters == {
        t: (m.numerator, m.denominator) for t, m in merged if m.type == "time_signature"
    }


@st.composite
def pieces(draw):
    """Files whose notes of one key do not overlap, up to ten at once, with tempo changes."""
    file = mido.MidiFile(type=1, ticks_per_beat=draw(st.sampled_from([24, 96, 480, 1000])))
    tempi = mido.MidiTrack()
    for tempo in draw(st.lists(st.integers(100_000, 2_000_000), max_size=4)):
        tempi.append(mido.MetaMessage("set_tempo", tempo=tempo, time=draw(st.integers(0, 2000))))
    file.tracks.append(tempi)
    pitches = draw(st.lists(st.integers(21, 108), unique=True, min_size=2, max_size=10))
    for part in (pitches[::2], pitches[1::2]):
        events = []
        for pitch in part:
            tick = 0
            for _ in range(draw(st.integers(1, 4))):
                tick += draw(st.integers(1, 3000))
                events.append((tick, 1, pitch, draw(st.integers(1, 127))))
                tick += draw(st.integers(1, 3000))
                events.append((tick, 0, pitch, 0))
        one, now = mido.MidiTrack(), 0
        for tick, _, pitch, velocity in sorted(events):
            one.append(mido.Message("note_on", note=pitch, velocity=velocity, time=tick - now))
            now = tick
        file.tracks.append(one)
    return file


@settings(max_examples=150, deadline=None)
@given(pieces())
def test_any_piece_has_the_notes_and_times_of_pretty_midi(tmp_path_factory, file):
    path = tmp_path_factory.getbasetemp() / "any_piece.mid"
    file.save(path)
    assert_same_notes(notes_of_song(path), notes_of_pretty_midi(path))


# --- Oddities that are read ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "finding"),
    [
        (midi(track()), None),
        (midi(track(), kind=0), None),
        (midi(track(), kind=2), None),
        (midi(track(end=b"")), None),
        # The kind of the last event goes on behind other events.
        (midi(track(b"\x00\x90\x3c\x50\x00\xff\x01\x01a\x00\xf0\x01\xf7\x60\x3c\x00")), None),
        (midi(track(C4, END + b"\x00\x90")), "2 byte(s) behind the end of track 1 ignored"),
        (midi(track() + bytes(3)), "3 byte(s) between or behind the tracks ignored"),
        (midi(track(length=0)), "track 1 has another length than the file says"),
        # The length ends between two events.
        (midi(track(length=8)), "track 1 has another length than the file says"),
        (midi(track(length=9)), "track 1 has another length than the file says"),
        (midi(track(length=999)), "track 1 has another length than the file says"),
        (midi(track(length=1), track(b"")), "track 1 has another length than the file says"),
        (midi(track(), tracks=3), "the header names 3 track(s), the file has 1"),
        (midi(track(), track(b""), tracks=1), "the header names 1 track(s), the file has 2"),
        (
            midi(chunk(b"XFIH", b"xyz"), track()),
            "chunk 'XFIH' of 3 byte(s), which holds no track, ignored",
        ),
        (b"\x00" * 128 + midi(track()), None),
        (
            b"RIFF\0\0\0\0RMIDdata" + struct.pack("<L", len(midi(track()))) + midi(track()) + b"x",
            None,
        ),
        (
            midi(track(b"\x00\xff\x51\x01\x07" + C4)),
            "1 tempo(s) without a value above 0 ignored, first at bar 1, 0.00 s",
        ),
        (
            midi(track(b"\x00\xff\x51\x03\0\0\0" * 2 + C4)),
            "2 tempo(s) without a value above 0 ignored, first at bar 1, 0.00 s",
        ),
        (
            midi(track(C4 + b"\x60\xff\x58\x04\x00\x02\x18\x08")),
            "1 time signature(s) that music does not have ignored, first at bar 1, 1.00 s",
        ),
        (
            midi(track(b"\x00\xb0\x07\xc8" + C4)),
            "1 value(s) above 127 in track 1 read as 127, first at bar 1, 0.00 s",
        ),
    ],
)
def test_oddities_are_read_and_listed(tmp_path, contents, finding):
    piece = read(tmp_path, contents)
    assert notes_of(piece) == [(0, 96, 60, 80)]
    assert [str(one) for one in piece.findings] == ([finding] if finding else [])


def test_a_header_may_be_longer(tmp_path):
    contents = chunk(b"MThd", struct.pack(">HHHH", 0, 1, 96, 7)) + track()
    assert notes_of(read(tmp_path, contents)) == [(0, 96, 60, 80)]


@pytest.mark.parametrize(("frames", "rate"), [(24, 24), (25, 25), (29, 30_000 / 1001), (30, 30)])
def test_time_in_smpte_frames(tmp_path, frames, rate):
    """A tempo does not count then, and there are no bars."""
    tempo = b"\x00\xff\x51\x03\x01\x00\x00"
    piece = read(tmp_path, midi(track(tempo + C4 + C4), division=(256 - frames) << 8 | 4))
    assert piece.time.seconds(piece.notes[1].start) == pytest.approx(96 / 4 / rate)
    assert str(piece.time.place(96)) == f"{96 / 4 / rate:.2f} s"


def test_a_track_s_name_is_shown_without_what_a_terminal_would_obey(tmp_path):
    (tmp_path / "a.mid").write_bytes(midi(track(b"\x00\xff\x03\x06\x1b[1mLH" + C4)))
    assert read_midi_file(tmp_path / "a.mid").tracks[0].name == "[1mLH"


# --- What is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (midi(track(C4, b"", length=999)), "it ends in the middle of track 1; download or export"),
        (midi(track(C4, b"\x00\xff\x01\x50a")), "it ends in the middle of track 1"),
        (midi(track(), track(), kind=2), "type 2, whose tracks do not belong together .*type 1"),
        (midi(track(), kind=7), "type 7"),
        (midi(track(), division=0), "counts time in a way that is not supported .*with a tempo"),
        (midi(track(), division=0xE700 - 0x100), "not supported"),
        (midi(track(), division=0xE800), "not supported"),
        (midi(), "it holds no track; export the piece as a standard MIDI file"),
        (midi()[:10], "it ends within its header"),
        (midi(track(b"\x00\x3c\x50")), r"lacks its kind \(track 1, byte 23\); download or export"),
        (midi(track(b"\x00\xf5")), "MIDI has no event 0xf5"),
        (midi(track()) + bytes(4_000_000), "more than the limit of 4000000: export a part of it"),
        (b"PK\x03\x04....", "is a ZIP archive, such as a MuseScore file .*: export the piece as"),
        (b"<?xml version='1.0'?>", "is an XML file, such as MusicXML: export"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is a WAV recording: export"),
        (b"ID3\x03", "is an MP3 recording"),
        (b"SMF2CLIP", "is a MIDI 2.0 clip"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path, contents, message):
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path, contents)
    assert "\n" not in str(caught.value)


def test_the_bytes_of_these_tests_are_midi_for_mido(tmp_path):
    file = mido.MidiFile(file=io.BytesIO(midi(track(), track(b""))))
    assert [message.type for message in file.tracks[0]] == ["note_on", "note_off", "end_of_track"]
    assert notes_of(read(tmp_path, midi(track(), track(b"")))) == [(0, 96, 60, 80)]
