"""Chunks that a replay server has taken in and that still wait for the journal."""

import collections
import threading

import numpy as np

from replay.packing import transitions_in


class Unjournaled:
    """Chunks in the order of their arrival; the oldest are dropped if there are too many.

    Args:
        most: Most transitions to keep.
    """

    def __init__(self, most: int):
        self._most = most
        self._chunks: collections.deque[np.ndarray] = collections.deque()
        self._transitions = self._inserted = self._seen = 0
        self._changed = threading.Condition()

    @property
    def inserted(self) -> int:
        """Number of transitions ever added."""
        return self._inserted

    def add(self, chunk: np.ndarray) -> None:
        """Adds a chunk, (rows, packed size) float32."""
        with self._changed:
            self._chunks.append(chunk)
            self._seen += 1
            self._inserted += transitions_in(chunk)
            self._transitions += transitions_in(chunk)
            while self._transitions > self._most:
                self._transitions -= transitions_in(self._chunks.popleft())
            self._changed.notify_all()

    def wait_for(self, chunks: int, seconds: float) -> None:
        """Waits until `chunks` chunks have been added in all.

        Raises:
            TimeoutError: The chunks did not come within `seconds`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._seen >= chunks, seconds):
                raise TimeoutError(f"what is new was not there within {seconds} s")

    def take(self, most: int) -> list[np.ndarray]:
        """Removes and returns the oldest chunk, and further ones up to `most` transitions."""
        taken: list[np.ndarray] = []
        with self._changed:
            while self._chunks and (not taken or transitions_in(self._chunks[0]) <= most):
                taken.append(self._chunks.popleft())
                most -= transitions_in(taken[-1])
                self._transitions -= transitions_in(taken[-1])
        return taken
