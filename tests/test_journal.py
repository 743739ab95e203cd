"""The journal of the replay: nothing lost, nothing twice, and damage named."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import journal
from replay.errors import BadInput
from replay.files import PackedFolder

SIZE = 3


def transitions(*episodes):
    """Of episodes of steps that are told apart by their numbers, one episode after the other."""
    rows = []
    for number, length in enumerate(episodes):
        steps = np.array([[number, step, 0.5] for step in range(length + 1)], np.float32)
        rows += list(np.stack([steps[:-1], steps[1:]], axis=1))
    return np.array(rows, np.float32).reshape(-1, 2, SIZE)


def unpacked(entry):
    found = []
    for steps in journal.trajectories(entry, SIZE):
        assert len(steps) >= 2
        found += list(np.stack([steps[:-1], steps[1:]], axis=1))
    return np.array(found, np.float32).reshape(-1, 2, SIZE)


def in_order(transitions):
    return sorted(transitions.reshape(-1, 2 * SIZE).tolist())


@given(st.lists(st.integers(1, 6), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_what_is_packed_comes_back_and_shared_steps_are_kept_once(lengths, random):
    written = transitions(*lengths)
    order = list(range(len(written)))
    random.shuffle(order)  # Environments write side by side.
    entry = journal.pack(7, written[order])
    assert entry.name == f"transitions_000000000007_{7 + len(written):012d}"
    assert in_order(unpacked(entry)) == in_order(written)


def test_a_step_that_two_transitions_share_is_kept_once():
    one = journal.pack(0, transitions(1000)).files["transitions.safetensors"]
    assert len(one) < 1001 * SIZE * 4 + 1000 * 2 * 4 + 300


def test_equal_steps_of_several_episodes_lose_no_transition():
    written = np.concatenate([transitions(3), transitions(3), transitions(2)])
    assert in_order(unpacked(journal.pack(0, written))) == in_order(written)


def test_values_that_are_not_finite_come_back_to_the_bit():
    written = transitions(2)
    written[0, 0, 0], written[1, 1, 2] = np.nan, -0.0
    back = unpacked(journal.pack(0, written))
    np.testing.assert_array_equal(
        np.sort(back.view(np.int32).ravel()), np.sort(written.view(np.int32).ravel())
    )


def write(folder, *numbers):
    for first, after in numbers:
        journal.pack(first, transitions(after - first)).write(folder)


def names(paths):
    return [path.name for path in paths]


def test_entries_that_no_replay_would_keep_are_removed(tmp_path):
    write(tmp_path, (0, 10), (10, 20), (20, 30))
    journal.remove_older(tmp_path, capacity=15)
    assert names(journal.entries(tmp_path)) == [
        "transitions_000000000010_000000000020",
        "transitions_000000000020_000000000030",
    ]
    assert journal.end(tmp_path) == 30
    assert journal.end(tmp_path / "nothing") == 0


def test_what_fits_is_taken_from_the_newest_back(tmp_path):
    write(tmp_path, (0, 10), (10, 20), (20, 30))
    entries, damaged = journal.whole(tmp_path, capacity=25)
    assert names(entries) == [
        "transitions_000000000010_000000000020",
        "transitions_000000000020_000000000030",
    ]
    assert journal.count(entries) == 20
    assert damaged == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "unsealed", "half"])
def test_an_entry_that_is_damaged_is_named_and_left_out(tmp_path, damage):
    write(tmp_path, (0, 10), (10, 20))
    (tmp_path / ".transitions_000000000020_000000000030.partial").mkdir()
    folder = tmp_path / "transitions_000000000010_000000000020"
    file = folder / "transitions.safetensors"
    content = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(content[:-1])
        case "changed":
            file.write_bytes(content[:-1] + b"x")
        case "missing":
            file.unlink()
        case "unsealed":
            (folder / "SHA256SUMS").unlink()
        case "half":
            (folder / "SHA256SUMS").write_text("")
    entries, (complaint,) = journal.whole(tmp_path, capacity=100)
    assert names(entries) == ["transitions_000000000000_000000000010"]
    assert str(folder) in complaint
    assert "damaged" in complaint
    with pytest.raises(BadInput, match="damaged"):
        list(journal.trajectories(PackedFolder.pack(folder), SIZE))


def test_checksums_are_those_of_sha256sum(tmp_path):
    import subprocess

    write(tmp_path, (0, 10))
    (folder,) = journal.entries(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("steps", "pairs", "word"),
    [
        (np.zeros((2, SIZE + 1), np.float32), [[0, 1]], "another piano"),
        (np.zeros((2, SIZE), np.float64), [[0, 1]], "another piano"),
        (np.zeros((2, SIZE), np.float32), [[0, 2]], "do not belong"),
        (np.zeros((2, SIZE), np.float32), [[-1, 1]], "do not belong"),
        (np.zeros((2, SIZE), np.float32), [[0, 1], [1, 0]], "do not belong"),
    ],
)
def test_entries_that_someone_made_up_are_refused(steps, pairs, word):
    import safetensors.numpy

    arrays = {"steps": steps, "pairs": np.array(pairs, np.int32)}
    content = {"transitions.safetensors": safetensors.numpy.save(arrays)}
    entry = PackedFolder.sealed("transitions_000000000000_000000000001", content)
    with pytest.raises(BadInput, match=word):
        list(journal.trajectories(entry, SIZE))


def test_steps_that_lead_back_to_themselves_end():
    import safetensors.numpy

    arrays = {
        "steps": np.zeros((2, SIZE), np.float32),
        "pairs": np.array([[0, 1], [1, 0]], np.int32),
    }
    content = {"transitions.safetensors": safetensors.numpy.save(arrays)}
    entry = PackedFolder.sealed("transitions_000000000000_000000000002", content)
    assert [len(steps) for steps in journal.trajectories(entry, SIZE)] == [3]


def test_a_name_that_is_no_entry_does_not_count(tmp_path):
    for name in ("transitions_1_2", "other", "transitions_000000000000_000000000010.partial"):
        pathlib.Path(tmp_path / name).mkdir()
    assert journal.entries(tmp_path) == []
