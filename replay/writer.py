"""The part of writing that is the same for every transport of chunks."""

import abc
import collections
import time

import numpy as np

from replay.packing import CHUNK_ROWS, pack_chunk
from replay.transition import Observation, Step


class ChunkWriter(abc.ABC):
    """Writes the steps of one environment in order, one chunk at a time.

    A chunk ends with its episode, when it is full, or after a second, so that the steps of slow
    environments arrive soon, too.
    """

    _LONGEST_SECONDS = 1.0

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._since = 0.0
        self._chunks: collections.deque[np.ndarray] = collections.deque()
        """Complete chunks that wait to be sent."""
        self._blocked = False

    def begin(self, observation: Observation) -> None:
        """Begins an episode with its first observation, and closes an unfinished one."""
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
        """Adds one transition; `wait` sends it.

        Args:
            action: Action taken at the latest observation, (action dimension,) float32.
            parameter_version: Version of the policy that chose the action; -1 for random actions.
            reward: Reward of this step.
            discount: Discount of the environment itself, 0.0 or 1.0.
            next_observation: Observation after the action.
            last: Whether the episode ends with this step.
        """
        if not self._steps:
            self._since = time.monotonic()
        self._steps.append(Step(self._observation, action, reward, discount, parameter_version))
        self._observation = next_observation
        if last or len(self._steps) == CHUNK_ROWS - 1:
            self._close()

    def wait(self, seconds: float, everything: bool = False) -> bool:
        """Sends complete chunks, and waits until the server has taken all but the newest one.

        Back-pressure acts here: the server takes no more than the learner reads.

        Args:
            seconds: Most seconds to wait.
            everything: Whether to send the newest steps, and to wait for them, too.

        Returns:
            Whether the server can take more steps.
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
        """Sends complete chunks, and returns whether the server took them in time.

        The server may take the newest chunk later, unless `everything` is set.
        """
