"""Collections: what is written comes back, what is damaged is named, what is cut stays whole."""

import contextlib
import dataclasses
import json
import math
import time

import numpy as np
import pytest
from collections_for_tests import (
    METRICS,
    NOISES,
    STEP,
    change_manifest,
    make_collection,
    make_performance,
    make_plan,
    make_trajectory,
)

from common.errors import BadInput
from common.files import PackedFolder
from piano.metrics import metrics
from piano.performance import Performance
from rlhf.collection import COLUMNS, Collection, Trajectory, write_segment
from rlhf.ratings import Rater, Ratings
from rlhf.variation import Variation


@pytest.fixture
def collection(tmp_path):
    return make_collection(tmp_path, segments=4, video=False)


# --- Round trip -------------------------------------------------------------------------


def test_what_is_written_comes_back(collection):
    again = Collection.open(collection.path)
    assert again == collection
    assert again.planned == tuple(make_plan(segments=4))
    assert again.missing() == []
    assert again.manifest["run"] == "demo"
    assert again.manifest["columns"] == COLUMNS
    assert abs(again.manifest["created"] - time.time()) < 600
    segments = again.segments()
    assert [segment.name for segment in segments] == ["0000", "0001", "0002", "0003"]
    for number, segment in enumerate(segments):
        assert segment.metrics == METRICS
        assert segment.seconds == pytest.approx(24 * STEP)
        expected = make_trajectory(number, segment.planned.first_step)
        read = segment.trajectory()
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(read, name), getattr(expected, name))
            assert getattr(read, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(read.observation.goal_index, expected.row)
        performance = Performance.load(segment.performance)
        np.testing.assert_array_equal(performance.due_notes, make_performance(number).due_notes)


def test_a_segment_tells_what_was_played_without_the_manifest(collection):
    file = collection.folder(collection.planned[2]) / "segment.json"
    values = json.loads(file.read_text())
    planned = dataclasses.asdict(collection.planned[2])
    assert values == {**planned, "seconds": 24 * STEP, "metrics": METRICS}


def test_a_window_of_a_trajectory_has_the_state_after_its_last_step():
    whole = make_trajectory(0, 8)
    part = whole.window(5, 9)
    np.testing.assert_array_equal(part.row, [13, 14, 15, 16])
    np.testing.assert_array_equal(part.action, whole.action[5:9])
    np.testing.assert_array_equal(part.simulator_state, whole.simulator_state[5:10])
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(whole.window(0, 24), name), getattr(whole, name))


def test_a_run_s_folder_means_its_newest_collection(tmp_path):
    made = [make_collection(tmp_path / "elsewhere" / name, 2, video=False) for name in "ab"]
    parent = tmp_path / "run" / "collections"
    parent.mkdir(parents=True)
    made[1].path.rename(parent / "20260102-000000")
    made[0].path.rename(parent / "20251231-235959")
    (parent / "20260103-000000").mkdir()  # Broken off before it had a manifest.
    assert Collection.open(tmp_path / "run").path == parent / "20260102-000000"
    assert Collection.open(parent / "20251231-235959").path == parent / "20251231-235959"


# --- Half-written and damaged -----------------------------------------------------------


def test_a_segment_without_its_description_is_missing(collection):
    (collection.folder(collection.planned[1]) / "segment.json").unlink()
    again = Collection.open(collection.path)
    assert again.missing() == [collection.planned[1]]
    assert [segment.name for segment in again.segments()] == ["0000", "0002", "0003"]


def test_an_empty_collection_is_named(tmp_path):
    collection = Collection.create(tmp_path, {}, make_plan(segments=2))
    assert collection.missing() == list(collection.planned)
    with pytest.raises(BadInput, match="is empty: none of its 2 segments"):
        collection.segments()
    with pytest.raises(BadInput, match="has no songs"):
        collection.songs()


def test_a_collection_is_not_made_over_another(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _form: "20260101-000000")
    Collection.create(tmp_path, {"run": "first"}, make_plan(segments=2))
    with pytest.raises(BadInput, match="cannot be made"):
        Collection.create(tmp_path, {"run": "second"}, make_plan(segments=2))
    assert Collection.open(tmp_path / "20260101-000000").manifest["run"] == "first"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1, "segm', "\x00\xff"])
