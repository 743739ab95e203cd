"""Writing: what every writer does, whatever carries the chunks."""

import abc
import collections
import time

import numpy as np

from replay.packing import CHUNK_ROWS, pack_chunk
from replay.transition import Observation, Step


class ChunkWriter(abc.ABC):
    """Writes the steps of one environment, in order, a chunk at a time.

    A chunk ends with its episode, when it is full, or after a second: slow environments are heard
    of, too.
    """

    _LONGEST_SECONDS = 1.0

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._since = 0.0
        self._chunks: collections.deque[np.ndarray] = collections.deque()
        """Complete, and not yet sent."""
        self._blocked = False

    def begin(self, observation: Observation) -> None:
        """Begins an episode with its first observation, and closes one that was not finished."""
        self._close()
        self._observation = observation

    def add(
        self,
        action: np.ndarray,
        parameter_version: int,
        reward: float,
        discount: float,
        next_observation: Observation,
        last: bool,
    ) -> None:
        """Adds one transition; it is sent by `wait`.

        Args:
            action: (action dimension,) float32, taken at the observation given last.
            parameter_version: of the policy that chose it; -1 for random actions.
            reward: of this step.
            discount: the environment's own, 0.0 or 1.0.
            next_observation: that it led to.
            last: whether the episode ends with it.
        """
        if not self._steps:
            self._since = time.monotonic()
        self._steps.append(Step(self._observation, action, reward, discount, parameter_version))
        self._observation = next_observation
        if last or len(self._steps) == CHUNK_ROWS - 1:
            self._close()

    def wait(self, seconds: float, everything: bool = False) -> bool:
        """Sends what is complete, and waits until the server has taken all but the newest chunk.

        This is where back-pressure is felt: the server takes no more than the learner reads.

        Args:
            seconds: at most.
            everything: whether the newest steps are sent and waited for, too.

        Returns:
            Whether there is room for more.
        """
        if self._steps and time.monotonic() - self._since >= self._LONGEST_SECONDS:
            self._close()
        if everything:
            self._close()
        if not (everything or self._blocked or self._chunks):
            return True
        self._blocked = not self._send(seconds, everything)
        return not self._blocked

    def _close(self) -> None:
        if self._steps:
            self._chunks.append(pack_chunk(self._steps, self._observation))
            self._steps.clear()

    @abc.abstractmethod
    def _send(self, seconds: float, everything: bool) -> bool:
        """Sends what is complete; whether the server took it, but for the newest chunk, in time."""
