"""Recording segments: what is planned, what a player does, and the whole job."""

import dataclasses
import itertools
import json
import pathlib
import shutil

import imageio_ffmpeg
import jax
import mido
import mujoco
import numpy as np
import pytest
from runs_for_tests import SCALE, StartedError, assert_refused

from actors.config import EnvironmentConfig, RecordingConfig, SongConfig
from actors.environment import PianoEnvironment
from actors.episode import play
from actors.evaluator import mean_metrics
from actors.performance import Performance
from actors.repertoire import Repertoire
from actors.song import load_songs
from cluster.config import TrainConfig, to_json
from cluster.segments import SegmentsConfig, plan, windows
from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig
from learner.networks import policy as distribution_of
from learner.observation import unfold
from learner.policy import Policy
from replay.transition import Observation
from rlhf.collection import COLUMNS, Collection, PlannedSegment
from rlhf.player import Player
from rlhf.simulated_raters import QUALITIES, score

# The run that all look at is trained, and recorded, for the first test that asks for it.
pytestmark = pytest.mark.timeout(900)

# --- The plan ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "seconds", "expected"),
    [
        (100, None, [(0, 100)]),
        (100, 2.5, [(0, 50), (50, 100)]),
        (110, 2.0, [(0, 40), (40, 80), (80, 110)]),
        (100, 2.0, [(0, 40), (40, 80), (80, 100)]),  # Half a window is enough.
        (99, 2.0, [(0, 40), (40, 80)]),
        (30, 2.0, [(0, 30)]),
        (15, 2.0, [(0, 15)]),  # But something has to be heard.
        (1, 0.5, [(0, 1)]),
    ],
)
def test_windows(length, seconds, expected):
    assert windows(length, 0.05, seconds) == expected


@pytest.fixture(scope="module")
def songs():
    return load_songs(SongConfig(midi_file=(SCALE,), trim_silence=True))


CHECKPOINTS = [pathlib.Path(f"checkpoints/step_{steps:09d}") for steps in (100, 2000, 30_000)]


def test_every_combination_is_planned_once(songs):
    config = SegmentsConfig(
        "run", noise=(0.0, 0.2), temperature=(0.0, 1.0), seeds=3, window_seconds=2.0
    )
    planned = plan(config, TrainConfig(), [*songs, *songs], CHECKPOINTS)
    combinations = [dataclasses.astuple(segment)[1:] for segment in planned]
    assert len(set(combinations)) == len(combinations)
    # Noise 0 with temperature 0 is always the same: one seed, against three of the other three.
    assert len(planned) == len(CHECKPOINTS) * (1 + 3 * 3) * 2 * 3
    assert {segment.checkpoint for segment in planned} == {path.name for path in CHECKPOINTS}
    for segment in planned:
        assert segment.checkpoint == f"step_{segment.parameter_version:09d}"
        assert segment.seed == 0 or segment.noise or segment.temperature
    names = [segment.name for segment in planned]
    assert sorted(names) == [f"{number:04d}" for number in range(1, len(planned) + 1)]
    # Who goes through the names meets neither checkpoints nor noise in an order.
    by_name = sorted(planned, key=lambda segment: segment.name)
    for name in ("parameter_version", "noise", "first_step"):
        values = [getattr(segment, name) for segment in by_name]
        changes = sum(a != b for a, b in itertools.pairwise(values))
        assert changes > 0.3 * len(values)
    assert plan(config, TrainConfig(), [*songs, *songs], CHECKPOINTS) == planned


# --- The player -------------------------------------------------------------------------

ENVIRONMENT = EnvironmentConfig(
    gravity_compensation=True,
    reduced_action_space=True,
    primitive_fingertip_collisions=True,
    action_reward_observation=True,
    frame_stack=2,
)
LEARNER = LearnerConfig(agent_config=SACConfig(hidden_dims=(16,)))
STEPS = 110  # Of the scale.


def planned_segment(name, first, last, noise=0.2, temperature=1.0, seed=3):
    return PlannedSegment(name, "step_000000007", 7, noise, temperature, seed, 0, first, last)


