"""Recording segments: what is planned, what a player does, and the whole job."""

import collections
import dataclasses
import itertools
import json
import shutil

import imageio_ffmpeg
import jax
import mido
import numpy as np
import pytest
from runs_for_tests import SCALE, StartedError, assert_refused, run, wait_until_nothing_is_left

from actors.evaluator import mean_metrics
from common.errors import BadInput
from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig
from learner.networks import policy as distribution_of
from learner.observation import assemble
from learner.policy import Policy
from piano.config import EnvironmentConfig, RecordingConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.episode import play
from piano.performance import Performance
from piano.repertoire import Repertoire
from piano.song import load_songs
from rlhf import starts
from rlhf.collection import Collection, PlannedSegment
from rlhf.player import Player
from rlhf.segments import SegmentsConfig, plan
from rlhf.simulated_raters import QUALITIES, score
from rlhf.variation import Variation
from training.config import to_json

# The run that all look at is trained, and recorded, for the first test that asks for it.
pytestmark = [pytest.mark.run, pytest.mark.timeout(2000)]

# --- The plan ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def songs():
    return load_songs(SongConfig(midi_file=(SCALE,), trim_silence=True))


CHECKPOINTS = [f"step_{steps:09d}" for steps in (100, 2000, 30_000)]
DUE = np.zeros((200, 88), bool)  # Ten seconds of silence.


def plan_of(config, checkpoints=CHECKPOINTS, due=(DUE,)):
    return plan(config, due, 0.05, checkpoints)


def by_passage(planned):
    return [list(group) for _, group in itertools.groupby(planned, lambda one: one.passage)]


def test_by_default_seven_passages_have_seven_lasting_renditions():
    planned = plan_of(SegmentsConfig("run"))
    assert len(planned) == 49
    groups = by_passage(planned)
    assert [group[0].first_step for group in groups] == [0, 27, 53, 80, 107, 133, 160]
    for group in groups:
        assert len(group) == 7
        assert {one.last_step - one.first_step for one in group} == {40}
        assert {one.lead_in for one in group} == {min(20, group[0].first_step)}
        kinds = [one.variation.kind for one in group]
        # As played by the newest, as played by another, and five that vary.
        assert kinds[:2] == ["as played"] * 2
        assert group[0].checkpoint == CHECKPOINTS[-1] != group[1].checkpoint
        assert {one.checkpoint for one in group[2:]} == {CHECKPOINTS[-1]}
        assert "as played" not in kinds[2:]
    assert {group[1].checkpoint for group in groups} == set(CHECKPOINTS[:-1])
    counts = collections.Counter(one.variation.kind for one in planned)
    assert counts == {"as played": 14, "style": 28, "offset": 3, "weights": 2, "sampling": 2}
    variations = [one.variation for one in planned if one.variation != Variation()]
    assert len(set(variations)) == len(variations)
    assert len({one.seed for one in planned}) == len(planned)


def test_names_tell_nothing_and_segments_come_passage_by_passage():
    planned = plan_of(SegmentsConfig("run"))
    names = [segment.name for segment in planned]
    assert sorted(names) == [f"{number:04d}" for number in range(1, len(planned) + 1)]
    by_name = sorted(planned, key=lambda segment: segment.name)
    for value in (lambda one: one.parameter_version, lambda one: one.variation.kind):
        values = [value(segment) for segment in by_name]
        assert sum(a != b for a, b in itertools.pairwise(values)) > 0.2 * len(values)
    passages = [segment.passage for segment in by_name]
    assert sum(a != b for a, b in itertools.pairwise(passages)) > 0.6 * len(passages)
    assert [segment.passage for segment in planned] == sorted(passages)


def test_the_plan_depends_on_its_seed_alone():
    assert plan_of(SegmentsConfig("run")) == plan_of(SegmentsConfig("run"))
    here, there = plan_of(SegmentsConfig("run")), plan_of(SegmentsConfig("run", seed=1))
    assert [one.passage for one in here] == [one.passage for one in there]
    assert not {one.variation for one in here} & {one.variation for one in there} - {Variation()}


def test_one_checkpoint_plays_all_there_is():
    planned = plan_of(SegmentsConfig("run", passages=2), CHECKPOINTS[:1])
    for group in by_passage(planned):
        kinds = collections.Counter(one.variation.kind for one in group)
        assert (kinds["as played"], kinds["style"], kinds.total()) == (1, 5, 7)


