"""Parts of a piece: seconds and bars, notes cut at the edges, the pedal carried in."""

import mido
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_song import load, note, notes_of, write

import pianist
from common.errors import BadInput
from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig
from piano.config import ArrangementConfig, EnvironmentConfig, SongConfig
from piano.repertoire import Repertoire
from piano.song import LONGEST_SONG_SECONDS, Song, load_songs
from training import resume
from training import run as runs
from training.config import TrainConfig, from_json, to_json
from training.evaluate import EvaluateConfig, evaluate, with_flags_of_checkpoint

TICK = 0.001
"""Seconds a tick in the files of the property test."""


def pedal_of(song):
    return [(round(one.time, 6), one.control_value) for one in song.midi.seq.control_changes]


def pedal(value, wait=0):
    return [("control_change", {"control": 64, "value": value}, wait)]


# --- Beside a file that is cut by hand -------------------------------------------------------


@st.composite
def notes_and_pedal(draw):
    """Notes (start, end, pitch, velocity) without overlaps, and pedal (tick, value), in ticks."""
    notes = []
    for pitch in draw(st.lists(st.integers(40, 80), unique=True, min_size=1, max_size=6)):
        tick = 0
        for _ in range(draw(st.integers(1, 5))):
            start = tick + draw(st.integers(0, 2000))
            tick = start + draw(st.integers(20, 3000))
            notes.append((start, tick, pitch, draw(st.integers(1, 127))))
    values = st.tuples(st.integers(0, 10_000), st.integers(0, 127))
    changes = draw(st.lists(values, max_size=6, unique_by=lambda change: change[0]))
    return notes, sorted(changes)


def write_ticks(path, notes, changes):
    file = mido.MidiFile(type=0, ticks_per_beat=500)  # At 120 beats a minute, a tick is 1 ms.
    events = [(start, 1, mido.Message("note_on", note=pitch, velocity=velocity))
              for start, _, pitch, velocity in notes]  # fmt: skip
    events += [(end, 0, mido.Message("note_off", note=pitch)) for _, end, pitch, _ in notes]
    events += [(at, 2, mido.Message("control_change", control=64, value=v)) for at, v in changes]
    track, now = mido.MidiTrack(), 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    file.tracks.append(track)
    file.save(path)
    return path


def cut_by_hand(notes, changes, begin, end):
    inside = []
    for start, stop, pitch, velocity in notes:
        if stop <= begin or start >= end:
            continue
        cut = max(start, begin), min(stop, end)
        if cut != (start, stop) and cut[1] - cut[0] < 50:
            continue
        inside.append((cut[0] - begin, cut[1] - begin, pitch, velocity))
    held = [(0, value) for tick, value in changes if tick <= begin][-1:]
    return inside, held + [(tick - begin, v) for tick, v in changes if begin < tick < end]


@settings(max_examples=100, deadline=None)
@given(notes_and_pedal(), st.data())
def test_a_part_is_the_file_cut_by_hand(tmp_path_factory, music, data):
    folder = tmp_path_factory.getbasetemp()
    notes, changes = music
    last = max([end for _, end, _, _ in notes] + [tick for tick, _ in changes])
    begin = data.draw(st.integers(0, last - 1))
    end = data.draw(st.integers(begin + 1, last))
    whole = write_ticks(folder / "whole.mid", notes, changes)
    flags = {"excerpt": f"{begin * TICK:.3f}:{end * TICK:.3f}"}
    cut, changes = cut_by_hand(notes, changes, begin, end)
    if not cut:
        with pytest.raises(BadInput, match="no note of whole sounds from"):
            load(whole, **flags)
        return
    ours = load(whole, **flags)
    by_hand = load(write_ticks(folder / "part.mid", cut, changes))
    assert sorted(notes_of(ours)) == sorted(notes_of(by_hand))
    assert pedal_of(ours) == pedal_of(by_hand)
    assert ours.midi.seq.total_time == pytest.approx(by_hand.midi.seq.total_time)


