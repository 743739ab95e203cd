"""Metrics and recordings against robopianist's own."""

import dataclasses
import subprocess
import wave

import dm_env_wrappers
import imageio_ffmpeg
import mido
import numpy as np
import pytest
from robopianist import wrappers

from actors.evaluator import mean_metrics
from common.errors import BadInput
from piano import recording
from piano.config import EnvironmentConfig, RecordingConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.episode import midi_velocity, play
from piano.metrics import frame_metrics, metrics, note_metrics, velocity_metrics
from piano.performance import Performance, notes_of_frames
from piano.reference_environment import ReferenceEnvironment
from piano.repertoire import Repertoire
from piano.song import load_songs

CONFIG = EnvironmentConfig(
    gravity_compensation=True,
    reduced_action_space=True,
    primitive_fingertip_collisions=True,
    action_reward_observation=True,
)


def smooth_actions(steps, dimension, seed):
    """Random actions that move enough to press keys."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(scale=0.3, size=(steps, dimension)), axis=0)
    return np.sin(walk).astype(np.float32)


def play_actions(piano, seed=0):
    actions = iter(smooth_actions(10_000, piano.action_dim, seed))
    return play(PianoEnvironment(piano), lambda _observation: next(actions))


@pytest.fixture(scope="module")
def song():
    return load_songs(SongConfig(trim_silence=True))[0]


@pytest.fixture(scope="module")
def piano(song):
    return Repertoire([song], CONFIG).piano(0)


@pytest.fixture(scope="module")
def performance(piano):
    return play_actions(piano)


# --- Metrics ----------------------------------------------------------------------------


def test_frame_metrics_are_those_of_robopianist_s_wrapper(song, piano, performance):
    wrapper = wrappers.MidiEvaluationWrapper(ReferenceEnvironment(song, CONFIG).composer)
    stock = dm_env_wrappers.CanonicalSpecWrapper(wrapper, clip=True)
    for seed in (0, 1):
        timestep = stock.reset()
        actions = iter(smooth_actions(10_000, piano.action_dim, seed))
        while not timestep.last():
            timestep = stock.step(next(actions))
        values = metrics(play_actions(piano, seed))
        for name, value in wrapper.get_musical_metrics().items():
            assert values[name] == pytest.approx(value, abs=1e-12), name
    assert 0 < metrics(performance)["f1"] < 1


def test_a_silent_frame_counts_as_one():
    due = np.zeros((4, 88), bool)
    due[1:, 40] = True
    played = np.zeros((4, 88), bool)
    played[2, 40] = True
    played[3, 41] = True
    # Frames: nothing at all (1, 1, 1); missed (1, 0, 0); hit (1, 1, 1); wrong (0, 0, 0).
    assert frame_metrics(due, played) == {"precision": 0.75, "recall": 0.5, "f1": 0.5}


def test_a_note_is_due_when_the_task_first_looks_for_it(performance):
    for onset, _, key, _ in performance.due_notes:
        step = round(onset / 0.05) - 1  # It ends at the onset.
        assert performance.due_keys[step, int(key)]
        assert step == 0 or not performance.due_keys[step - 1, int(key)]


def test_note_metrics_by_hand():
    due = np.array([[0.0, 0.5, 40], [0.5, 1.0, 42], [1.0, 1.5, 44], [2.0, 2.5, 45]])
    played = np.array(
        [
            [0.03, 0.52, 40, 127],  # Hit, its offset too.
            [0.46, 0.70, 42, 127],  # Hit, released too early.
            [1.06, 1.50, 44, 127],  # 60 ms late: wrong, and its note missed.
            [2.0, 2.5, 46, 127],  # The key beside.
            [3.0, 3.1, 40, 127],  # Never due.
        ]
    )
    values = note_metrics(due, played)
    assert values["note_precision"] == pytest.approx(2 / 5)
    assert values["note_recall"] == pytest.approx(2 / 4)
    assert values["note_f1"] == pytest.approx(4 / 9)
    assert values["note_with_offset_f1"] == pytest.approx(2 / 9)
    assert values["onset_error_ms"] == pytest.approx(35.0)
    assert (values["due_notes"], values["wrong_notes"], values["missed_notes"]) == (4, 3, 2)


def test_silence_earns_no_note_f1():
    due = np.array([[0.0, 0.5, 40]])
    values = note_metrics(due, np.zeros((0, 4)))
    assert values["note_f1"] == 0.0
    assert np.isnan(values["onset_error_ms"])


def test_one_played_note_hits_one_due_note_only():
    due = np.array([[0.0, 0.02, 40], [0.04, 0.1, 40]])
    assert note_metrics(due, np.array([[0.02, 0.1, 40, 127]]))["missed_notes"] == 1


def touched(due, played):
    """A performance of notes due and played at these velocities, each on a key of its own."""

    def notes(velocities):
        return np.array([[i, i + 0.5, i, v] for i, v in enumerate(velocities)]).reshape(-1, 4)

    empty = np.zeros((1, 88), bool)
    return Performance(
        control_timestep=np.array(0.05),
        due_keys=empty,
        due_pedal=empty[:, 0],
        played_keys=empty,
        played_pedal=empty[:, 0],
        rewards=np.zeros(1),
        due_notes=notes(due),
        played_notes=notes(played),
        pedal_changes=np.zeros((0, 2)),
        positions=np.zeros((2, 2), np.float32),
    )


def velocity_f1_of(due, played):
    return velocity_metrics(touched(due, played))["velocity_f1"]


def test_velocity_f1_by_hand():
    # 20 and 100 become 0 and 1. What is half as loud, and half as far apart, is on one line.
    assert velocity_f1_of([20, 60, 100], [30, 50, 70]) == pytest.approx(1.0)
    # The line that fits best goes through the first three, and half-way between the last two.
    assert velocity_f1_of([20, 60, 100, 100, 20], [40, 60, 80, 60, 60]) == pytest.approx(6 / 10)
    # Loud for soft as often as not: a level line, far from all.
    assert velocity_f1_of([20, 100, 20, 100], [40, 40, 80, 80]) == 0.0
    # A note more than is due, and one less.
    assert velocity_f1_of([20, 100], [30, 70, 50]) == pytest.approx(4 / 5)
    assert velocity_f1_of([20, 100, 60], [30, 70]) == pytest.approx(4 / 5)
    assert velocity_f1_of([20, 100], []) == 0.0


@pytest.mark.parametrize("due", [[], [80], [80, 80, 80]])
def test_a_score_without_dynamics_has_no_velocity_f1(due):
    assert np.isnan(velocity_f1_of(due, [70, 75]))
    assert mean_metrics([touched(due, [70, 75])])["velocity_f1"] is None


def test_mean_and_spread_of_velocities():
    values = velocity_metrics(touched([20, 100], [60, 70, 80, 90]))
    assert values["mean_velocity"] == 75.0
    assert values["velocity_spread"] == pytest.approx(np.sqrt(125))
    silent = velocity_metrics(touched([20, 100], []))
    assert np.isnan(silent["mean_velocity"])
    assert np.isnan(silent["velocity_spread"])


def test_notes_are_due_at_the_velocities_of_the_song(song, performance):
    """Each at that of the note of its key which begins within half a control step of it."""
    notes = song.midi.seq.notes
    for onset, _, key, velocity in performance.due_notes:
        begins = onset - 0.05
        near = [n for n in notes if n.pitch - 21 == key and abs(n.start_time - begins) < 0.051]
        assert velocity in [n.velocity for n in near]
    assert len(set(performance.due_velocities)) > 10
    np.testing.assert_array_equal(performance.due_velocities, performance.due_notes[:, 3])


def test_notes_of_frames():
    keys = np.zeros((6, 88), bool)
    keys[0:2, 3] = True
    keys[3:6, 3] = True
    keys[0:1, 9] = True
    np.testing.assert_allclose(
        notes_of_frames(keys, 0.05), [[0.0, 0.1, 3], [0.0, 0.05, 9], [0.15, 0.3, 3]]
    )


def test_played_notes_agree_with_the_frames(performance):
    """Onsets come at the physics' finer times; at the end of each frame both views agree."""
    sounding = np.zeros_like(performance.played_keys)
    ends = (np.arange(len(sounding)) + 1) * float(performance.control_timestep)
    for onset, offset, key, _ in performance.played_notes:
        sounding[(ends > onset - 1e-6) & (ends < offset - 1e-6), int(key)] = True
    last = performance.played_notes[:, 1] >= performance.seconds - 1e-6
    sounding[-1, performance.played_notes[last, 2].astype(int)] = True
    np.testing.assert_array_equal(sounding, performance.played_keys)


