"""The replay server: takes chunks from the actors, and hands them to the learner and the journal.

It keeps no replay: the learner's device does, see `learner.ring`.
"""

from importlib import util
from typing import TYPE_CHECKING

import ray

from common.errors import require
from common.files import PackedFolder
from replay import journal
from replay.config import ReplayConfig
from replay.memory_queue import MemoryQueue
from replay.pacing import waiting_chunks
from replay.packing import Joined

if TYPE_CHECKING:
    from replay.reverb_queue import ReverbQueue


def has_reverb() -> bool:
    """Whether Reverb is installed here."""
    return util.find_spec("reverb") is not None


class ReplayServer:
    """Hands on chunks (a Ray actor); the others reach it through `replay.client`.

    Args:
        config: what carries the chunks, capacity, warm-up and ratio.

    Raises:
        BadInput: Reverb is wanted, and is not installed here.
    """

    CALLS_AT_ONCE = 8
    """Of its methods, as Ray's `max_concurrency`: a call of `read` waits."""

    def __init__(self, config: ReplayConfig):
        in_memory = config.replay == "memory" or (config.replay == "auto" and not has_reverb())
        require(
            in_memory or has_reverb(),
            "--replay reverb: dm-reverb is not installed here; it has wheels for Linux on x86-64 "
            "with Python up to 3.11 only. --replay memory goes without",
        )
        waiting, kept = waiting_chunks(config), config.most_kept
        self._queue: MemoryQueue | ReverbQueue
        if in_memory:
            self._queue = MemoryQueue(waiting, kept)
        else:
            from replay import reverb_queue

            self._queue = reverb_queue.ReverbQueue(waiting, kept)

    def address(self) -> str:
        """Where others find Reverb, "host:port"; empty where there is none."""
        if isinstance(self._queue, MemoryQueue):
            return ""
        return f"{ray.util.get_node_ip_address()}:{self._queue.port}"

    def inserted(self) -> int:
        """Transitions that this server has taken in."""
        return self._queue.inserted()

    def take_new(self, most: int, first: int) -> PackedFolder | None:
        """An entry of the journal: the oldest transitions that it has not got.

        Args:
            most: transitions at most, but for the first chunk.
            first: number of the first of them, counted from the beginning of the run.

        Returns:
            None if it has all.
        """
        chunks = self._queue.take_new(most)
        return journal.pack(first, chunks) if chunks else None

    def insert(self, joined: Joined) -> int:
        """See `MemoryQueue.insert`."""
        assert isinstance(self._queue, MemoryQueue)
        return self._queue.insert(joined)

    def read(self, seconds: float) -> Joined | None:
        """See `MemoryQueue.read`."""
        assert isinstance(self._queue, MemoryQueue)
        return self._queue.read(seconds)
