"""The replay server: passes chunks from the actors to the learner and the journal.

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
    """Returns whether Reverb is installed on this machine."""
    return util.find_spec("reverb") is not None


class ReplayServer:
    """Passes chunks on, as a Ray actor that others reach through `replay.client`.

    Args:
        config: Settings of the replay: transport, capacity, warm-up and ratio.

    Raises:
        BadInput: The settings ask for Reverb, which is missing on this machine.
    """

    CALLS_AT_ONCE = 8
    """Concurrent calls of its methods, for Ray's `max_concurrency`: a call of `read` waits."""

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
        """Returns the address of the server's Reverb, "host:port"; empty if there is no Reverb."""
        if isinstance(self._queue, MemoryQueue):
            return ""
        return f"{ray.util.get_node_ip_address()}:{self._queue.port}"

    def inserted(self) -> int:
        """Returns how many transitions this server has taken in."""
        return self._queue.inserted()

    def take_new(self, most: int, first: int) -> PackedFolder | None:
        """Returns a journal entry with the oldest transitions that still wait for the journal.

        Args:
            most: Most transitions in the entry. The first chunk alone may exceed it.
            first: Number of the entry's first transition, counted from the beginning of the run.

        Returns:
            Packed journal entry, or None if no transitions wait.
        """
        chunks = self._queue.take_new(most)
        return journal.pack(first, chunks) if chunks else None

    def insert(self, joined: Joined) -> int:
        """Takes chunks; see `MemoryQueue.insert`."""
        assert isinstance(self._queue, MemoryQueue)
        return self._queue.insert(joined)

    def read(self, seconds: float) -> Joined | None:
        """Returns waiting chunks; see `MemoryQueue.read`."""
        assert isinstance(self._queue, MemoryQueue)
        return self._queue.read(seconds)
