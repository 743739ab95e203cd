"""The journal: transitions of the replay on disk, so that a run can be resumed.

    RUN/replay/transitions_000000000000_000000020000/
        transitions.safetensors   transitions of these numbers, from the beginning of the run
        SHA256SUMS                checksum of this file

An entry has the transitions since the previous entry, and is taken while the server works. Reverb's
own checkpoints are not used: they block the server while they are written, and each one holds all
transitions.
"""

import collections
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from common.errors import BadInput, require
from common.files import PackedFolder
from replay.packing import Joined

_FILE = "transitions.safetensors"
_NAME = re.compile(r"transitions_(\d{12})_(\d{12})")


def pack(first: int, chunks: Sequence[np.ndarray]) -> PackedFolder:
    """Packs an entry of the journal.

    Args:
        first: Number of the entry's first transition.
        chunks: One or more chunks; see `replay.packing`.
    """
    joined = Joined.of(chunks)
    arrays = {"steps": joined.rows, "lengths": joined.lengths}
    name = f"transitions_{first:012d}_{first + joined.transitions:012d}"
    return PackedFolder.sealed(name, {_FILE: safetensors.numpy.save(arrays)})


def chunks(entry: PackedFolder, packed_size: int) -> Iterator[np.ndarray]:
    """Yields the chunks of an entry, in which every two consecutive rows are a transition.

    Args:
        entry: Entry that `pack` made, or an older version of the program that had no chunks.
        packed_size: Numbers in a step.

    Yields:
        Two or more consecutive rows, without an upper limit, (rows, packed size) float32.

    Raises:
        BadInput: The entry is damaged or of another piano.
    """
    entry.require_whole()
    try:
        arrays = safetensors.numpy.load(entry.files[_FILE])
        steps = arrays.pop("steps")
        (name, index) = arrays.popitem()
    except (KeyError, SafetensorError) as error:
        raise BadInput(f"{entry.origin} is damaged: {_FILE}: {error}") from error
    require(
        steps.dtype == np.float32 and steps.shape[1:] == (packed_size,),
        f"{entry.origin} is of another piano: its steps are {steps.dtype} {steps.shape[1:]}, "
        f"not float32 ({packed_size},)",
    )
    if name == "pairs":
        yield from _chains(entry, steps, index)
        return
    joined = Joined(steps, index)
    require(
        index.dtype == np.int32
        and index.ndim == 1
        and (index.size == 0 or index.min() >= 2)
        and int(index.sum()) == len(steps)
        and joined.transitions == _count(entry.name),
        f"{entry.origin} is damaged: its lengths do not belong to its steps",
    )
    yield from joined.apart()


def _chains(entry: PackedFolder, steps: np.ndarray, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Yields consecutive steps of an entry in which each transition is a pair of steps."""
    require(
        pairs.dtype == np.int32
        and pairs.shape == (_count(entry.name), 2)
        and (pairs.size == 0 or (pairs.min() >= 0 and pairs.max() < len(steps))),
        f"{entry.origin} is damaged: its pairs do not belong to its steps",
    )
    following: dict[int, collections.deque[int]] = collections.defaultdict(collections.deque)
    for now, then in pairs.tolist():
        following[now].append(then)
    for step in list(following):  # In the order in which the steps were taken.
        while following[step]:
            chain = [step]
            while following[chain[-1]]:
                chain.append(following[chain[-1]].popleft())
            yield steps[chain]


def entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the entries of a journal, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def remove_older(folder: pathlib.Path, capacity: int) -> None:
    """Removes entries of which a replay of `capacity` transitions would keep nothing."""
    kept = 0
    for path in reversed(entries(folder)):
        if kept >= capacity:
            shutil.rmtree(path)
        kept += _count(path.name)


def whole(folder: pathlib.Path, capacity: int) -> tuple[list[pathlib.Path], list[str]]:
    """Returns the entries that can fill a replay of `capacity` transitions.

    Returns:
        The newest undamaged entries, oldest first, until they hold `capacity` transitions or more;
        and an error message for each damaged entry.
    """
    good: list[pathlib.Path] = []
    damaged = []
    for path in reversed(entries(folder)):
        if count(good) >= capacity:
            break
        try:
            PackedFolder.pack(path).require_whole()
        except BadInput as error:
            damaged.append(str(error))
        else:
            good.insert(0, path)
    return good, damaged


def count(paths: Sequence[pathlib.Path]) -> int:
    """Returns the number of transitions in these entries."""
    return sum(_count(path.name) for path in paths)


def end(folder: pathlib.Path) -> int:
    """Returns the number after that of the journal's last transition; 0 if the journal is empty."""
    found = entries(folder)
    return _numbers(found[-1].name)[1] if found else 0


def end_of(entry: PackedFolder) -> int:
    """Returns the number after that of the entry's last transition."""
    return _numbers(entry.name)[1]


def _count(name: str) -> int:
    first, after = _numbers(name)
    return max(0, after - first)


def _numbers(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    assert found is not None
    return int(found[1]), int(found[2])