def test_a_damaged_manifest_is_named(collection, text):
    (collection.path / "collection.json").write_text(text)
    with pytest.raises(BadInput, match=r"collection\.json"):
        Collection.open(collection.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(version=3), r"has version 3, must be one of \[1, 2\]"),
        (lambda m: m.update(version=[]), r"has version \[\]"),
        (lambda m: m.pop("version"), "has version None"),
        (lambda m: m.pop("segments"), "its list of segments"),
        (lambda m: m.update(segments=None), "its list of segments"),
        (lambda m: m.update(segments=[3]), "its list of segments"),
        (lambda m: m["segments"][0].pop("variation"), "its list of segments: expected"),
        (lambda m: m["segments"][0].update(variation=[]), r"variation is \[\]"),
        (lambda m: m["segments"][0]["variation"].pop("noise"), "its list of segments: expected"),
        (lambda m: m["segments"][0]["variation"].update(noise=math.nan), "noise is nan"),
        (lambda m: m["segments"][0]["variation"].update(smoothing=2.0), "smoothing is 2.0"),
        (lambda m: m["segments"][0].update(lead_in=9), "steps 8 to 32, lead-in 9"),
        (lambda m: m["segments"][0].update(last_step=8), "steps 8 to 8, lead-in 0"),
        (lambda m: m["segments"][0].update(more=1), "its list of segments: expected"),
        (lambda m: m["segments"][0].update(seed="1"), "seed is '1'"),
        (lambda m: m["segments"][0].update(first_step=True), "first_step is True"),
        (lambda m: m["segments"][0]["variation"].update(noise=[]), r"noise is \[\]"),
        (lambda m: m["segments"].append(m["segments"][0]), "a name comes twice"),
    ],
)
def test_a_manifest_with_other_contents_is_named(collection, change, words):
    change_manifest(collection, change)
    with pytest.raises(BadInput, match=words):
        Collection.open(collection.path)


@pytest.mark.parametrize("name", ["../x", "../0001", "/etc", "", "1", "0001/", "0001\n", "x001", 1])
def test_names_that_lead_elsewhere_are_refused(collection, name):
    change_manifest(collection, lambda manifest: manifest["segments"][0].update(name=name))
    with pytest.raises(BadInput, match="name is"):
        Collection.open(collection.path)


def test_whole_numbers_are_good_noise(collection):
    change_manifest(
        collection, lambda manifest: manifest["segments"][0]["variation"].update(noise=0)
    )
    noise = Collection.open(collection.path).planned[0].variation.noise
    assert (type(noise), noise) == (float, 0.0)


def test_the_judged_part_is_the_passage_without_its_lead_in(tmp_path):
    """The performance holds both, the trajectory the passage alone."""
    plan = [dataclasses.replace(make_plan(1)[0], first_step=12, last_step=32, lead_in=4)]
    collection = Collection.create(tmp_path, {}, plan)
    folder = collection.folder(plan[0])
    folder.mkdir()
    performance = make_performance(0, steps=24)
    performance.save(folder / "performance.npz")
    write_segment(folder, plan[0], make_trajectory(0, 12, steps=20), 1.2, METRICS)
    (segment,) = collection.segments()
    assert_same(segment.judged(), performance.window(4, 24))
    assert len(segment.judged().rewards) == len(segment.trajectory().row) == 20
    assert segment.planned.passage == (0, 12, 32)


def test_the_base_policy_travels_with_its_collection(collection, tmp_path):
    assert collection.base is None
    base = PackedFolder.sealed("step_000012345", {"checkpoint.json": b"{}"})
    made = Collection.create(tmp_path / "other", {}, make_plan(segments=2), base)
    assert made.base == made.path / "base" / "step_000012345"
    PackedFolder.pack(made.base).require_whole()


# --- Version 1 --------------------------------------------------------------------------