def test_files_without_velocities_still_open(tmp_path, performance):
    old = dataclasses.replace(performance, due_notes=performance.due_notes[:, :3])
    old.save(tmp_path / "old.npz")
    again = Performance.load(tmp_path / "old.npz")
    assert np.isnan(again.due_velocities).all()
    assert len(again.due_velocities) == len(performance.due_notes)
    here, there = metrics(again), metrics(performance)
    assert np.isnan(here.pop("velocity_f1"))
    del there["velocity_f1"]
    np.testing.assert_equal(here, there)
    np.testing.assert_array_equal(
        again.window(0, 40).due_notes[:, 2], old.due_notes[:, 2][old.due_notes[:, 0] <= 2.0]
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"due_notes": np.zeros((3, 2))},
        {"due_notes": np.zeros(3)},
        {"played_notes": np.zeros((3, 3))},
        {"played_notes": np.full((3, 4), "x")},
    ],
)
def test_damaged_notes_are_refused(tmp_path, performance, damage):
    dataclasses.replace(performance, **damage).save(tmp_path / "performance.npz")
    with pytest.raises(BadInput, match=f"performance.npz is damaged: {next(iter(damage))} is"):
        Performance.load(tmp_path / "performance.npz")


# --- Recordings -------------------------------------------------------------------------


