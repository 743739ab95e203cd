"""The replay server: a table of transitions in a process of its own."""

import queue
import threading
from importlib import util
from typing import TYPE_CHECKING

import numpy as np
import ray

from replay import journal
from replay.config import ReplayConfig
from replay.errors import require
from replay.files import PackedFolder
from replay.memory_table import MemoryTable, table_bytes
from replay.packing import packed_size

if TYPE_CHECKING:
    from replay.reverb_table import ReverbTable

BATCHES_READY = 8
"""Batches drawn ahead of their use."""
# Beside its numbers; measured with 100,000 transitions of 872 bytes, which took 2,750 each.
_BYTES_OF_REVERB_ITEM = 1_900


def has_reverb() -> bool:
    """Whether Reverb is installed here."""
    return util.find_spec("reverb") is not None


class ReplayServer:
    """Keeps transitions (a Ray actor); everybody else reaches it through `replay.client`.

    Batches are drawn on a thread of their own, a few ahead of their use.

    Args:
        config: where transitions are kept, capacity, warm-up, ratio and batch size.
        proprioception_shape: frames, and numbers in a frame.
        action_dim: numbers in an action.
        inserted: transitions that a resumed run has had.
        restored: of which `restore` will be given so many. Nothing is sampled before.

    Raises:
        BadInput: Reverb is wanted, and is not installed here.
    """

    CALLS_AT_ONCE = 8
    """Of its methods, as Ray's `max_concurrency`: a call of `sample` waits."""

    def __init__(
        self,
        config: ReplayConfig,
        proprioception_shape: tuple[int, int],
        action_dim: int,
        inserted: int = 0,
        restored: int = 0,
    ):
        size = packed_size(proprioception_shape, action_dim)
        in_memory = config.replay == "memory" or (config.replay == "auto" and not has_reverb())
        require(
            in_memory or has_reverb(),
            "--replay reverb: dm-reverb is not installed here; it has wheels for Linux on x86-64 "
            "with Python up to 3.11 only. --replay memory goes without",
        )
        self._table: MemoryTable | ReverbTable
        if in_memory:
            self._table = MemoryTable(config, size, restored)
        else:
            from replay import reverb_table

            self._table = reverb_table.ReverbTable(config, restored)
        self._inserted_before = inserted - restored
        self._taken = inserted
        self._batch_shape = (config.batch_size, 2, size)
        self._ready: queue.Queue[np.ndarray | BaseException] = queue.Queue(BATCHES_READY)
        threading.Thread(target=self._draw, name="replay-draw", daemon=True).start()

    def address(self) -> str:
        """Where writers find Reverb, "host:port"; empty where transitions are kept in memory."""
        if isinstance(self._table, MemoryTable):
            return ""
        return f"{ray.util.get_node_ip_address()}:{self._table.port}"

    def counts(self) -> dict[str, int]:
        """Transitions in the table now, ever inserted in the run, and sampled from this server."""
        counts = self._table.counts()
        return counts | {"inserted": self._inserted_before + counts["inserted"]}

    def restore(self, entry: PackedFolder) -> None:
        """Takes the transitions of an entry of the journal.

        Raises:
            BadInput: it is damaged, or of another piano.
        """
        for steps in journal.trajectories(entry, self._batch_shape[-1]):
            self._table.restore(steps)

    def take_new(self, most: int) -> PackedFolder | None:
        """The next entry of the journal: the oldest transitions that it has not got.

        Args:
            most: transitions at most.

        Returns:
            None if it has all.
        """
        transitions = self._table.take_new(most)
        if not len(transitions):
            return None
        entry = journal.pack(self._taken, transitions)
        self._taken += len(transitions)
        return entry

    def insert(self, items: np.ndarray) -> int:
        """See `MemoryTable.insert`."""
        assert isinstance(self._table, MemoryTable)
        return self._table.insert(items)

    def sample(self, batches: int, seconds: float) -> list[np.ndarray]:
        """Batches, (batch, 2, packed size) float32 each, as `replay.packing` packs them.

        Args:
            batches: at most.
            seconds: to wait for the first, at most; the others are those that are ready.

        Returns:
            None at all, if none was ready in time.

        Raises:
            RuntimeError: the table has failed.
        """
        taken: list[np.ndarray] = []
        try:
            taken.append(self._take(seconds))
            while len(taken) < batches:
                taken.append(self._take(0))
        except queue.Empty:
            pass
        return taken

    def stop(self) -> None:
        """Ends the table; blocked writers get an error."""
        self._table.stop()

    def _take(self, seconds: float) -> np.ndarray:
        batch = self._ready.get(timeout=seconds) if seconds > 0 else self._ready.get_nowait()
        if isinstance(batch, BaseException):
            self._ready.put(batch)  # For whoever asks next.
            raise batch
        return batch

    def _draw(self) -> None:
        try:
            while True:
                batch = np.empty(self._batch_shape, np.float32)
                self._table.draw(batch)
                self._ready.put(batch)
        except BaseException as error:  # Handed to whoever samples.
            self._ready.put(error)


def memory_needed(
    config: ReplayConfig, steps: int, proprioception_shape: tuple[int, int], action_dim: int
) -> int:
    """Bytes that a full table takes, without what Reverb saves by compression.

    Args:
        config: where transitions are kept, and how many.
        steps: environment steps of the run, at most: Reverb takes memory as they come.
        proprioception_shape: of an observation, see `replay.packing`.
        action_dim: numbers in an action.
    """
    size = packed_size(proprioception_shape, action_dim)
    if config.replay == "reverb" or (config.replay == "auto" and has_reverb()):
        step_bytes = size * np.dtype(np.float32).itemsize
        return min(config.replay_capacity, steps) * (step_bytes + _BYTES_OF_REVERB_ITEM)
    return table_bytes(config.replay_capacity, size)