@pytest.fixture
def old_collection(collection):
    """As `pianist segments` wrote it before there were variations and lead-ins."""

    def as_before(manifest):
        manifest["version"] = 1
        for values in manifest["segments"]:
            del values["lead_in"]
            variation = values.pop("variation")
            values["noise"], values["temperature"] = variation["noise"], variation["temperature"]
        manifest["segments"][1].update(noise=0, temperature=0)

    with contextlib.closing(Ratings(collection.ratings, ["0000", "0001", "0002"])) as ratings:
        ratings.rate(Rater("Ana", "person"), "0001", 70)
    change_manifest(collection, as_before)
    return collection


def test_collections_of_version_1_and_their_ratings_still_open(old_collection):
    again = Collection.open(old_collection.path)
    expected = make_plan(segments=4)
    expected[1] = dataclasses.replace(expected[1], variation=Variation())
    assert again.planned == tuple(expected)
    assert (again.base, again.missing()) == (None, [])
    segments = again.segments()
    assert segments[1].planned.variation.kind == "as played"
    assert segments[0].planned.variation == Variation(noise=NOISES[0], temperature=1.0)
    assert_same(segments[1].judged(), make_performance(1))
    assert_same(segments[1].trajectory(), make_trajectory(1, 8))
    with contextlib.closing(Ratings(again.ratings, [one.name for one in segments])) as ratings:
        (rating,) = ratings.ratings()
    assert (rating.segment, rating.score, rating.rater.name) == ("0001", 70, "Ana")


def test_a_manifest_of_version_1_is_checked_as_well(old_collection):
    change_manifest(old_collection, lambda manifest: manifest["segments"][0].update(noise="loud"))
    with pytest.raises(BadInput, match="noise is 'loud'"):
        Collection.open(old_collection.path)
    change_manifest(old_collection, lambda manifest: manifest["segments"][0].pop("temperature"))
    with pytest.raises(BadInput, match="temperature"):
        Collection.open(old_collection.path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"metrics": 3, "seconds": 1}', '{"metrics": {}, "seconds": "x"}']
)
def test_a_damaged_description_of_a_segment_is_named(collection, text):
    file = collection.folder(collection.planned[1]) / "segment.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=str(file)):
        collection.segments()