def test_numbers_lengths_and_places_can_be_chosen():
    config = SegmentsConfig(
        "run", passages=3, renditions=4, window_seconds=1.5, lead_in_seconds=0.5
    )
    planned = plan_of(config)
    assert len(planned) == 3 * 4
    assert {(one.last_step - one.first_step) for one in planned} == {30}
    assert {one.lead_in for one in planned} == {0, 10}
    part = plan_of(dataclasses.replace(config, from_seconds=4.0, to_seconds=8.0))
    assert min(one.first_step for one in part) == 80
    assert max(one.last_step for one in part) == 160
    assert {one.lead_in for one in part} == {10}  # It may begin before.
    whole = plan_of(SegmentsConfig("run", whole_pieces=True), due=(DUE, DUE[:60]))
    assert {one.passage for one in whole} == {(0, 0, 200), (1, 0, 60)}
    assert {one.lead_in for one in whole} == {0}
    assert len(whole) == 14


def test_with_noise_every_combination_plays_every_passage():
    config = SegmentsConfig("run", noise=(0.0, 0.2), temperature=(0.0, 1.0), passages=2)
    planned = plan_of(config)
    expected = {
        (checkpoint, Variation(noise=noise, temperature=temperature))
        for checkpoint in CHECKPOINTS
        for noise in (0.0, 0.2)
        for temperature in (0.0, 1.0)
    }
    for group in by_passage(planned):
        assert len(group) == 12
        assert {(one.checkpoint, one.variation) for one in group} == expected
    # Without noise it is always the same: more renditions are of the others.
    more = plan_of(dataclasses.replace(config, renditions=30, passages=1))
    times = collections.Counter((one.checkpoint, one.variation) for one in more)
    assert {times[one] for one in expected if not one[1].is_random} == {1}
    assert {times[one] for one in expected if one[1].is_random} == {3}
    with pytest.raises(BadInput, match="--renditions is 7, must be at least 12: 3 checkpoints"):
        plan_of(dataclasses.replace(config, renditions=7))


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


def planned_segment(name, first, last, lead_in=0, seed=3, **variation):
    return PlannedSegment(
        name, "step_000000007", 7, seed, 0, first, last, lead_in, Variation(**variation)
    )


