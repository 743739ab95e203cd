"""Waiting for free memory on this machine or in this container."""

import time
from collections.abc import Callable

from common.clock import AwakeClock
from common.errors import OutOfMemory, PartFailed
from common.memory import free

_WAIT_SECONDS = 1800.0
_LOOK_SECONDS = 1.0
_PAUSE_ON_CLUSTER_SECONDS = 15.0
# Memory of learner, evaluator, replay server and parameter server together, and of one actor
# (docs/guides/reliability.md).
_BYTES_OF_RUN = 1.1e9
_BYTES_OF_ACTOR = 0.3e9


def needed_by(actors: int) -> float:
    """Returns roughly how many bytes the processes of a run take, without the replay's contents.

    Args:
        actors: Number of actors.
    """
    return _BYTES_OF_RUN + actors * _BYTES_OF_ACTOR


class MemoryWait:
    """Waits for free memory after a part died from lack of it, and prints one message.

    Args:
        needed: Bytes that must be free on this machine; None if the parts run on other machines,
            whose free memory is unknown. In that case a pause replaces the check.
        say: Function that prints a line for people.
        stopping: Function that returns whether the run should stop.
    """

    def __init__(
        self, needed: float | None, say: Callable[[str], None], stopping: Callable[[], bool]
    ):
        self._needed = needed
        self._say = say
        self._stopping = stopping
        self._clock: AwakeClock | None = None

    @property
    def is_short(self) -> bool:
        """Whether free memory is below the need of the run and below half of all memory."""
        if self._needed is None:
            return False
        now, whole = free()
        return now < min(self._needed, whole / 2)

    def wait(self, failure: PartFailed) -> None:
        """Waits until enough memory is free or the run should stop.

        Args:
            failure: Failure of the part that died.

        Raises:
            OutOfMemory: Memory stayed short for half an hour.
        """
        if self._clock is None:
            self._clock = AwakeClock()
            self._say(f"{failure}; the run waits for memory, and then goes on")
        pause = time.monotonic() + (_PAUSE_ON_CLUSTER_SECONDS if self._needed is None else 0)
        while (self.is_short or time.monotonic() < pause) and not self._stopping():
            if self._clock.seconds() > _WAIT_SECONDS:
                minutes = _WAIT_SECONDS / 60
                raise OutOfMemory(f"{failure}; there was no memory for {minutes:.0f} minutes")
            time.sleep(_LOOK_SECONDS)

    def trains(self) -> None:
        """Notes that the run trains again, so that memory is no longer short."""
        if self._clock is not None:
            self._clock = None
            self._say("there is memory again: the run goes on")
