"""Windows: every one of a real performance can be cut and measured, and none loses a note."""

import dataclasses
import pathlib

import numpy as np
import pytest

from piano.config import EnvironmentConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.episode import play
from piano.metrics import metrics, note_metrics
from piano.performance import cut_notes
from piano.repertoire import Repertoire
from piano.song import load_songs

ROOT = pathlib.Path(__file__).parent.parent
PIECES = sorted(path.stem for path in (ROOT / "example_midis").glob("*.mid"))
CONFIG = EnvironmentConfig(reduced_action_space=True, primitive_fingertip_collisions=True)
SIZES = (10, 20, 30, 40, 50)  # Half a second to two and a half.


@pytest.fixture(scope="module")
def performances():
    """Of each example piece, by hands that move at random and press keys as they go."""
    songs = load_songs(SongConfig(midi_file=tuple(ROOT / f"example_midis/{p}.mid" for p in PIECES)))
    repertoire = Repertoire(songs, CONFIG)
    found = {}
    for number, piece in enumerate(PIECES):
        environment = PianoEnvironment(repertoire.piano(number))
        random = np.random.default_rng(number)
        phase = random.uniform(0, 2 * np.pi, environment.piano.action_dim)

        def act(observation, phase=phase, random=random):
            del observation
            phase += random.normal(0.1, 0.2, len(phase))
            return np.sin(phase).astype(np.float32)

        found[piece] = play(environment, act)
    return found


@pytest.mark.parametrize("piece", PIECES)
def test_every_window_can_be_cut_and_measured(performances, piece):
    whole = performances[piece]
    assert len(whole.played_notes) > 20
    steps = len(whole.rewards)
    for size in SIZES:
        for first in range(steps - size + 1):
            window = whole.window(first, first + size)
            for notes in (window.due_notes, window.played_notes):
                assert (notes[:, 0] >= 0).all()
                assert (notes[:, 0] < notes[:, 1]).all()
                assert (notes[:, 1] <= window.seconds + 1e-9).all()
            found = note_metrics(window.due_notes, window.played_notes)
            assert found["due_notes"] == len(window.due_notes)
            assert found["wrong_notes"] <= len(window.played_notes)


@pytest.mark.parametrize("piece", PIECES)
def test_windows_that_follow_one_another_share_out_all_notes(performances, piece):
    whole = performances[piece]
    steps = len(whole.rewards)
    for size in SIZES:
        windows = [whole.window(i, min(i + size, steps)) for i in range(0, steps, size)]
        for name in ("due_notes", "played_notes"):
            keys = np.concatenate([getattr(window, name)[:, 2] for window in windows])
            np.testing.assert_array_equal(keys, getattr(whole, name)[:, 2])
        assert sum(metrics(window)["due_notes"] for window in windows) == len(whole.due_notes)


def test_recordings_that_hold_notes_without_length_can_still_be_measured(performances):
    """As windows were once cut: a note that began as the window ended was part of it."""
    whole = performances[PIECES[0]].window(0, 40)
    last = np.full((1, 2), whole.seconds)
    old = dataclasses.replace(
        whole,
        due_notes=np.vstack([whole.due_notes, np.hstack([last, [[3.0, 60.0]]])]),
        played_notes=np.vstack([whole.played_notes, np.hstack([last, [[4.0, 60.0]]])]),
    )
    np.testing.assert_equal(metrics(old), metrics(whole))


def test_cut_notes_by_hand():
    notes = np.array([[0.0, 0.5, 1], [0.3, 0.35, 2], [0.5, 2.0, 3], [0.9, 1.0, 4], [1.0, 1.2, 5]])
    np.testing.assert_allclose(
        cut_notes(notes, 0.3, 1.0), [[0, 0.05, 2], [0.2, 0.7, 3], [0.6, 0.7, 4]]
    )
    # Sums of time steps differ by rounding from products.
    moved = notes + np.array([1e-13, 1e-13, 0])
    assert cut_notes(moved, 0.3, 1.0)[:, 2].tolist() == [2, 3, 4]
    assert cut_notes(notes - np.array([1e-13, 1e-13, 0]), 0.3, 1.0)[:, 2].tolist() == [2, 3, 4]
    assert cut_notes(notes[:0], 0.0, 1.0).shape == (0, 3)


# --- Stretches ---------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1, 37, 100])
def test_a_stretch_equals_the_same_stretch_of_the_whole_to_the_bit(start):
    """From a snapshot, with the same actions: keys, notes, pedal, rewards and positions."""
    songs = load_songs(SongConfig(midi_file=(ROOT / "example_midis/fur_elise.mid",)))
    config = dataclasses.replace(CONFIG, action_reward_observation=True, frame_stack=2)
    piano = Repertoire(songs, config).piano(0)
    environment, other = PianoEnvironment(piano), PianoEnvironment(piano)
    random = np.random.default_rng(5)
    actions = np.sin(np.cumsum(random.normal(0, 0.3, (160, piano.action_dim)), axis=0))
    snapshots, seen = {}, []

    def act(observation):
        snapshot = environment.snapshot()
        snapshots[snapshot.step] = snapshot
        seen.append(observation)
        return actions[snapshot.step].astype(np.float32)

    whole = play(environment, act, steps=160)
    assert len(whole.played_notes) > 10
    assert len(whole.rewards) == 160
    again = []

    def act_again(observation):
        again.append(observation)
        return actions[start + len(again) - 1].astype(np.float32)

    other.reset()
    other.step(actions[9].astype(np.float32))  # Whatever it did before is forgotten.
    part = play(other, act_again, snapshots[start], 50)
    expected = whole.window(start, start + 50)
    for name, value in vars(expected).items():
        if name == "pedal_changes":
            np.testing.assert_allclose(part.pedal_changes, value, rtol=0, atol=1e-9)
        else:
            np.testing.assert_array_equal(getattr(part, name), value, err_msg=name)
    for here, there in zip(again, seen[start:], strict=False):
        np.testing.assert_array_equal(here.proprioception, there.proprioception)
        assert here.goal_index == there.goal_index
    np.testing.assert_array_equal(other.simulator_state(), snapshots[start + 50].simulator_state)
