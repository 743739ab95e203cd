"""What an actor does when the simulation becomes unstable."""

import time

import numpy as np
import pytest
from kept_chunks import Kept

from actors.actor import _Rollout, _Share
from piano.config import EnvironmentConfig, SongConfig
from piano.environment import DivergedError, PianoEnvironment
from piano.repertoire import Repertoire
from piano.song import load_songs


@pytest.fixture(scope="module")
def piano():
    return Repertoire(load_songs(SongConfig()), EnvironmentConfig()).piano(0)


@pytest.fixture
def rollout(piano):
    return _Rollout(PianoEnvironment(piano), Kept())


@pytest.mark.parametrize("where", ["positions", "velocities", "action"])
def test_an_episode_that_diverges_is_broken_off_and_the_next_is_as_any(rollout, where):
    environment = rollout.environment
    first = rollout.observation
    still = np.zeros(environment.piano.action_dim, np.float32)
    for _ in range(3):
        rollout.step(still, 0)
    action = still.copy()
    if where == "positions":
        environment.data.qpos[3] = np.nan
    elif where == "velocities":
        environment.data.qvel[3] = np.inf
    else:
        action[:] = np.nan
    with pytest.raises(DivergedError):
        rollout.step(action, 0)
    np.testing.assert_array_equal(rollout.observation.proprioception, first.proprioception)
    for _ in range(2):
        rollout.step(still, 0)
    rollout.writer.wait(1.0, everything=True)
    # The transitions before the break are kept.
    assert [len(chunk) - 1 for chunk in rollout.writer.kept] == [3, 2]
    assert all(np.isfinite(chunk[:, :-2]).all() for chunk in rollout.writer.kept)


def test_the_others_play_on_and_it_is_counted(piano):
    rollouts = [_Rollout(PianoEnvironment(piano), Kept()) for _ in range(2)]
    rollouts[0].environment.data.qpos[3] = np.nan
    report = _Share(rollouts, seed=(0,)).collect(time.monotonic() + 0.5, lambda: (None, None))
    assert report.diverged == 1
    assert report.steps > 4


def test_mujoco_leaves_no_file_about_it(rollout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rollout.environment.data.qpos[3] = np.nan
    with pytest.raises(DivergedError):
        rollout.step(np.zeros(rollout.environment.piano.action_dim, np.float32), 0)
    assert list(tmp_path.iterdir()) == []


def first_rows(piano, seed):
    writer = Kept()
    rollout = _Rollout(PianoEnvironment(piano), writer)
    _Share([rollout], seed).collect(time.monotonic() + 0.3, lambda: (None, None))
    writer.wait(1.0, everything=True)
    return writer.kept[0][:3]


def test_a_resumed_run_does_not_repeat_its_first_actions(piano):
    begun = first_rows(piano, (42, 0, 0, 0))
    np.testing.assert_array_equal(begun, first_rows(piano, (42, 0, 0, 0)))
    assert not np.array_equal(begun, first_rows(piano, (42, 5000, 0, 0)))
