"""The whole of a fine-tuning, small and real, and what it refuses."""

import contextlib
import json
import shutil

import imageio_ffmpeg
import numpy as np
import pytest
from runs_for_tests import StartedError, assert_refused, run, wait_until_nothing_is_left
from safetensors.numpy import load_file

from learner import checkpoint
from rlhf.collection import Collection
from rlhf.ratings import Rater, Ratings
from rlhf.simulated_raters import score, smoothness

# The run that all look at is trained, and recorded, for the first test that asks for it.
pytestmark = pytest.mark.timeout(900)

ANNA = Rater("anna", "person")
SMOOTH = "simulated smoothness"
QUICK = ("--max-steps", 60, "--eval-interval", 40, "--auditions", 2, "--record-resolution", 48, 64)


@pytest.fixture(scope="module")
def carried(recorded, folder):
    """The collection elsewhere, without what is to be heard and seen, and rated."""
    path = folder / "carried"
    shutil.copytree(recorded.path, path, ignore=shutil.ignore_patterns("*.mp4", "*.mid"))
    collection = Collection.open(path)
    segments = collection.segments()
    with contextlib.closing(Ratings(collection.ratings, names(collection))) as ratings:
        # By rank, so that no two scores are equal, whichever segments are held out.
        ranked = sorted(segments, key=lambda one: smoothness(one.metrics, one.trajectory()))
        for rank, segment in enumerate(ranked):
            ratings.rate(Rater(SMOOTH, "simulated"), segment.name, 10 + 10 * rank)
    return collection


@pytest.fixture(scope="module")
def tuned(carried, folder):
    """A finished fine-tuning: its answer, and its folder."""
    result = run(
        folder,
        *("cpl", carried.path.name, "--load-checkpoint", "runs/scale", "--raters", SMOOTH),
        *("--root-dir", "tuned", "--name", "one", "--learning-rate", 1e-3),
        *("--validation-fraction", 0.5, *QUICK, "--json"),
        seconds=400,
    )
    assert result.returncode == 0, result.stderr
    wait_until_nothing_is_left(folder)
    return json.loads(result.stdout), folder / "tuned" / "one"


def names(collection):
    return [segment.name for segment in collection.planned]


# --- What comes of it -------------------------------------------------------------------


def test_before_is_the_policy_that_it_began_with(trained, carried, tuned):
    (trained_answer, _), (answer, _) = trained, tuned
    before = answer["before"]
    assert before["metrics"] == trained_answer["metrics"]
    newest = max(segment.planned.checkpoint for segment in carried.segments())
    (central,) = (
        segment
        for segment in carried.segments()
        if (segment.planned.checkpoint, segment.planned.noise) == (newest, 0)
    )
    assert before["ratings"] == {
        "note-f1": score(central.metrics["note_f1"]),
        "smoothness": score(smoothness(central.metrics, central.trajectory())),
    }
    for side in (before, answer["after"]):
        assert side["drawn"]["performances"] == 2
        assert set(side["drawn"]["ratings"]) == {"note-f1", "smoothness"}


def test_answer_and_files_tell_the_same(tuned):
    answer, path = tuned
    assert answer["state"] == "finished"
    comparison = json.loads((path / "comparison.json").read_text())
    assert comparison == {"before": answer["before"], "after": answer["after"]}
    status = json.loads((path / "status.json").read_text())
    assert (status["kind"], status["state"], status["learner_steps"]) == ("cpl", "finished", 60)
    assert (path / "report.html").stat().st_size > 10_000
    steps = ["step_000000000", "step_000000040", "step_000000060"]
    assert [saved.name for saved in checkpoint.list_checkpoints(path / "checkpoints")] == steps
    assert sorted(evaluated.name for evaluated in (path / "eval").iterdir()) == steps
    for step in steps:
        facts = next(imageio_ffmpeg.read_frames(str(path / "eval" / step / "video.mp4")))
        assert facts["size"] == (64, 48)
        assert (path / "eval" / step / "played.mid").stat().st_size > 0


