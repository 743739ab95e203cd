"""The whole of a fine-tuning, small and real, and what it refuses."""

import contextlib
import json
import pathlib
import shutil

import imageio_ffmpeg
import numpy as np
import pytest
from collections_for_tests import change_manifest
from runs_for_tests import StartedError, assert_refused, run, wait_until_nothing_is_left
from safetensors.numpy import load_file

from common.files import PackedFolder
from learner import checkpoint
from rlhf.collection import Collection
from rlhf.ratings import Rater, Ratings
from rlhf.simulated_raters import QUALITIES, parse_quality, score, smoothness

# The run that all look at is trained, and recorded, for the first test that asks for it.
pytestmark = [pytest.mark.run, pytest.mark.timeout(2000)]

ANNA = Rater("anna", "person")
SMOOTH = "simulated smoothness"
SMOOTH_AND_SOFT = "smoothness:0.75,softness:0.25"
QUICK = (
    *("--max-steps", 60, "--eval-interval", 40, "--eval-episodes", 2, "--guard-performances", 2),
    *("--record-resolution", 48, 64),
)


@pytest.fixture(scope="module")
def carried(recorded, folder):
    """The collection elsewhere, without what is to be heard and seen, and rated."""
    path = folder / "carried"
    shutil.copytree(recorded.path, path, ignore=shutil.ignore_patterns("*.mp4", "*.mid"))
    collection = Collection.open(path)
    segments = collection.segments()
    with contextlib.closing(Ratings(collection.ratings, names(collection))) as ratings:
        # By rank, so that no two scores are equal, whichever segments are held out.
        ranked = sorted(segments, key=lambda one: smoothness(one.judged(), one.trajectory()))
        for rank, segment in enumerate(ranked):
            for name in (SMOOTH, f"simulated {SMOOTH_AND_SOFT}"):
                ratings.rate(Rater(name, "simulated"), segment.name, 10 + 10 * rank)
    return collection


@pytest.fixture(scope="module")
def earlier(trained, carried, folder):
    """A collection with the same answers, whose round began with another policy."""
    _, run_path = trained
    path = folder / "earlier"
    shutil.copytree(carried.path, path)
    shutil.rmtree(path / "base")
    oldest = PackedFolder.pack(checkpoint.list_checkpoints(run_path / "checkpoints")[0])
    checkpoint.snapshot(oldest).write(path / "base")
    return Collection.open(path)