PLANNED = [
    planned_segment("0001", 0, STEPS),
    planned_segment("0002", 0, 50),
    planned_segment("0003", 50, STEPS),
    planned_segment("0004", 0, STEPS, noise=0.0, temperature=0.0, seed=0),
    planned_segment("0005", 0, STEPS, seed=4),
]


@pytest.fixture(scope="module")
def repertoire(songs):
    return Repertoire(songs, ENVIRONMENT)


@pytest.fixture(scope="module")
def piano(repertoire):
    return repertoire.piano(0)


@pytest.fixture(scope="module")
def saved(piano):
    state = sac.initial_state(LEARNER, piano.layout.observation_dim, piano.action_dim, seed=1)
    return checkpoint.pack(state._replace(step=jax.numpy.int32(7)), {})


@pytest.fixture(scope="module")
def collection(songs, tmp_path_factory):
    description = {"songs": [song.to_json() for song in songs]}
    return Collection.create(tmp_path_factory.mktemp("collections"), description, PLANNED)


@pytest.fixture(scope="module")
def player(repertoire):
    return Player(repertoire, LEARNER.agent_config)


@pytest.fixture(scope="module")
def played(collection, player, saved):
    """Segments by name, without what is to be heard and seen: that is the job's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf.player.write_recordings", lambda *_arguments: None)
        for episode in (PLANNED[:1], PLANNED[1:3], PLANNED[3:4], PLANNED[4:]):
            segments = player.record(saved, episode, RecordingConfig())
            assert [segment.name for segment in segments] == [one.name for one in episode]
            for segment in segments:
                collection.add(segment)
    assert Collection.open(collection.path).missing() == []
    return {segment.name: segment for segment in collection.segments()}


@pytest.fixture(scope="module")
def policy(repertoire, piano, saved):
    return Policy.load(
        saved, LEARNER.agent_config, piano.layout, piano.action_dim, repertoire.table
    )


def test_the_same_seed_plays_the_same_and_windows_are_parts_of_it(played):
    whole = played["0001"].trajectory()
    first, second = played["0002"].trajectory(), played["0003"].trajectory()
    for name in COLUMNS:
        parts = [getattr(part, name) for part in (first, second)]
        if name == "simulator_state":
            np.testing.assert_array_equal(parts[0][-1], parts[1][0])
            parts[1] = parts[1][1:]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole, name), err_msg=name)
    np.testing.assert_array_equal(whole.row, np.arange(1, STEPS + 1))
    assert not np.array_equal(played["0005"].trajectory().action, whole.action)
    assert (played["0002"].seconds, played["0003"].seconds) == pytest.approx((2.5, 3.0))
    for segment in played.values():
        assert segment.metrics == mean_metrics([Performance.load(segment.performance)])


def test_noise_is_seen_in_the_actions(played):
    action = played["0001"].trajectory().action
    assert np.abs(action).max() == 1.0
    assert (np.abs(action) == 1).mean() > 0.01
    calm = played["0004"].trajectory().action
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.3 * np.abs(np.diff(action, axis=0)).mean()


def test_without_noise_the_most_central_actions_are_played(played, policy):
    """At temperature 0 and noise 0, recording is evaluation."""
    trajectory = played["0004"].trajectory()
    np.testing.assert_allclose(
        policy.mode(trajectory.observation), trajectory.action, rtol=1e-5, atol=1e-6
    )
    batch = Observation(*(part[:3] for part in trajectory.observation))
    for seed in (0, 1):
        action, _, key = policy.perturbed(batch, jax.random.PRNGKey(seed), 0.0, 0.0)
        np.testing.assert_array_equal(action, policy.mode(batch))
        assert not np.array_equal(key, jax.random.PRNGKey(seed))


@pytest.mark.parametrize("name", ["0001", "0004"])
def test_log_probabilities_are_the_policy_s_own(played, policy, piano, saved, name):
    trajectory = played[name].trajectory()
    template = sac.initial_state(LEARNER, piano.layout.observation_dim, piano.action_dim, seed=0)
    parameters = checkpoint.load_actor(saved, template.actor)
    observation = unfold(piano.layout, policy._table, trajectory.observation)
    mean, log_std = (
        np.asarray(part, np.float64)
        for part in distribution_of(LEARNER.agent_config, parameters, observation)
    )
    # By the change of variables, actions drawn in by a two-thousandth of their range.
    action = np.clip(trajectory.action.astype(np.float64), -0.999, 0.999)
    normal = -0.5 * ((np.arctanh(action) - mean) / np.exp(log_std)) ** 2
    normal -= log_std + 0.5 * np.log(2 * np.pi)
    expected = np.sum(normal - np.log(1 - action**2), axis=-1)
    np.testing.assert_allclose(trajectory.log_probability, expected, rtol=1e-3, atol=0.01)


@pytest.mark.parametrize("start", [0, 37, 100])
def test_from_the_state_of_a_control_step_the_rest_comes_again(played, piano, start):
    trajectory = played["0001"].trajectory()
    environment = PianoEnvironment(piano)
    environment.reset()
    model, data, kind = piano.mechanics.model, environment.data, mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(model, data, trajectory.simulator_state[start], kind)
    mujoco.mj_forward(model, data)
    expected = Performance.load(played["0001"].performance).positions
    state = np.empty_like(trajectory.simulator_state[0])
    for step in range(start, min(start + 30, STEPS)):
        environment.step(trajectory.action[step])
        np.testing.assert_allclose(data.qpos, expected[step + 1], rtol=0, atol=1e-6)
        mujoco.mj_getState(model, data, state, kind)
        np.testing.assert_allclose(
            state[: 1 + model.nq],
            trajectory.simulator_state[step + 1][: 1 + model.nq],
            rtol=0,
            atol=1e-9,
        )


def test_the_window_of_a_whole_piece_is_the_performance(played, policy, piano):
    """As the evaluator would play it, control step by control step."""

    def act(observation):
        return policy.mode(observation.batch_of_one())[0]

    whole = play(PianoEnvironment(piano), act)
    # What is due up to the end is due at its control step's end, a step after all else.
    whole.due_notes[:, 1] = np.minimum(whole.due_notes[:, 1], whole.seconds)
    window = Performance.load(played["0004"].performance)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(window, name), value, err_msg=name)


def test_an_audition_is_the_performance_and_its_simulated_ratings(player, played, saved):
    (central,) = player.audition(saved, 0.0, 0.0, 0)
    segment = played["0004"]
    assert central.metrics == segment.metrics
    assert central.ratings == {
        name: score(quality(segment.metrics, segment.trajectory()))
        for name, quality in QUALITIES.items()
    }
    (noisy,) = player.audition(saved, 0.2, 1.0, 3)
    assert noisy.metrics == played["0001"].metrics
    assert noisy.ratings["smoothness"] < central.ratings["smoothness"]


# --- The job ----------------------------------------------------------------------------


def test_what_is_broken_off_leaves_whole_segments_alone(recorded):
    assert recorded.exit_code == 130, recorded.errors
    assert "pianist: stopped" in recorded.errors
    assert "Traceback" not in recorded.errors
    assert 1 <= len(recorded.finished) < recorded.answer["segments"]


def test_the_same_command_completes_it_and_begins_nothing_again(recorded):
    assert recorded.answer["collection"].endswith(recorded.path.name)
    assert [path.name for path in recorded.path.parent.iterdir()] == [recorded.path.name]
    for name, time in recorded.finished.items():
        file = recorded.path / "segments" / name / "segment.json"
        assert file.stat().st_mtime_ns == time


def test_everything_of_every_segment_is_there(trained, recorded):
    answer, run = trained
    collection = Collection.open(run)
    assert collection.path.samefile(recorded.path)
    assert collection.missing() == []
    assert collection.manifest["run"] == "scale"
    assert [song.title for song in collection.songs()] == ["five finger scale"]
    segments = collection.segments()
    names = [path.name for path in checkpoint.list_checkpoints(run / "checkpoints")]
    assert len(segments) == recorded.answer["segments"] == 2 * len(names) >= 4
    central = {}
    for segment in segments:
        trajectory = segment.trajectory()
        assert len(trajectory.action) == STEPS == segment.planned.last_step
        assert segment.seconds == pytest.approx(5.5)
        frames = imageio_ffmpeg.read_frames(str(segment.video))
        facts = next(frames)
        assert (facts["size"], facts["fps"], facts["audio_codec"]) == ((64, 48), 20, "aac")
        mido.MidiFile(segment.midi)
        assert segment.metrics == mean_metrics([Performance.load(segment.performance)])
        assert segment.metrics["due_notes"] == 9
        if segment.planned.noise == 0:
            central[segment.planned.checkpoint] = segment.metrics
    assert sorted(central) == names
    # What was evaluated at the end of training is played again.
    assert central[names[-1]] == answer["metrics"]


@pytest.fixture
def copied_run(trained, recorded, tmp_path):
    """A run of its own, with the complete collection."""
    _, run = trained
    shutil.copytree(run, tmp_path / "scale", ignore=shutil.ignore_patterns("*.mp4"))
    return tmp_path / "scale", tmp_path / "scale" / "collections" / recorded.path.name


SAME = ("--noise", 0, 0.2, "--seeds", 1, "--record-resolution", 48, 64)


def test_after_a_complete_collection_the_same_command_begins_another(copied_run, front_door):
    run, complete = copied_run
    with pytest.raises(StartedError):
        front_door("segments", run, *SAME)
    (begun,) = set((run / "collections").iterdir()) - {complete}
    assert Collection.open(run).path == begun
    assert len(Collection.open(begun).missing()) == len(Collection.open(complete).planned)
    # And once begun, it is gone on with; not so with other settings.
    with pytest.raises(StartedError):
        front_door("segments", run, *SAME, "--actors", 2)
    assert len(list((run / "collections").iterdir())) == 2
    # Collections are named by the second: another one takes the name of the first.
    begun.rename(begun.with_name("20000101-000000"))
    with pytest.raises(StartedError):
        front_door("segments", run, *SAME, "--temperature", 1)
    assert len(list((run / "collections").iterdir())) == 3


def test_an_unfinished_collection_whose_checkpoint_is_gone_is_named(copied_run, front_door):
    run, complete = copied_run
    first = Collection.open(complete).planned[0]
    (complete / "segments" / first.name / "segment.json").unlink()
    shutil.rmtree(run / "checkpoints" / first.checkpoint)
    assert_refused(front_door("segments", run, *SAME), str(complete), first.checkpoint)


def test_a_fine_tuned_run_can_be_recorded(copied_run, front_door):
    """Its settings are others than those of a training."""
    run, _ = copied_run
    shutil.rmtree(run / "collections")
    (run / "config.json").write_text(json.dumps({"alpha": 0.1}))
    (run / "songs.json").unlink()
    with pytest.raises(StartedError):
        front_door("segments", run, *SAME)
    collection = Collection.open(run)
    assert collection.manifest["config"]["environment"] == to_json(
        dataclasses.replace(ENVIRONMENT, frame_stack=1, wrong_press_termination=False)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], ["no run at nothing"]),
        (["scale", "--checkpoints", 1, 2], ["no checkpoint of [1, 2], but of"]),
        (["scale", "--noise", -1], ["--noise is (-1.0,), must be", "0 to 2"]),
        (["scale", "--noise", "nan"], ["--noise is"]),
        (["scale", "--noise", 0.1, 0.1], ["one value comes twice"]),
        (["scale", "--temperature", 11], ["--temperature is", "0 to 10"]),
        (["scale", "--seeds", 0], ["--seeds is 0"]),
        (["scale", "--window-seconds", 0.1], ["--window-seconds is 0.1"]),
        (["scale", "--window-seconds", "inf"], ["--window-seconds is inf"]),
        (["scale", "--actors", -1], ["--actors is -1"]),
        (["scale", "--camera-id", "roof"], ["--camera-id is roof"]),
        (["scale", "--record-resolution", 47, 64], ["--record-resolution is"]),
        (["scale", "--noise", "loud"], ["--noise"]),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(recorded, folder, front_door, arguments, words):
    before = sorted(folder.rglob("*"))
    assert_refused(front_door("segments", *arguments), *words)
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in recorded.path.parent.iterdir()] == [recorded.path.name]