def test_the_logbook_follows_the_preferences(tuned):
    _, path = tuned
    lines = [json.loads(line) for line in (path / "logbook.jsonl").read_text().splitlines()]
    for name in (
        "cpl/loss",
        "cpl/preference_loss",
        "cpl/preference_accuracy",
        "cpl/conservative_loss",
        "cpl/gradient_norm",
        "cpl/training/preference_accuracy",
        "cpl/validation/preference_loss",
        "cpl/validation/preference_accuracy",
        "learner/updates_per_second",
        "eval/note_f1",
    ):
        assert any(line.get(name) is not None for line in lines), name
    steps = [line["learner_steps"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == 60
    losses = [
        line["cpl/training/preference_loss"]
        for line in lines
        if "cpl/training/preference_loss" in line
    ]
    assert losses[-1] < losses[0]


def test_the_policy_alone_has_changed(trained, tuned):
    (_, trained_path), (answer, path) = trained, tuned
    saved = checkpoint.find(path)
    assert saved.samefile(answer["checkpoint"])
    before, after = (
        load_file(checkpoint.find(folder) / "training_state.safetensors")
        for folder in (trained_path, path)
    )
    assert set(before) == set(after)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(".actor[")} | {".step"}
    descriptions = [checkpoint.load_description(checkpoint.find(p)) for p in (trained_path, path)]
    assert descriptions[1]["config"] == descriptions[0]["config"]
    assert descriptions[1]["learner_steps"] == 60


def test_the_new_checkpoint_can_be_played(tuned, front_door, tmp_path):
    answer, path = tuned
    exit_code, output, errors = front_door(
        *("eval", "--load-checkpoint", path, "--record-dir", tmp_path, "--json")
    )
    assert exit_code == 0, errors
    again = json.loads(output)
    assert again["metrics"] == answer["after"]["metrics"]
    assert (tmp_path / "step_000000060" / "video.mp4").stat().st_size > 0


def test_it_can_be_recorded_and_fine_tuned_again(carried, tuned, front_door, tmp_path):
    _, path = tuned
    shutil.copytree(path, tmp_path / "one")
    with pytest.raises(StartedError):
        front_door("segments", tmp_path / "one")
    recorded_again = Collection.open(tmp_path / "one")
    assert len(recorded_again.missing()) == 3 * 5  # Noise 0 once, two levels twice.
    assert recorded_again.manifest["config"] == carried.manifest["config"]
    with pytest.raises(StartedError):
        front_door(*tune(carried, "--load-checkpoint", path, "--raters", SMOOTH, root=tmp_path))


# --- Whose ratings count ----------------------------------------------------------------


@pytest.fixture
def empty_handed(carried, tmp_path):
    """The collection as far as it is read before anything starts; not rated."""
    unread = shutil.ignore_patterns("performance.npz", "ratings.sqlite*")
    shutil.copytree(carried.path, tmp_path / "collection", ignore=unread)
    return Collection.open(tmp_path / "collection")


def give(collection, scores, rater=ANNA):
    with contextlib.closing(Ratings(collection.ratings, names(collection))) as ratings:
        for name, points in zip(names(collection), scores, strict=False):
            ratings.rate(rater, name, points)


def tune(collection, *flags, root):
    loaded = () if "--load-checkpoint" in flags else ("--load-checkpoint", "runs/scale")
    return "cpl", collection.path, "--root-dir", root / "tuned", *loaded, *flags


def test_people_count_and_simulated_raters_that_are_named(
    empty_handed, front_door, tmp_path, capsys
):
    give(empty_handed, [10, 20, 30])
    give(empty_handed, [40, 30, 20, 10], Rater(SMOOTH, "simulated"))

    def preferences(*flags):
        flags = ("--validation-fraction", 0, *flags)
        with pytest.raises(StartedError):
            front_door(*tune(empty_handed, *flags, root=tmp_path))
        shutil.rmtree(tmp_path / "tuned")
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "to learn" in line)
        return int(line.partition("; ")[2].partition("; ")[2].split()[0])

    assert preferences() == 3
    assert preferences("--raters", SMOOTH) == 6
    assert preferences("--raters", SMOOTH, "anna") == 6
    assert preferences("--raters", "anna") == 3


# --- What is refused --------------------------------------------------------------------


def unrated(_collection):
    pass


def opened(collection):
    give(collection, [])


def rated(*scores):
    return lambda collection: give(collection, scores)


def rated_by_formula(collection):
    give(collection, [10, 20], Rater(SMOOTH, "simulated"))


def damaged_ratings(collection):
    collection.ratings.write_text("la la la" * 1000)


def nothing_recorded(collection):
    for file in collection.path.glob("segments/*/segment.json"):
        file.unlink()