@pytest.fixture(scope="module")
def tuned(carried, earlier, folder):
    """A finished fine-tuning on two rounds: its answer, and its folder."""
    result = run(
        folder,
        *("cpl", earlier.path.name, carried.path.name, "--load-checkpoint", "runs/scale"),
        "--raters",
        *(SMOOTH, f"simulated {SMOOTH_AND_SOFT}"),
        *("--root-dir", "tuned", "--name", "one", "--learning-rate", 1e-3),
        *("--method", "cpl", "--validation-fraction", 0.5, *QUICK, "--json"),
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
    (deterministic,) = (
        segment
        for segment in carried.segments()
        if (segment.planned.checkpoint, segment.planned.variation.noise) == (newest, 0)
    )
    assert before["ratings"] == {
        name: score(parse_quality(name)(deterministic.judged(), deterministic.trajectory()))
        for name in (*QUALITIES, SMOOTH_AND_SOFT)
    }
    for side in (before, answer["after"]):
        assert side["drawn"]["performances"] == 2
        assert set(side["drawn"]["ratings"]) == {*QUALITIES, SMOOTH_AND_SOFT}


def test_answer_and_files_tell_the_same(tuned):
    answer, path = tuned
    assert answer["state"] == "finished"
    comparison = json.loads((path / "comparison.json").read_text())
    parts = ("before", "after", "improved", "line", "share", "answers", "style", "guard")
    assert comparison == {part: answer[part] for part in (*parts, "learning", "rounds")}
    assert answer["style"] is None
    status = json.loads((path / "status.json").read_text())
    assert (status["kind"], status["state"], status["learner_steps"]) == ("cpl", "finished", 60)
    text = (path / "report.html").read_text("utf-8")
    table, others, _ = text.split('<table class="compare">')[1:]
    assert table.count("Simulated rating: ") == 2 * 2
    assert SMOOTH_AND_SOFT in table
    assert others.count("Simulated rating: ") == len(QUALITIES) - 1
    steps = ["step_000000000", "step_000000040", "step_000000060"]
    assert [saved.name for saved in checkpoint.list_checkpoints(path / "checkpoints")] == steps
    assert sorted(evaluated.name for evaluated in (path / "eval").iterdir()) == steps
    for step in steps:
        facts = next(imageio_ffmpeg.read_frames(str(path / "eval" / step / "video.mp4")))
        assert facts["size"] == (64, 48)
        assert (path / "eval" / step / "played.mid").stat().st_size > 0


def test_the_guard_tells_what_it_judged_by(tuned):
    answer, path = tuned
    guard = answer["guard"]
    assert guard["performances"] == 2
    start, *candidates = guard["candidates"]
    assert (start["share"], start["holds"]) == (0, True)
    shares = [candidate["share"] for candidate in candidates]
    holds = [candidate["holds"] for candidate in candidates]
    tried = [0.25, 0.5, 0.75, 1]
    # The first that does not hold the notes ends the search, half way to it.
    if False in holds:
        end = holds.index(False)
        tried = [*tried[: end + 1], (tried[end] + ([0.0, *tried])[end]) / 2]
    assert shares == tried
    for candidate in candidates:
        least = start["note_f1"]["mean"] - guard["margin"]
        assert candidate["holds"] == (candidate["note_f1"]["mean"] >= least)
    held = [candidate["share"] for candidate in candidates if candidate["holds"]]
    said = guard["last_words"]
    assert [one["share"] for one in said] == held[: -len(said) - 1 : -1]
    assert all(not one["holds"] for one in said[:-1])
    if said and said[-1]["holds"]:
        assert (answer["line"], answer["share"]) == ("cpl", said[-1]["share"])
        assert answer["after"]["drawn"] == said[-1]["drawn"]
    else:
        assert (answer["line"], answer["share"]) == ("", 0)
    assert answer["improved"] == (answer["share"] > 0)
    assert checkpoint.load_description(checkpoint.find(path))["share"] == answer["share"]


def test_what_was_learnt_is_told(carried, tuned):
    answer, path = tuned
    learning = answer["learning"]
    segments = len(carried.segments())
    # Of two raters in two rounds.
    assert answer["answers"] == {"ratings": 4 * segments, "comparisons": 0, "ties": 0}
    assert sum(learning["pairs"].values()) <= segments * (segments - 1)
    lines = [json.loads(line) for line in (path / "logbook.jsonl").read_text().splitlines()]
    measured = {
        line["learner_steps"]: {
            f"{part}/preference_{name}": line[f"cpl/{part}/preference_{name}"]
            for part in ("training", "validation")
            for name in ("loss", "accuracy")
        }
        for line in lines
        if "cpl/validation/preference_loss" in line
    }
    assert list(measured) == [0, 10, 20, 30, 40, 50, 60]
    step = learning["step"]
    assert learning["start"] == measured[0]
    assert learning["result"] == measured[step]
    assert learning["chosen_by_held_out"] == (learning["pairs"]["validation"] >= 10)
    if learning["chosen_by_held_out"]:
        losses = {one: values["validation/preference_loss"] for one, values in measured.items()}
        assert step == min(list(losses)[1:], key=lambda one: losses[one])
    else:
        assert step == 60
    assert answer["rounds"] == [
        {
            "run": "one",
            "answers": answer["answers"],
            "line": answer["line"],
            "share": answer["share"],
            "before": answer["before"]["drawn"],
            "after": answer["after"]["drawn"],
        }
    ]


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
        "learner/steps_per_second",
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


def test_the_new_checkpoint_can_be_played(tuned, run_cli, tmp_path):
    answer, path = tuned
    exit_code, output, errors = run_cli(
        *("eval", "--load-checkpoint", path, "--record-dir", tmp_path, "--json")
    )
    assert exit_code == 0, errors
    again = json.loads(output)
    assert again["metrics"] == answer["after"]["metrics"]
    assert (tmp_path / "step_000000060" / "video.mp4").stat().st_size > 0


def test_it_can_be_recorded_and_fine_tuned_again(carried, tuned, run_cli, tmp_path):
    _, path = tuned
    shutil.copytree(path, tmp_path / "one")
    with pytest.raises(StartedError):
        run_cli("segments", tmp_path / "one")
    recorded_again = Collection.open(tmp_path / "one")
    assert len(recorded_again.missing()) == 7 * 7  # Seven passages, seven renditions of each.
    assert recorded_again.manifest["config"] == carried.manifest["config"]
    with pytest.raises(StartedError):
        run_cli(*tune(carried, "--load-checkpoint", path, "--raters", SMOOTH, root=tmp_path))


# --- A style that the answers favor -----------------------------------------------------


@pytest.mark.slow
def test_a_policy_learns_to_play_in_the_favored_style(trained, folder):
    trained_answer, _ = trained
    recorded = run(folder, *("segments", "runs/scale", "--no-video", "--json"), seconds=300)
    assert recorded.returncode == 0, recorded.stderr
    collection = Collection.open(folder / json.loads(recorded.stdout)["collection"])
    with contextlib.closing(Ratings(collection.ratings, names(collection))) as ratings:
        for segment in collection.segments():
            variation = segment.planned.variation
            points = 50 - 100 * (variation.amplitude - 1) + 10 * variation.smoothing
            ratings.rate(ANNA, segment.name, round(points))
    result = run(
        folder,
        *("cpl", collection.path, "--load-checkpoint", "runs/scale", "--root-dir", "tuned"),
        *("--name", "styled", *QUICK, "--json"),
        seconds=400,
    )
    assert result.returncode == 0, result.stderr
    wait_until_nothing_is_left(folder)
    answer = json.loads(result.stdout)
    assert answer["style"]["knobs"]["amplitude"]["kept"] < -1
    assert answer["style"]["unit"]["amplitude"] < 0.95
    assert "the answers favor amplitude 0." in result.stderr
    if answer["line"] == "style":
        assert answer["learning"] is None
        path = pathlib.Path(answer["checkpoint"])
        described = checkpoint.load_description(path)
        assert described["share"] == answer["share"]
        assert described["style"]["amplitude"] < 1
        lines = (folder / "tuned" / "styled" / "logbook.jsonl").read_text().splitlines()
        (imitated,) = (
            line for line in map(json.loads, lines) if "cpl/imitation_loss_after" in line
        )
        assert imitated["cpl/imitation_loss_after"] < imitated["cpl/imitation_loss_before"]
    else:
        assert not any(
            one["holds"] for one in answer["guard"]["last_words"] if one["line"] == "style"
        )
    assert answer["before"]["metrics"] == trained_answer["metrics"]


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


def test_people_count_and_simulated_raters_that_are_named(empty_handed, run_cli, tmp_path, capsys):
    give(empty_handed, [10, 20, 30])
    give(empty_handed, [40, 30, 20, 10], Rater(SMOOTH, "simulated"))

    def preferences(*flags):
        flags = ("--validation-fraction", 0, *flags)
        with pytest.raises(StartedError):
            run_cli(*tune(empty_handed, *flags, root=tmp_path))
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
        (opened, [], ["no person has rated", "no one"]),
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
        (rated(10, 20), ["--eval-episodes", -1], ["--eval-episodes is -1"]),
        (rated(10, 20), ["--validation-fraction", 1], ["--validation-fraction is 1.0"]),
        (rated(10, 20), ["--seed", -1], ["--seed is -1"]),
        (rated(10, 20), ["--alpha", 0], ["--alpha is 0.0"]),
        (rated(10, 20), ["--alpha", "inf"], ["--alpha is inf"]),
        (rated(10, 20), ["--batch-size", 3], ["--batch-size is 3"]),
        (rated(10, 20), ["--learning-rate", 0], ["--learning-rate is 0.0"]),
        (rated(10, 20), ["--contrastive-bias", 2], ["--contrastive-bias is 2.0"]),
        (rated(10, 20), ["--method", "dpo"], ["--method"]),
        (rated(10, 20), ["--members", 0], ["--members is 0"]),
        (rated(10, 20), ["--guard-performances", -1], ["--guard-performances is -1"]),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    empty_handed, run_cli, tmp_path, prepare, flags, words
):
    prepare(empty_handed)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(run_cli(*tune(empty_handed, *flags, root=tmp_path)), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_taken_is_refused(carried, tuned, run_cli):
    _, path = tuned
    flags = ("--raters", SMOOTH, "--name", "one")
    result = run_cli(*tune(carried, *flags, root=path.parent.parent))
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
    carried, changed_checkpoint, run_cli, tmp_path, edit, words
):
    flags = ("--load-checkpoint", changed_checkpoint(edit), "--raters", SMOOTH)
    assert_refused(run_cli(*tune(carried, *flags, root=tmp_path)), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_wrong_keys_may_end_the_checkpoint_s_episodes(
    carried, changed_checkpoint, run_cli, tmp_path
):
    """Segments are recorded without, so that they can be heard to the end."""

    def edit(description):
        description["config"]["environment"]["wrong_press_termination"] = True

    flags = ("--load-checkpoint", changed_checkpoint(edit), "--raters", SMOOTH)
    with pytest.raises(StartedError):
        run_cli(*tune(carried, *flags, root=tmp_path))


# --- Several rounds ---------------------------------------------------------------------


@pytest.fixture
def two_rounds(empty_handed, tmp_path):
    """Two collections that are not rated: the other has another base, and a run's folder."""
    shutil.copytree(empty_handed.path, tmp_path / "later" / "collections" / "one")
    return empty_handed, Collection.open(tmp_path / "later")


def tune_both(two_rounds, *flags, root):
    first, second = two_rounds
    return "cpl", first.path, second.path.parent.parent, *tune(first, *flags, root=root)[2:]


def test_rounds_are_learnt_from_together(two_rounds, run_cli, tmp_path, capsys):
    first, second = two_rounds
    give(first, [10, 20, 30])
    give(second, [10, 20, 30, 40])
    with pytest.raises(StartedError):
        run_cli(*tune_both(two_rounds, "--validation-fraction", 0, root=tmp_path))
    # 3 + 6: none of one collection with one of the other.
    assert "; 9 preferences to learn from, 0 held out" in capsys.readouterr().err


def other_environment(collection):
    change_manifest(
        collection, lambda manifest: manifest["config"]["environment"].update(n_steps_lookahead=5)
    )


def other_piece(collection):
    change_manifest(collection, lambda manifest: manifest["songs"][0].update(title="another"))


def rated_by_another(collection):
    give(collection, [10, 20], Rater("bert", "person"))


@pytest.mark.parametrize(
    ("prepare", "flags", "words"),
    [
        (unrated, [], ["has not been rated"]),
        (rated(50), [], ["only one segment has been rated"]),
        (rated_by_another, ["--raters", "anna"], ["--raters: ['anna'] did not rate", "'bert'"]),
        (lambda c: (rated(1, 2)(c), other_piece(c)), [], ["is of another song"]),
        (lambda c: (rated(1, 2)(c), other_environment(c)), [], ["--n-steps-lookahead 5"]),
    ],
)
def test_what_is_wrong_with_one_round_is_said_of_it(
    two_rounds, run_cli, tmp_path, prepare, flags, words
):
    first, second = two_rounds
    give(first, [10, 20])
    prepare(second)
    result = run_cli(*tune_both(two_rounds, *flags, root=tmp_path))
    assert_refused(result, *words, str(second.path))
    assert not (tmp_path / "tuned").exists()


def test_a_collection_is_named_once(empty_handed, run_cli, tmp_path):
    give(empty_handed, [10, 20])
    (tmp_path / "elsewhere").mkdir()
    for other in (empty_handed.path, tmp_path / "elsewhere" / ".." / "collection"):
        arguments = tune(empty_handed, root=tmp_path)
        result = run_cli(*arguments[:2], other, *arguments[2:])
        assert_refused(result, "are the same collection")
    assert_refused(run_cli("cpl", "--load-checkpoint", "runs/scale"), "COLLECTION is missing")


def test_a_collection_without_a_base_is_said(two_rounds, run_cli, tmp_path, capsys):
    """As of version 1."""
    _, second = two_rounds
    for collection in two_rounds:
        give(collection, [10, 20, 30])
    shutil.rmtree(second.path / "base")
    with pytest.raises(StartedError):
        run_cli(*tune_both(two_rounds, "--validation-fraction", 0, root=tmp_path))
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "no policy" in line)
    assert str(second.path) in line
    assert "relative to the policy that is fine-tuned" in line
