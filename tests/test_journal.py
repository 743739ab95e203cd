"""The journal of the replay: nothing lost, nothing twice, and damage named."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import BadInput
from common.files import PackedFolder
from replay import journal

SIZE = 3


def chunks_of(*lengths):
    """Chunks of so many transitions each, whose rows are told apart by their numbers."""
    return [
        np.array([[number, step, 0.5] for step in range(length + 1)], np.float32)
        for number, length in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_what_is_packed_comes_back(lengths):
    written = chunks_of(*lengths)
    entry = journal.pack(7, written)
    assert entry.name == f"transitions_000000000007_{7 + sum(lengths):012d}"
    assert journal.end_of(entry) == 7 + sum(lengths)
    for ours, theirs in zip(journal.chunks(entry, SIZE), written, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_step_is_kept_once():
    one = journal.pack(0, chunks_of(1000)).files["transitions.safetensors"]
    assert len(one) < 1001 * SIZE * 4 + 300


def test_values_that_are_not_finite_come_back_to_the_bit():
    (written,) = chunks_of(2)
    written[0, 0], written[1, 2] = np.nan, -0.0
    (back,) = journal.chunks(journal.pack(0, [written]), SIZE)
    np.testing.assert_array_equal(back.view(np.int32), written.view(np.int32))


def write(folder, *numbers):
    for first, after in numbers:
        journal.pack(first, chunks_of(after - first)).write(folder)


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


@pytest.mark.parametrize(
    ("capacity", "first"), [(5, 20), (10, 20), (11, 10), (20, 10), (25, 0), (99, 0)]
)
def test_the_newest_that_fill_a_replay_are_taken(tmp_path, capacity, first):
    write(tmp_path, (0, 10), (10, 20), (20, 30))
    entries, damaged = journal.whole(tmp_path, capacity)
    assert names(entries) == [
        f"transitions_{begin:012d}_{begin + 10:012d}" for begin in range(first, 30, 10)
    ]
    assert journal.count(entries) == 30 - first
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
        list(journal.chunks(PackedFolder.pack(folder), SIZE))


def test_checksums_are_those_of_sha256sum(tmp_path):
    import subprocess

    write(tmp_path, (0, 10))
    (folder,) = journal.entries(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)


def entry_of(count, **arrays):
    """An entry that is said to hold so many transitions."""
    content = {"transitions.safetensors": safetensors.numpy.save(arrays)}
    return PackedFolder.sealed(f"transitions_000000000000_{count:012d}", content)


@pytest.mark.parametrize(
    ("steps", "index", "word"),
    [
        (np.zeros((2, SIZE + 1), np.float32), {"lengths": [2]}, "another piano"),
        (np.zeros((2, SIZE), np.float64), {"lengths": [2]}, "another piano"),
        (np.zeros((2, SIZE), np.float32), {"lengths": [3]}, "do not belong"),
        (np.zeros((3, SIZE), np.float32), {"lengths": [3]}, "do not belong"),
        (np.zeros((2, SIZE), np.float32), {"lengths": [[2]]}, "do not belong"),
        (np.zeros((2, SIZE), np.float32), {"lengths": [3, -1]}, "do not belong"),
        (np.zeros((2, SIZE), np.float32), {}, "damaged"),
        (np.zeros((2, SIZE), np.float32), {"pairs": [[0, 2]]}, "do not belong"),
        (np.zeros((2, SIZE), np.float32), {"pairs": [[-1, 1]]}, "do not belong"),
        (np.zeros((2, SIZE), np.float32), {"pairs": [[0, 1], [1, 0]]}, "do not belong"),
    ],
)
def test_entries_that_someone_made_up_are_refused(steps, index, word):
    arrays = {name: np.array(value, np.int32) for name, value in index.items()}
    with pytest.raises(BadInput, match=word):
        list(journal.chunks(entry_of(1, steps=steps, **arrays), SIZE))


# --- Journals from before chunks: each transition is a pair of numbers of steps ------------------


def test_a_journal_of_pairs_is_read_as_chunks_of_the_steps_that_follow_each_other():
    steps = np.array([[number, 0.5, 0.0] for number in range(6)], np.float32)
    # Two episodes, written side by side.
    pairs = np.array([[0, 1], [3, 4], [1, 2], [4, 5]], np.int32)
    found = list(journal.chunks(entry_of(4, steps=steps, pairs=pairs), SIZE))
    assert [rows[:, 0].tolist() for rows in found] == [[0, 1, 2], [3, 4, 5]]


def test_steps_that_lead_back_to_themselves_end():
    steps = np.zeros((2, SIZE), np.float32)
    pairs = np.array([[0, 1], [1, 0]], np.int32)
    entry = entry_of(2, steps=steps, pairs=pairs)
    assert [len(rows) for rows in journal.chunks(entry, SIZE)] == [3]


def test_a_name_that_is_no_entry_does_not_count(tmp_path):
    for name in ("transitions_1_2", "other", "transitions_000000000000_000000000010.partial"):
        pathlib.Path(tmp_path / name).mkdir()
    assert journal.entries(tmp_path) == []
