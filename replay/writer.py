"""Writing: what every writer does, wherever the transitions are kept."""

import abc
from typing import NamedTuple

import numpy as np

from replay.transition import Observation

_STEPS_AT_ONCE = 16


class Step(NamedTuple):
    """What belongs to one time index, not yet sent."""

    observation: Observation
    action: np.ndarray
    reward: float
    discount: float
    parameter_version: int
    first: bool


class StepWriter(abc.ABC):
    """Writes the transitions of one environment, in order.

    Steps are handed on several at a time: between two simulator steps each call would find the
    processor's caches cold, and take five times as long.
    """

    def __init__(self) -> None:
        self._unsent: list[Step] = []
        self._blocked = False

    def begin(self, observation: Observation) -> None:
        """Begins an episode with its first observation."""
        self._observation, self._first = observation, True

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
        self._unsent.append(
            Step(self._observation, action, reward, discount, parameter_version, self._first)
        )
        self._observation, self._first = next_observation, False
        if last:
            # Holds the last observation. No transition begins with it, none spans two episodes.
            self._unsent.append(
                Step(next_observation, np.zeros_like(action), 0.0, 0.0, -1, first=False)
            )

    def wait(self, seconds: float, everything: bool = False) -> bool:
        """Sends, and waits until the server has taken all but the newest few transitions.

        This is where back-pressure is felt: the server takes no more than the
        update-to-data ratio allows.

        Args:
            seconds: at most.
            everything: whether the newest few are sent and waited for, too.

        Returns:
            Whether there is room for more.
        """
        if not (everything or self._blocked or len(self._unsent) >= _STEPS_AT_ONCE):
            return True
        self._blocked = not self._send(seconds, everything)
        return not self._blocked

    @abc.abstractmethod
    def _send(self, seconds: float, everything: bool) -> bool:
        """Sends what is unsent; whether the server took it, but for the newest few, in time."""
