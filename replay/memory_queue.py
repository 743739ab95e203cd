"""A queue of chunks in the replay server's own memory, for machines without Reverb.

Reverb has wheels for Linux on x86-64 only. This queue has the same interface.
"""

import collections
import threading
import time
from typing import Any

import numpy as np
import ray

from replay.packing import Joined
from replay.unjournaled import Unjournaled
from replay.writer import ChunkWriter

_ANSWER_SECONDS = 30.0
_WAIT_SECONDS = 5.0
_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.2


class MemoryQueue:
    """A bounded queue that gives out each chunk once, the oldest first.

    Args:
        waiting: Most chunks that may wait for the learner.
        kept: Most transitions that may wait for the journal.
    """

    def __init__(self, waiting: int, kept: int):
        self._waiting = waiting
        self._chunks: collections.deque[np.ndarray] = collections.deque()
        self._new = Unjournaled(kept)
        self._changed = threading.Condition()

    def inserted(self) -> int:
        """Returns the number of transitions ever inserted."""
        return self._new.inserted

    def insert(self, joined: Joined) -> int:
        """Takes as many of the first chunks as fit, without waiting, and returns their number."""
        chunks = joined.apart()
        with self._changed:
            taken = min(len(chunks), self._waiting - len(self._chunks))
            for chunk in chunks[:taken]:
                # A copy, since Ray frees the memory of a whole message at once.
                self._chunks.append(chunk.copy())
                self._new.add(self._chunks[-1])
            self._changed.notify_all()
        return taken

    def read(self, seconds: float) -> Joined | None:
        """Returns all waiting chunks as soon as there are any, or None if none come in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._chunks, seconds):
                return None
            joined = Joined.of(list(self._chunks))
            self._chunks.clear()
            return joined

    def take_new(self, most: int) -> list[np.ndarray]:
        """Takes chunks for the journal; see `Unjournaled.take`."""
        return self._new.take(most)


class MemoryReader:
    """Reads chunks, the oldest first, and so removes them from the server.

    Args:
        server: Handle of the `ReplayServer` actor.
    """

    def __init__(self, server: Any):
        self._server = server
        self._here: collections.deque[np.ndarray] = collections.deque()
        self._asked = server.read.remote(_WAIT_SECONDS)

    def next(self) -> np.ndarray:
        """Returns the next chunk, (rows, packed size) float32, as soon as there is one.

        It keeps waiting for a server that does not answer: training checks each server itself, and
        decides.

        Raises:
            ray.exceptions.RayError: The server is gone.
        """
        while not self._here:
            if ray.wait([self._asked], timeout=_ANSWER_SECONDS)[0]:
                joined = ray.get(self._asked)
                self._asked = self._server.read.remote(_WAIT_SECONDS)  # Fetched meanwhile.
                if joined is not None:
                    self._here.extend(joined.apart())
        return self._here.popleft()


class MemoryWriter(ChunkWriter):
    """Writes the steps of one environment, in order.

    Args:
        server: Handle of the `ReplayServer` actor.
    """

    def __init__(self, server: Any):
        super().__init__()
        self._server = server
        self._asked: ray.ObjectRef | None = None

    def _send(self, seconds: float, everything: bool) -> bool:
        del everything  # Makes no difference, since every insertion below waits for its answer.
        deadline = time.monotonic() + seconds
        # Each try sends all chunks again, so a server that stays full is asked less and less often.
        pause = _LONGEST_PAUSE_SECONDS if self._blocked else _PAUSE_SECONDS
        while self._chunks:
            # The answer to an earlier call may still be on its way: a second one would double it.
            self._asked = self._asked or self._server.insert.remote(Joined.of(list(self._chunks)))
            left = max(0.0, deadline - time.monotonic())
            if not ray.wait([self._asked], timeout=left)[0]:
                return False
            for _ in range(ray.get(self._asked)):
                self._chunks.popleft()
            self._asked = None
            if self._chunks:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return True