def test_performances_survive_their_file(tmp_path, performance):
    performance.save(tmp_path / "performance.npz")
    again = Performance.load(tmp_path / "performance.npz")
    for name, value in vars(performance).items():
        np.testing.assert_array_equal(value, getattr(again, name))


@pytest.mark.parametrize("velocity", ["touch", "fixed"])
def test_midi_of_what_was_played(tmp_path, performance, velocity):
    recording.to_midi(performance, velocity).save(tmp_path / "played.mid")
    onsets = [
        message
        for message in mido.MidiFile(tmp_path / "played.mid")
        if message.type == "note_on" and message.velocity > 0
    ]
    assert sorted(m.note - 21 for m in onsets) == sorted(performance.played_notes[:, 2])
    touches = sorted(performance.played_notes[:, 3])
    assert sorted(m.velocity for m in onsets) == (
        touches if velocity == "touch" else [127] * len(touches)
    )
    assert len(set(touches)) > 5


def test_a_faster_key_sounds_louder():
    # By hand: a hammer at 1 m/s is MIDI velocity 58, ten times as fast is beyond the scale.
    assert midi_velocity(1 / 0.75) == 58
    assert midi_velocity(10 / 0.75) == 127
    assert midi_velocity(0.0) == midi_velocity(-1.0) == 1
    speeds = np.linspace(0.1, 10, 50)
    assert (np.diff([midi_velocity(speed) for speed in speeds]) >= 0).all()


def loudness(path):
    """Root mean square of a WAV file."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def test_touch_can_be_heard(tmp_path, performance):
    soft = dataclasses.replace(
        performance, played_notes=performance.played_notes * np.array([1, 1, 1, 0.5])
    )
    recording.write_sound(performance, "touch", tmp_path / "loud.wav")
    recording.write_sound(soft, "touch", tmp_path / "soft.wav")
    assert 0 < loudness(tmp_path / "soft.wav") < 0.7 * loudness(tmp_path / "loud.wav")


def test_video_has_as_many_frames_as_control_steps_and_sound(tmp_path, piano, performance):
    assert recording.what_is_missing() == [], "the set-up installs OpenGL and FluidSynth"
    short = dataclasses.replace(performance, rewards=performance.rewards[:20])
    config = RecordingConfig(record_resolution=(96, 128))
    files = recording.record(short, piano, config)
    assert set(files) == {"played.mid", "video.mp4"}
    path = tmp_path / "video.mp4"
    path.write_bytes(files["video.mp4"])
    frames = imageio_ffmpeg.read_frames(str(path))
    facts = next(frames)
    assert facts["size"] == (128, 96)
    assert facts["fps"] == 20
    assert facts["audio_codec"] == "aac"
    pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
    assert len(pictures) == 20
    assert pictures[0].std() > 10  # Something is to be seen, and it moves.
    assert not np.array_equal(pictures[0], pictures[-1])
    report = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-af", "volumedetect", "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stderr
    assert "mean_volume: -91" not in report  # That would be silence.