def test_notes_across_the_edges_are_cut_and_listed(tmp_path):
    path = write(tmp_path / "a.mid", note(60, ticks=960 * 4) + note(62) + note(64, ticks=960 * 4))
    song = load(path, excerpt="3:5")
    assert notes_of(song) == [(0.0, 1.0, 60, 80), (1.0, 1.5, 62, 80), (1.5, 2.0, 64, 80)]
    assert song.title == "a 3-5 s"
    assert song.repairs == (
        "a.mid: 2 note(s) cut at the edges of the part, first at bar 2, 3.00 s",
    )


def test_less_than_a_control_step_of_a_note_is_left_out_and_listed(tmp_path):
    path = write(tmp_path / "a.mid", note(60) + note(62) + note(64))
    song = load(path, excerpt="0.48:1.04")
    assert notes_of(song) == [(0.02, 0.52, 62, 80)]
    assert [line.partition(", first")[0] for line in song.repairs] == [
        "a.mid: 2 note(s) left out, because less than 0.05 s of them is in the part"
    ]
    # A note of this length that no edge cuts stays.
    short = write(tmp_path / "b.mid", note(60, ticks=20) + note(62))
    assert len(notes_of(load(short, excerpt="0:0.5"))) == 2


def test_the_pedal_is_carried_in(tmp_path):
    events = pedal(127) + note(60) + pedal(90) + note(62) + pedal(0, wait=100) + note(64)
    song = load(write(tmp_path / "a.mid", events), excerpt="0.75:1.6")
    assert pedal_of(song) == [(0.0, 90), (0.354167, 0)]
    assert song.trajectory(0.05).sustains[0] == 1


def test_what_is_listed_of_a_part_lies_in_it(tmp_path):
    path = write(tmp_path / "a.mid", note(10) + note(60) + note(120) + note(62))
    assert len(load(path).findings[0].places) == 2
    song = load(path, excerpt="0.5:1.5")
    assert song.repairs == ("a.mid: 1 note(s) off the keyboard left out, first at bar 1, 1.00 s",)
    assert load(path, excerpt="1.5:2").repairs == ()


def test_a_part_comes_before_stretching_and_trimming(tmp_path):
    path = write(tmp_path / "a.mid", note(60) + note(62, wait=480) + note(64))
    song = load(path, excerpt="0.5:1.75", stretch_factor=2.0, trim_silence=True)
    assert notes_of(song) == [(0.0, 1.0, 62, 80), (1.0, 1.5, 64, 80)]


def test_frames_do_not_depend_on_rounding(tmp_path):
    """2.3 - 2.0 is less than 0.3 in floating-point numbers."""
    path = write(tmp_path / "a.mid", note(60, wait=2208, ticks=480))
    assert load(path, excerpt="2:2.8").trajectory(0.05).notes[5] == []
    assert len(load(path, excerpt="2:2.8").trajectory(0.05).notes[6]) == 1


def test_a_named_piece_keeps_its_fingering():
    (whole,) = load_songs(SongConfig())
    (song,) = load_songs(SongConfig(excerpt="15:18"))
    assert song.has_fingering
    assert song.title == f"{whole.title} 15-18 s"
    assert 2 < song.midi.seq.total_time <= 3
    fingers = {(n.pitch, n.part) for n in whole.midi.seq.notes}
    assert {(n.pitch, n.part) for n in song.midi.seq.notes} <= fingers


# --- Bars --------------------------------------------------------------------------------


def meter(numerator, denominator, wait=0):
    fields = {"numerator": numerator, "denominator": denominator}
    return [("time_signature", fields, wait)]


def tempo(microseconds, wait=0):
    return [("set_tempo", {"tempo": microseconds}, wait)]