@pytest.mark.parametrize(
    "damage",
    [
        lambda contents: contents[: len(contents) // 2],
        lambda contents: contents[:-30],
        lambda _contents: b"",
        lambda _contents: b"la la la" * 100,
    ],
    ids=["half", "almost", "empty", "text"],
)
def test_a_damaged_trajectory_is_named(collection, damage):
    segment = collection.segments()[2]
    file = segment.folder / "trajectory.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=f"{file} is damaged"):
        segment.trajectory()


def test_a_few_changed_bytes_are_seen_or_harmless(collection):
    segment = collection.segments()[2]
    expected, file = segment.trajectory(), segment.folder / "trajectory.npz"
    contents, random, refused = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(100):
        place = random.integers(len(contents) - 4)
        file.write_bytes(contents[:place] + random.bytes(4) + contents[place + 4 :])
        try:
            assert_same(segment.trajectory(), expected)
        except BadInput:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "columns",
    [
        {"row": np.zeros(3, np.int32)},
        {"action": np.zeros((0, 4), np.float32)},
        {"simulator_state": np.zeros((24, 9))},
        {"action": np.zeros(24, np.float32)},
        {"row": np.array(["x"] * 24)},
        {"row": np.zeros(24, np.int32), "reward": None},
    ],
)
def test_a_trajectory_with_other_columns_is_named(collection, columns):
    segment = collection.segments()[0]
    arrays = {name: getattr(segment.trajectory(), name) for name in COLUMNS} | columns
    file = segment.folder / "trajectory.npz"
    np.savez_compressed(file, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(BadInput, match=f"{file} is damaged"):
        segment.trajectory()


def test_nothing_is_unpickled(collection):
    segment = collection.segments()[0]
    arrays = {name: getattr(segment.trajectory(), name) for name in COLUMNS}
    arrays["row"] = np.array([{"a": 1}], object)
    np.savez_compressed(segment.folder / "trajectory.npz", **arrays)
    with pytest.raises(BadInput, match="damaged"):
        segment.trajectory()


@pytest.mark.parametrize("name", ["missing", "."])
def test_where_there_is_no_collection_it_says_so(tmp_path, name):
    with pytest.raises(BadInput, match="no collection at"):
        Collection.open(tmp_path / name)


# --- Windows of a performance -----------------------------------------------------------


def performance_by_hand():
    """Ten control steps of 0.1 s."""
    keys = np.zeros((10, 88), bool)
    keys[:, 0] = np.arange(10) % 2
    return Performance(
        control_timestep=np.array(0.1),
        due_keys=keys,
        due_pedal=np.arange(10) > 6,
        played_keys=~keys,
        played_pedal=np.arange(10) > 3,
        rewards=np.arange(10.0),
        # What is due in control step 3 is due at its end, 0.4 s.
        due_notes=np.array([[0.1, 0.4, 5], [0.4, 0.7, 6], [0.6, 0.7, 7], [0.7, 1.0, 8]]),
        played_notes=np.array(
            [[0.005, 0.31, 5, 60], [0.3, 0.4, 6, 61], [0.305, 0.95, 7, 62], [0.9, 1.0, 8, 63]]
        ),
        pedal_changes=np.array([[0.1, 1.0], [0.35, 0.0], [0.4, 1.0], [0.8, 0.0]]),
        positions=np.arange(22, dtype=np.float32).reshape(11, 2),
    )


def assert_same(here, there):
    for name, value in vars(there).items():
        np.testing.assert_array_equal(getattr(here, name), value, err_msg=name)


def test_notes_belong_to_the_window_in_which_they_begin():
    whole = performance_by_hand()
    middle = whole.window(3, 6)
    # What begins as the window ends belongs to the next; what goes on ends with the window.
    np.testing.assert_allclose(middle.due_notes, [[0.1, 0.3, 6]], atol=1e-12)
    # What began before is not heard.
    np.testing.assert_allclose(
        middle.played_notes, [[0.0, 0.1, 6, 61], [0.005, 0.3, 7, 62]], atol=1e-12
    )
    np.testing.assert_array_equal(middle.rewards, [3.0, 4.0, 5.0])
    np.testing.assert_array_equal(middle.due_keys, whole.due_keys[3:6])
    np.testing.assert_array_equal(middle.played_pedal, [False, True, True])
    np.testing.assert_array_equal(middle.positions, whole.positions[3:7])
    assert middle.seconds == pytest.approx(0.3)
    assert metrics(middle)["due_notes"] == 1
    after = whole.window(6, 8)
    np.testing.assert_allclose(after.due_notes, [[0.0, 0.1, 7], [0.1, 0.2, 8]], atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_windows_share_out_all_notes(size):
    whole = performance_by_hand()
    windows = [whole.window(first, min(first + size, 10)) for first in range(0, 10, size)]
    for name in ("due_notes", "played_notes"):
        shared = np.concatenate([getattr(window, name)[:, 2] for window in windows])
        np.testing.assert_array_equal(shared, getattr(whole, name)[:, 2])
    for window in windows:
        for notes in (window.due_notes, window.played_notes):
            assert (notes[:, 0] >= 0).all()
            assert (notes[:, 0] < notes[:, 1]).all()
            assert (notes[:, 1] <= window.seconds + 1e-12).all()


def test_a_pedal_that_is_down_already_is_down_from_the_window_s_start():
    whole = performance_by_hand()
    np.testing.assert_allclose(whole.window(0, 1).pedal_changes.reshape(-1, 2), np.empty((0, 2)))
    np.testing.assert_allclose(whole.window(2, 3).pedal_changes, [[0.0, 1.0]])
    np.testing.assert_allclose(
        whole.window(2, 6).pedal_changes, [[0.0, 1.0], [0.15, 0.0], [0.2, 1.0]], atol=1e-12
    )
    np.testing.assert_allclose(whole.window(4, 6).pedal_changes, [[0.0, 1.0]])
    assert len(whole.window(8, 10).pedal_changes) == 0


def test_the_whole_piece_is_one_window():
    for whole in (performance_by_hand(), make_performance(3)):
        assert_same(whole.window(0, len(whole.rewards)), whole)


def test_trajectories_survive_their_file(tmp_path):
    trajectory = make_trajectory(1, 0, steps=3)
    trajectory.save(tmp_path / "trajectory.npz")
    assert_same(Trajectory.load(tmp_path / "trajectory.npz"), trajectory)
