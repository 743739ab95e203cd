"""The two doors to the replay server: a writer of transitions and a reader of batches."""

import collections
import time
from typing import Any, NamedTuple

import numpy as np
import ray

from replay.writer import StepWriter

_CALL_SECONDS = 5.0
_CALLS_AHEAD = 2
_BATCHES_A_CALL = 8


class Replay(NamedTuple):
    """Where the transitions of a run are kept; can be sent to other processes."""

    server: Any
    """Handle of the `ReplayServer` actor."""
    address: str
    """Of Reverb, "host:port"; empty where they are kept in the server's own memory."""

    def writer(self) -> StepWriter:
        """A writer for one environment."""
        if self.address:
            from replay.reverb_table import ReverbWriter

            return ReverbWriter(self.address)
        from replay.memory_table import MemoryWriter

        return MemoryWriter(self.server)

    def sampler(self) -> "Sampler":
        """A reader of batches."""
        return Sampler(self.server)


class Sampler:
    """Batches drawn uniformly, asked for a few ahead of their use.

    Args:
        server: handle of the `ReplayServer` actor.
    """

    def __init__(self, server: Any):
        self._server = server
        self._here: collections.deque[np.ndarray] = collections.deque()
        self._asked = collections.deque(self._ask() for _ in range(_CALLS_AHEAD))

    def sample(self, seconds: float) -> np.ndarray | None:
        """The next batch, (batch, 2, packed size) float32; None if there is none in `seconds`.

        Raises:
            ray.exceptions.RayError: the server is gone, or its table has failed.
        """
        deadline = time.monotonic() + seconds
        while not self._here:
            wait = max(0.0, deadline - time.monotonic())
            if not ray.wait([self._asked[0]], timeout=wait)[0]:
                return None
            batches = ray.get(self._asked.popleft())
            self._asked.append(self._ask())
            self._here.extend(batches)
        return self._here.popleft()

    def _ask(self) -> ray.ObjectRef:
        return self._server.sample.remote(_BATCHES_A_CALL, _CALL_SECONDS)