@pytest.fixture
def changing(tmp_path):
    """An upbeat of a beat, two bars of 3/4 at 120, one of 6/8 at 60, two of 2/4 at 240 a minute.

    Each beat has a note; the notes of a bar are 60, 61, ...; the tempo of the last bars comes a
    beat late.
    """
    signatures = (
        meter(1, 4) + meter(3, 4, 480) + meter(6, 8, 2 * 1440) + tempo(1_000_000)
        + meter(2, 4, 1440) + tempo(250_000, 480)
    )  # fmt: skip
    beats = [note(60 + beat) for bar in (1, 3, 3, 3, 2, 2) for beat in range(bar)]
    return write(tmp_path / "a.mid", signatures, [event for beat in beats for event in beat])


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ("1-1", [(0.0, 0.5, 60)]),
        ("2-2", [(0.0, 0.5, 60), (0.5, 1.0, 61), (1.0, 1.5, 62)]),
        ("1-2", [(0.0, 0.5, 60), (0.5, 1.0, 60), (1.0, 1.5, 61), (1.5, 2.0, 62)]),
        ("4-4", [(0.0, 1.0, 60), (1.0, 2.0, 61), (2.0, 3.0, 62)]),
        ("5-5", [(0.0, 1.0, 60), (1.0, 1.25, 61)]),
        ("5-6", [(0.0, 1.0, 60), (1.0, 1.25, 61), (1.25, 1.5, 60), (1.5, 1.75, 61)]),
    ],
)
def test_bars_with_changes_of_tempo_and_meter(changing, bars, expected):
    song = load(changing, bars=bars)
    assert [one[:3] for one in notes_of(song)] == expected
    assert song.title == f"a bars {bars}"
    assert song.repairs == ()


def test_all_bars_are_the_whole_piece(changing):
    whole, bars = load(changing), load(changing, bars="1-6")
    assert notes_of(whole) == notes_of(bars)
    assert whole.trajectory(0.05) == bars.trajectory(0.05)


def test_a_time_signature_begins_a_bar_wherever_it_comes(tmp_path):
    path = write(tmp_path / "a.mid", meter(4, 4) + meter(3, 4, 1200), note(60) * 8)
    # 1200 ticks of 1920 are the first bar.
    assert [one[:2] for one in notes_of(load(path, bars="2-2"))] == [
        (0.0, 0.25), (0.25, 0.75), (0.75, 1.25), (1.25, 1.5),
    ]  # fmt: skip


def test_bars_that_are_not_there_are_refused(changing):
    with pytest.raises(BadInput, match="--bars is 5-7, but a has 6 bar"):
        load(changing, bars="5-7")


def test_smpte_files_have_no_bars(tmp_path):
    path = write(tmp_path / "a.mid", note(60, ticks=100))
    contents = bytearray(path.read_bytes())
    contents[12:14] = bytes([256 - 25, 40])
    path.write_bytes(contents)
    with pytest.raises(BadInput, match=r"--bars is 1-1, but a\.mid counts time in SMPTE frames"):
        load(path, bars="1-1")
    assert notes_of(load(path, excerpt="0:0.05")) == [(0.0, 0.05, 60, 80)]


# --- Limits ------------------------------------------------------------------------------


def test_a_part_of_a_long_performance_can_be_played(tmp_path):
    count = int(LONGEST_SONG_SECONDS) * 2
    path = write(tmp_path / "a.mid", note(60) * count + note(62) * 24)
    with pytest.raises(BadInput, match="612 s, longer than the limit of 600 s: choose a part"):
        load(path)
    song = load(path, excerpt="600:612")
    assert {pitch for _, _, pitch, _ in notes_of(song)} == {62}
    assert song.midi.seq.total_time == pytest.approx(12)


@pytest.mark.parametrize(
    "excerpt", ["5", "5:", ":5", "5:5", "6:5", "-1:5", "a:b", "nan:1", "0:1e9"]
)
def test_bad_values_of_excerpt(excerpt):
    with pytest.raises(BadInput, match=r"^--excerpt is .*, must be BEGIN:END in seconds"):
        ArrangementConfig(excerpt=excerpt)


