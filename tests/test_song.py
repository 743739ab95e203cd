"""Songs: real files read, bad ones refused, what is wrong with them repairs and said."""

import pathlib

import mido
import pytest
from robopianist import music, suite

from common.errors import BadInput
from piano.config import SongConfig
from piano.song import LONGEST_SONG_SECONDS, Song, load_songs

EXAMPLES = sorted((pathlib.Path(__file__).parent.parent / "example_midis").glob("*.mid"))


def write(path, *tracks, ticks_per_beat=480, kind=1):
    """Writes tracks of (type, {fields}, ticks before it)."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks_per_beat)
    for events in tracks:
        track = mido.MidiTrack()
        for name, fields, ticks in events:
            message = mido.MetaMessage if name.startswith(("set_", "time_")) else mido.Message
            track.append(message(name, time=ticks, **fields))
        file.tracks.append(track)
    file.save(path)
    return path


def note(pitch, ticks=480, wait=0, velocity=80):
    return [
        ("note_on", {"note": pitch, "velocity": velocity}, wait),
        ("note_off", {"note": pitch}, ticks),
    ]


def load(path, **settings):
    return load_songs(SongConfig(midi_file=(path,), **settings))[0]


def notes_of(song):
    return [
        (round(n.start_time, 6), round(n.end_time, 6), n.pitch, n.velocity)
        for n in song.midi.seq.notes
    ]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_pieces_are_read_as_robopianist_reads_them(path):
    song = load(path)
    assert song.repairs == ()
    ours, theirs = (
        song.trajectory(0.05),
        music.midi_file.NoteTrajectory.from_midi(music.load(path), 0.05),
    )
    assert [{n.key for n in step} for step in ours.notes] == [
        {n.key for n in step} for step in theirs.notes
    ]
    assert ours.sustains == theirs.sustains


@pytest.mark.parametrize("name", suite.DEBUG)
@pytest.mark.parametrize("trim", [False, True])
def test_named_pieces_are_robopianist_s_own(name, trim):
    song = load_songs(SongConfig(environment_name=name, trim_silence=trim))[0]
    midi = music.load(name.removesuffix("-v0").rpartition("-")[2])
    assert song.midi.seq == (midi.trim_silence() if trim else midi).seq
    assert song.has_fingering


def test_stretch_and_shift(tmp_path):
    path = write(tmp_path / "a.mid", note(60) + note(62))
    assert notes_of(load(path, stretch_factor=2.0, shift_factor=3)) == [
        (0.0, 1.0, 63, 80),
        (1.0, 2.0, 65, 80),
    ]


def test_trimming_keeps_the_note_that_sounds_last(tmp_path):
    path = write(tmp_path / "a.mid", note(72, ticks=960, wait=480), note(48, ticks=2400, wait=480))
    song = load(path, trim_silence=True)
    assert notes_of(song) == [(0.0, 2.5, 48, 80), (0.0, 1.0, 72, 80)]
    assert song.midi.seq.total_time == pytest.approx(2.5)


def test_tempo_changes_count(tmp_path):
    path = write(
        tmp_path / "a.mid",
        [("set_tempo", {"tempo": 1_000_000}, 0), ("set_tempo", {"tempo": 250_000}, 480)],
        note(60) + note(62),
    )
    assert notes_of(load(path)) == [(0.0, 1.0, 60, 80), (1.0, 1.25, 62, 80)]


def test_pedal_is_kept(tmp_path):
    down = ("control_change", {"control": 64, "value": 127}, 0)
    up = ("control_change", {"control": 64, "value": 0}, 0)
    song = load(write(tmp_path / "a.mid", [down, *note(60), up, *note(62)]))
    # A frame later at each edge: robopianist changes the pedal in the frame of the event.
    assert song.trajectory(0.05).sustains[:9] == [1] * 9
    assert song.trajectory(0.05).sustains[11:] == [0] * (len(song.trajectory(0.05)) - 11)


# --- What is repairs ---------------------------------------------------------------------


def test_overlapping_notes_of_one_key_are_separated(tmp_path):
    events = [
        ("note_on", {"note": 60, "velocity": 80}, 480 * 4),
        ("note_on", {"note": 60, "velocity": 90}, 240),
        ("note_off", {"note": 60}, 240),
        ("note_off", {"note": 60}, 240),
    ]
    song = load(write(tmp_path / "a.mid", events))
    assert notes_of(song) == [(2.0, 2.25, 60, 80), (2.25, 2.75, 60, 90)]
    assert song.repairs == (
        "a.mid: 1 overlapping note(s) of one key separated, first at bar 2, 2.25 s",
    )


def test_unmatched_ends_are_repaired(tmp_path):
    events = [
        ("note_off", {"note": 60}, 0),
        ("note_on", {"note": 64, "velocity": 80}, 480),
        *note(62),
    ]
    song = load(write(tmp_path / "a.mid", events))
    assert notes_of(song) == [(0.5, 1.0, 62, 80), (0.5, 1.0, 64, 80)]
    assert [line.split(", first at ") for line in song.repairs] == [
        ["a.mid: 1 note-off(s) without a note ignored", "bar 1, 0.00 s"],
        ["a.mid: 1 note(s) that never end now end with their track", "bar 1, 0.50 s"],
    ]


def test_notes_off_the_keyboard_are_left_out(tmp_path):
    song = load(write(tmp_path / "a.mid", note(10) + note(60) + note(120)))
    assert [pitch for _, _, pitch, _ in notes_of(song)] == [60]
    assert "2 note(s) off the keyboard left out, first at bar 1, 0.00 s" in song.repairs[0]


def test_no_more_than_ten_at_once_the_softest_left_out(tmp_path):
    chord = [("note_on", {"note": 60 + i, "velocity": 100 - i}, 0) for i in range(13)]
    chord += [("note_off", {"note": 60 + i}, 480 if i == 0 else 0) for i in range(13)]
    song = load(write(tmp_path / "a.mid", chord + note(40)))
    pitches = [pitch for _, _, pitch, _ in notes_of(song)]
    assert pitches == [*range(60, 70), 40]
    assert "3 note(s) beyond ten at once left out" in song.repairs[0]
    assert max(len(step) for step in song.trajectory(0.05).notes) == 10


# --- What is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"not music at all", "not a MIDI file, or is damaged"),
        (b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk\x00\x00", "damaged|no note"),
        # A time of 200 bytes.
        (
            b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0"
            b"MTrk\x00\x00\x00\xcb" + b"\xff" * 199 + b"\x00\x90\x40\x40",
            "damaged: an event comes later",
        ),
    ],
)
def test_what_is_no_midi_file_is_refused(tmp_path, contents, message):
    path = tmp_path / "a.mid"
    path.write_bytes(contents)
    with pytest.raises(BadInput, match=message):
        load(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no MIDI file at"):
        load(tmp_path / "nothing.mid")
    with pytest.raises(BadInput, match="is a folder"):
        load(tmp_path)


def test_a_file_without_a_playable_note_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no note on the 88 keys"):
        load(write(tmp_path / "a.mid", note(5)))
    with pytest.raises(BadInput, match="after --shift-factor 60"):
        load(write(tmp_path / "b.mid", note(60)), shift_factor=60)


def test_too_long_a_song_is_refused_before_memory_is_taken(tmp_path):
    ticks = int((LONGEST_SONG_SECONDS + 1) * 960)
    with pytest.raises(BadInput, match="longer than the limit of 600 s"):
        load(write(tmp_path / "a.mid", note(60, ticks=ticks)))
    with pytest.raises(BadInput, match="longer than the limit"):
        load(write(tmp_path / "b.mid", note(60, ticks=480 * 200)), stretch_factor=10.0)


def test_unknown_pieces_are_refused_with_a_suggestion():
    with pytest.raises(BadInput, match="RoboPianist-debug-TwinkleTwinkleRousseau-v0"):
        load_songs(SongConfig(environment_name="TwinkleTwinkleRousseau"))[0]


def test_several_songs_have_to_differ():
    songs = load_songs(SongConfig(midi_file=tuple(EXAMPLES)))
    assert [song.title for song in songs] == [path.stem.replace("_", " ") for path in EXAMPLES]
    with pytest.raises(BadInput, match="names fur elise twice"):
        load_songs(SongConfig(midi_file=(EXAMPLES[1], EXAMPLES[1])))


# --- Through a file ---------------------------------------------------------------------


def test_songs_survive_their_description():
    song = load_songs(SongConfig())[0]
    again = Song.from_json(song.to_json())
    assert again.title == song.title
    ours, theirs = again.trajectory(0.05), song.trajectory(0.05)
    assert ours == theirs
    assert again.has_fingering
    velocities = [note.velocity for note in song.midi.seq.notes]
    assert [note.velocity for note in again.midi.seq.notes] == velocities
    assert len(set(velocities)) > 10


@pytest.mark.parametrize(
    "damage",
    [
        {"notes": None},
        {"notes": [[0.0, 1.0]]},
        {"notes": [[0.0, 1.0, 60, 80, "x"]]},
        {"notes": []},
        {"notes": [[0.0, 1e9, 60, 80, 0]]},
        {"notes": [[0.0, float("nan"), 60, 80, 0]]},
        {"notes": [[0.0, 1.0, 200, 80, 0]]},
        {"notes": [[0.0, 1.0, 60, 128, 0]]},
        {"notes": [[0.0, 1.0, 60, -1, 0]]},
        {"notes": [[0.0, 1.0, 60, None, 0]]},
        {"seconds": -1.0},
    ],
)
def test_damaged_descriptions_are_refused(damage):
    with pytest.raises(BadInput):
        Song.from_json(load_songs(SongConfig())[0].to_json() | damage)