def half_a_manifest(collection):
    file = collection.path / "collection.json"
    file.write_text(file.read_text()[:1000])


def no_manifest(collection):
    (collection.path / "collection.json").unlink()


@pytest.mark.parametrize(
    ("prepare", "flags", "words"),
    [
        (unrated, [], ["has not been rated", "pianist rate"]),
        (opened, [], ["no person has rated", "nobody"]),
        (rated(50), [], ["only one segment has been rated"]),
        (rated(50, 50, 50), [], ["of 3 rated segments none is better"]),
        (rated(10, 20), ["--raters", "bert"], ["--raters: ['bert'] did not rate", "'anna'"]),
        (rated_by_formula, [], ["no person has rated", SMOOTH]),
        (damaged_ratings, [], ["ratings.sqlite cannot be opened"]),
        (nothing_recorded, [], ["is empty"]),
        (half_a_manifest, [], ["collection.json is damaged"]),
        (no_manifest, [], ["no collection at"]),
        (rated(10, 20, 20), ["--validation-fraction", 0.7], ["2 of 3 segments were held out"]),
        (rated(10, 20), ["--load-checkpoint", "missing"], ["no checkpoint at missing"]),
        (rated(10, 20), ["--name", "../elsewhere"], ["--name is"]),
        (rated(10, 20), ["--max-steps", 0], ["--max-steps is 0"]),
        (rated(10, 20), ["--eval-interval", 0], ["--eval-interval is 0"]),
        (rated(10, 20), ["--auditions", -1], ["--auditions is -1"]),
        (rated(10, 20), ["--validation-fraction", 1], ["--validation-fraction is 1.0"]),
        (rated(10, 20), ["--seed", -1], ["--seed is -1"]),
        (rated(10, 20), ["--alpha", 0], ["--alpha is 0.0"]),
        (rated(10, 20), ["--alpha", "inf"], ["--alpha is inf"]),
        (rated(10, 20), ["--batch-size", 3], ["--batch-size is 3"]),
        (rated(10, 20), ["--learning-rate", 0], ["--learning-rate is 0.0"]),
        (rated(10, 20), ["--contrastive-bias", 2], ["--contrastive-bias is 2.0"]),
        (rated(10, 20), ["--method", "dpo"], ["--method"]),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    empty_handed, front_door, tmp_path, prepare, flags, words
):
    prepare(empty_handed)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(front_door(*tune(empty_handed, *flags, root=tmp_path)), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_taken_is_refused(carried, tuned, front_door):
    _, path = tuned
    flags = ("--raters", SMOOTH, "--name", "one")
    result = front_door(*tune(carried, *flags, root=path.parent.parent))
    assert_refused(result, "there is a run one")


@pytest.fixture
def changed_checkpoint(trained, tmp_path):
    """The trained checkpoint with another description."""
    _, path = trained
    folder = tmp_path / "step_000000001"
    shutil.copytree(checkpoint.find(path), folder)

    def change(edit):
        file = folder / "checkpoint.json"
        description = json.loads(file.read_text())
        edit(description)
        file.write_text(json.dumps(description))
        return folder

    return change


def other_song(description):
    description["songs"][0]["title"] = "another"


def other_flags(description):
    description["config"]["environment"]["n_steps_lookahead"] = 5


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (other_song, ["is of another song than checkpoint"]),
        (other_flags, ["--n-steps-lookahead 10", "was trained with 5"]),
        (lambda d: d.pop("config"), ["the configuration in checkpoint", "damaged"]),
        (lambda d: d["config"].update(seed="x"), ["the setting seed in checkpoint"]),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    carried, changed_checkpoint, front_door, tmp_path, edit, words
):
    flags = ("--load-checkpoint", changed_checkpoint(edit), "--raters", SMOOTH)
    assert_refused(front_door(*tune(carried, *flags, root=tmp_path)), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_wrong_keys_may_end_the_checkpoint_s_episodes(
    carried, changed_checkpoint, front_door, tmp_path
):
    """Segments are recorded without, so that they can be heard to the end."""

    def edit(description):
        description["config"]["environment"]["wrong_press_termination"] = True

    flags = ("--load-checkpoint", changed_checkpoint(edit), "--raters", SMOOTH)
    with pytest.raises(StartedError):
        front_door(*tune(carried, *flags, root=tmp_path))