@pytest.mark.parametrize("bars", ["5", "0-3", "5-4", "1:4", "-1-4", "a-b", "1-4.5"])
def test_bad_values_of_bars(bars):
    with pytest.raises(BadInput, match=r"^--bars is .*, must be FIRST-LAST"):
        ArrangementConfig(bars=bars)


def test_parts_that_cannot_be_are_refused(tmp_path):
    path = write(tmp_path / "a.mid", note(60))
    with pytest.raises(BadInput, match=r"but a ends after 0\.50 s"):
        load(path, excerpt="0:0.6")
    with pytest.raises(BadInput, match=r"but a ends after 0\.50 s"):
        load(path, excerpt="1:2")
    with pytest.raises(BadInput, match="both choose a part"):
        load(path, excerpt="0:1", bars="1-1")
    with pytest.raises(BadInput, match="robopianist's pieces have no bars"):
        SongConfig(bars="1-2")


# --- In a run ----------------------------------------------------------------------------


def test_a_run_keeps_its_part(tmp_path):
    path = write(tmp_path / "a.mid", note(60) + note(62) + note(64))
    song = SongConfig(midi_file=(path,), excerpt="0.5:1.5")
    config = TrainConfig(root_dir=str(tmp_path / "runs"), name="one", song=song)
    assert from_json(to_json(config), "a file") == config
    repertoire = Repertoire(load_songs(song), EnvironmentConfig())
    folder = runs.create(config, "SAC", repertoire)
    path.unlink()
    runs.Status("one", "train", "stopped", 0.0).write(folder.status)
    again = resume.reopen(resume.settings_of(folder), folder)
    assert again.title == repertoire.title == "a 0.5-1.5 s"
    assert (again.due_keys(0) == repertoire.due_keys(0)).all()
    described = Song.from_json(repertoire.songs[0].to_json())
    assert described.trajectory(0.05) == repertoire.songs[0].trajectory(0.05)


@pytest.mark.run
def test_an_evaluation_plays_the_part_of_the_checkpoint(tmp_path):
    """The checkpoint holds the notes, so the file may be gone."""
    path = write(tmp_path / "a.mid", note(60) * 2 + note(62) * 2 + note(64) * 2)
    config = TrainConfig(
        song=SongConfig(midi_file=(path,), excerpt="1:2"),
        learner=LearnerConfig(agent_config=SACConfig(hidden_dims=(2,), num_qs=1)),
    )
    repertoire = Repertoire(load_songs(config.song), config.environment)
    piano = repertoire.piano(0)
    state = sac.initial_state(config.learner, piano.layout.observation_dim, piano.action_dim, 0)
    description = {
        "learner_steps": 1,
        "environment_steps": 2,
        "config": to_json(config),
        "songs": [song.to_json() for song in repertoire.songs],
    }
    folder = checkpoint.pack(state, description).write(tmp_path)
    arguments = ["--load-checkpoint", str(folder), "--record-dir", str(tmp_path / "eval")]
    default = with_flags_of_checkpoint(arguments)
    other = with_flags_of_checkpoint([*arguments, "--midi-file", "b.mid"])
    assert default is not None
    assert other is not None
    assert default.song.excerpt == "1:2"
    assert other.song.excerpt == ""
    named = with_flags_of_checkpoint([*arguments, "--environment-name", "RoboPianist-x"])
    assert named is not None
    assert named.song.midi_file == ()
    bars = [*arguments, "--bars", "1-1"]
    parsed = pianist.parse(EvaluateConfig, "eval", bars, with_flags_of_checkpoint(bars))
    assert (parsed.song.bars, parsed.song.excerpt) == ("1-1", "")
    path.unlink()
    answer = evaluate(pianist.parse(EvaluateConfig, "eval", arguments, default))
    assert answer["song"] == "a 1-2 s"
    assert answer["metrics"]["due_notes"] == 2
    assert answer["metrics"]["episode_length"] == repertoire.piano(0).episode_length
