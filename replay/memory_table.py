"""The table of transitions in the replay server's own memory, where there is no Reverb.

Reverb has wheels for Linux on x86-64 only. This table has the same doors and the same pacing.
"""

import threading
import time
from typing import Any

import numpy as np
import ray

from replay.config import ReplayConfig
from replay.pacing import pacing
from replay.packing import pack_step
from replay.writer import StepWriter

_ANSWER_SECONDS = 30.0
_PAUSE_SECONDS = 0.01


class StoppedError(RuntimeError):
    """The table has been stopped."""


def table_bytes(capacity: int, packed_size: int) -> int:
    """Bytes that a full table of so many transitions takes; see `MemoryTable`."""
    return capacity * 2 * packed_size * np.dtype(np.float32).itemsize


class MemoryTable:
    """A ring of transitions: uniform sampling, the oldest overwritten first.

    Args:
        config: capacity, warm-up and update-to-data ratio.
        packed_size: numbers in a step, see `replay.packing`.
        restored: transitions that `restore` will be given.
    """

    def __init__(self, config: ReplayConfig, packed_size: int, restored: int):
        # Takes memory only as it is written.
        self._items = np.zeros((config.replay_capacity, 2, packed_size), np.float32)
        self._pacing = pacing(config, restored)
        self._random = np.random.default_rng()
        self._inserted = self._sampled = self._taken = 0
        self._stopped = False
        self._changed = threading.Condition()

    def counts(self) -> dict[str, int]:
        """Transitions in the table now, ever inserted, and ever sampled."""
        with self._changed:
            return {"size": self._size, "inserted": self._inserted, "sampled": self._sampled}

    def insert(self, items: np.ndarray) -> int:
        """Takes as many as the pacing allows, without waiting.

        Args:
            items: (transitions, 2, packed size) float32.

        Returns:
            How many were taken, from the first on.
        """
        with self._changed:
            taken = 0
            while taken < len(items) and self._pacing.may_insert(self._inserted, self._sampled):
                self._items[self._inserted % len(self._items)] = items[taken]
                self._inserted += 1
                taken += 1
            self._changed.notify_all()
            return taken

    def restore(self, steps: np.ndarray) -> None:
        """Takes transitions that are in the journal already.

        Args:
            steps: (steps, packed size) float32; every two that follow each other are one.
        """
        taken = self.insert(np.stack([steps[:-1], steps[1:]], axis=1))
        assert taken == len(steps) - 1, "more is restored than was said"
        with self._changed:
            self._taken = self._inserted

    def take_new(self, most: int) -> np.ndarray:
        """The oldest transitions that have not been taken yet, (at most, 2, packed size) float32.

        Those that others have taken the place of are left out.
        """
        with self._changed:
            self._taken = max(self._taken, self._inserted - self._size)
            numbers = np.arange(self._taken, min(self._taken + most, self._inserted))
            self._taken += len(numbers)
            return self._items[numbers % len(self._items)]

    def draw(self, batch: np.ndarray) -> None:
        """Fills (batch, 2, packed size) float32, as soon as the pacing allows.

        Raises:
            StoppedError: the table has been stopped.
        """

        def ready() -> bool:
            return self._stopped or self._pacing.may_sample(
                self._inserted, self._sampled, self._size, len(batch)
            )

        with self._changed:
            self._changed.wait_for(ready)
            if self._stopped:
                raise StoppedError
            drawn = self._random.integers(self._size, size=len(batch))
            np.take(self._items, drawn, axis=0, out=batch)
            self._sampled += len(batch)

    def stop(self) -> None:
        """Whoever waits gets an error."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def _size(self) -> int:
        return min(self._inserted, len(self._items))


class MemoryWriter(StepWriter):
    """Writes the transitions of one environment, in order.

    Args:
        server: handle of the `ReplayServer` actor.
    """

    def __init__(self, server: Any):
        super().__init__()
        self._server = server
        self._items: list[np.ndarray] = []  # Complete, and not yet taken.
        self._before: np.ndarray | None = None

    def _send(self, seconds: float, everything: bool) -> bool:
        del everything  # Nothing is ever on its way when this returns.
        for step in self._unsent:
            packed = pack_step(*step[:-1])
            if not step.first and self._before is not None:
                self._items.append(np.stack([self._before, packed]))
            self._before = packed
        self._unsent.clear()
        deadline = time.monotonic() + seconds
        while self._items:
            taken = ray.get(
                self._server.insert.remote(np.stack(self._items)), timeout=_ANSWER_SECONDS
            )
            del self._items[:taken]
            if self._items:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_PAUSE_SECONDS)
        return True