SHAKY = {"noise": 0.2, "temperature": 1.0}
PLANNED = [
    planned_segment("0001", 0, STEPS, **SHAKY),
    planned_segment("0002", 0, 50, **SHAKY),
    planned_segment("0003", 50, 90, lead_in=20),
    planned_segment("0004", 0, STEPS),
    planned_segment("0005", 0, STEPS, seed=4, **SHAKY),
    planned_segment("0006", 50, 90, lead_in=20, amplitude=0.8, hold=-0.5),
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
def rehearsal(player, saved):
    return player.rehearse(saved, 0, {starts.start_of(segment)[1] for segment in PLANNED})


@pytest.fixture(scope="module")
def played(collection, player, saved, rehearsal):
    """Segments by name, without what is to be heard and seen: that is the job's."""
    for planned in PLANNED:
        start = rehearsal.snapshots[planned.first_step - planned.lead_in]
        segment = player.record(saved, planned, start, RecordingConfig(), video=False)
        assert segment.name == planned.name
        assert set(segment.files) == {
            *("performance.npz", "trajectory.npz", "segment.json", "played.mid")
        }
        collection.add(segment)
    assert Collection.open(collection.path).missing() == []
    return {segment.name: segment for segment in collection.segments()}


@pytest.fixture(scope="module")
def policy(repertoire, piano, saved):
    return Policy.load(
        saved, LEARNER.agent_config, piano.layout, piano.action_dim, repertoire.table
    )


def assert_same(here, there):
    for name, value in vars(there).items():
        np.testing.assert_array_equal(getattr(here, name), value, err_msg=name)


def test_the_same_seed_plays_the_same(played):
    whole, part = played["0001"].trajectory(), played["0002"].trajectory()
    assert_same(part, whole.window(0, 50))
    np.testing.assert_array_equal(whole.row, np.arange(1, STEPS + 1))
    assert not np.array_equal(played["0005"].trajectory().action, whole.action)


def test_a_passage_without_variation_is_part_of_the_rehearsal(played, rehearsal):
    """To the bit, though it begins in the middle: lead-in and passage are what was played there."""
    segment = played["0003"]
    assert_same(Performance.load(segment.performance), rehearsal.performance.window(30, 90))
    assert_same(segment.judged(), rehearsal.performance.window(50, 90))
    assert_same(segment.trajectory(), played["0004"].trajectory().window(50, 90))


def test_renditions_of_a_passage_begin_from_the_same_state(played):
    here, there = (Performance.load(played[name].performance) for name in ("0003", "0006"))
    np.testing.assert_array_equal(here.positions[0], there.positions[0])
    assert not np.array_equal(here.positions[1:], there.positions[1:])


def test_lead_ins_are_heard_but_neither_judged_nor_learnt_from(played):
    for name in ("0003", "0006"):
        segment = played[name]
        assert segment.seconds == Performance.load(segment.performance).seconds
        assert segment.seconds == pytest.approx(3.0)
        assert len(segment.trajectory().action) == len(segment.judged().rewards) == 40
        np.testing.assert_array_equal(segment.trajectory().row, np.arange(51, 91))
        np.testing.assert_array_equal(
            segment.trajectory().reward, segment.judged().rewards.astype(np.float32)
        )
    for segment in played.values():
        assert segment.metrics == mean_metrics([segment.judged()])


def test_starts_survive_their_file(rehearsal, tmp_path):
    kept = {(0, step): snapshot for step, snapshot in rehearsal.snapshots.items()}
    starts.write(tmp_path, kept)
    again = starts.read(tmp_path)
    assert sorted(again) == sorted(kept) == [(0, 0), (0, 30)]
    for start, snapshot in kept.items():
        for name, value in snapshot._asdict().items():
            np.testing.assert_array_equal(getattr(again[start], name), value, err_msg=name)
            assert np.asarray(getattr(again[start], name)).dtype == np.asarray(value).dtype
    (tmp_path / starts.FILE).write_bytes(b"la la la")
    with pytest.raises(BadInput, match=f"{starts.FILE} is damaged"):
        starts.read(tmp_path)


def test_noise_is_seen_in_the_actions(played):
    action = played["0001"].trajectory().action
    assert np.abs(action).max() == 1.0
    assert (np.abs(action) == 1).mean() > 0.01
    calm = played["0004"].trajectory().action
    assert np.abs(np.diff(calm, axis=0)).mean() < 0.3 * np.abs(np.diff(action, axis=0)).mean()


@pytest.mark.parametrize("name", ["0001", "0004", "0006"])
def test_log_probabilities_are_the_policy_s_own(played, policy, piano, saved, name):
    trajectory = played[name].trajectory()
    template = sac.initial_state(LEARNER, piano.layout.observation_dim, piano.action_dim, seed=0)
    parameters = checkpoint.load_actor(saved, template.actor)
    observation = assemble(piano.layout, policy._table, trajectory.observation)
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


def test_the_whole_piece_is_the_performance(played, policy, piano):
    """As the evaluator would play it, control step by control step."""

    def act(observation):
        return policy.mode(observation.batch_of_one())[0]

    assert_same(Performance.load(played["0004"].performance), play(PianoEnvironment(piano), act))


def test_an_audition_is_the_performance_and_its_simulated_ratings(player, played, saved):
    (deterministic,) = player.audition(saved, Variation(), 0)
    segment = played["0004"]
    assert deterministic.metrics == segment.metrics
    assert deterministic.ratings == {
        name: score(quality(segment.judged(), segment.trajectory()))
        for name, quality in QUALITIES.items()
    }
    (noisy,) = player.audition(saved, Variation(**SHAKY), 3)
    assert noisy.metrics == played["0001"].metrics
    assert noisy.ratings["smoothness"] < deterministic.ratings["smoothness"]
    (weighed,) = player.audition(saved, Variation(), 0, ["smoothness:1,softness:1"])
    assert weighed.ratings == {
        "smoothness:1,softness:1": pytest.approx(
            (deterministic.ratings["smoothness"] + deterministic.ratings["softness"]) / 2, abs=1
        )
    }


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
    deterministic = {}
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
        if segment.planned.variation.noise == 0:
            deterministic[segment.planned.checkpoint] = segment.metrics
    assert sorted(deterministic) == names
    # What was evaluated at the end of training is played again.
    assert deterministic[names[-1]] == answer["metrics"]


@pytest.mark.slow
def test_by_default_passages_are_recorded_with_a_base_and_starts(trained, folder):
    _, path = trained
    answer = run(
        folder,
        *("segments", "scale", "--passages", 2, "--renditions", 6, "--no-video", "--json"),
    )
    assert answer.returncode == 0, answer.stderr
    wait_until_nothing_is_left(folder)
    collection = Collection.open(folder / json.loads(answer.stdout)["collection"])
    newest = checkpoint.list_checkpoints(path / "checkpoints")[-1]
    assert collection.base == collection.path / "base" / newest.name
    segments = collection.segments()
    assert len(segments) == 12
    kinds = [segment.planned.variation.kind for segment in segments]
    assert set(kinds) == {"as played", "style", "offset"}
    states = collections.defaultdict(set)
    for segment in segments:
        planned = segment.planned
        assert not segment.video.exists()
        assert len(segment.trajectory().row) == planned.last_step - planned.first_step == 40
        performance = Performance.load(segment.performance)
        assert len(performance.rewards) == 40 + planned.lead_in
        states[planned.passage].add(performance.positions[0].tobytes())
        assert segment.metrics == mean_metrics([segment.judged()])
    assert [len(of_passage) for of_passage in states.values()] == [1, 1]
    shutil.rmtree(collection.path)  # The other tests look at the newest collection.


@pytest.fixture
def copied_run(trained, recorded, tmp_path):
    """A run of its own, with the complete collection."""
    _, run = trained
    shutil.copytree(run, tmp_path / "scale", ignore=shutil.ignore_patterns("*.mp4"))
    return tmp_path / "scale", tmp_path / "scale" / "collections" / recorded.path.name


SAME = ("--whole-pieces", "--noise", 0, 0.2, "--record-resolution", 48, 64)


def test_after_a_complete_collection_the_same_command_begins_another(copied_run, run_cli):
    run, complete = copied_run
    with pytest.raises(StartedError):
        run_cli("segments", run, *SAME)
    (begun,) = set((run / "collections").iterdir()) - {complete}
    assert Collection.open(run).path == begun
    assert len(Collection.open(begun).missing()) == len(Collection.open(complete).planned)
    # Once begun, it is completed; not so with other settings.
    with pytest.raises(StartedError):
        run_cli("segments", run, *SAME, "--actors", 2)
    assert len(list((run / "collections").iterdir())) == 2
    # Collections are named by the second: another one takes the name of the first.
    begun.rename(begun.with_name("20000101-000000"))
    with pytest.raises(StartedError):
        run_cli("segments", run, *SAME, "--temperature", 1)
    assert len(list((run / "collections").iterdir())) == 3


def test_an_unfinished_collection_whose_checkpoint_is_gone_is_named(copied_run, run_cli):
    run, complete = copied_run
    first = Collection.open(complete).planned[0]
    (complete / "segments" / first.name / "segment.json").unlink()
    shutil.rmtree(run / "checkpoints" / first.checkpoint)
    assert_refused(run_cli("segments", run, *SAME), str(complete), first.checkpoint)


def test_a_fine_tuned_run_can_be_recorded(copied_run, run_cli):
    """Its settings are others than those of a training."""
    run, _ = copied_run
    shutil.rmtree(run / "collections")
    (run / "config.json").write_text(json.dumps({"alpha": 0.1}))
    (run / "songs.json").unlink()
    with pytest.raises(StartedError):
        run_cli("segments", run, *SAME)
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
        (["scale", "--passages", 0], ["--passages is 0"]),
        (["scale", "--passages", 99], ["--passages is 99, but there is room for 8"]),
        (["scale", "--renditions", 0], ["--renditions is 0"]),
        (["scale", "--renditions", 1, "--noise", 0, 0.1], ["--renditions is 1, must be at least"]),
        (["scale", "--lead-in-seconds", -1], ["--lead-in-seconds is -1"]),
        (["scale", "--from", -1], ["--from is -1"]),
        (["scale", "--from", 3, "--to", 2], ["--from is 3 and --to 2"]),
        (["scale", "--from", 60], ["--from lies beyond the end"]),
        (["scale", "--whole-pieces", "--from", 1], ["--whole-pieces records whole songs"]),
        (["scale", "--seed", -1], ["--seed is -1"]),
        (["scale", "--window-seconds", 0.1], ["--window-seconds is 0.1"]),
        (["scale", "--window-seconds", "inf"], ["--window-seconds is inf"]),
        (["scale", "--actors", -1], ["--actors is -1"]),
        (["scale", "--camera-id", "roof"], ["--camera-id is roof"]),
        (["scale", "--record-resolution", 47, 64], ["--record-resolution is"]),
        (["scale", "--noise", "loud"], ["--noise"]),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(recorded, folder, run_cli, arguments, words):
    before = sorted(folder.rglob("*"))
    assert_refused(run_cli("segments", *arguments), *words)
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in recorded.path.parent.iterdir()] == [recorded.path.name]
