"""Waiting for memory, of this machine or container."""

import time
from collections.abc import Callable

from common.clock import AwakeClock
from common.errors import OutOfMemory, PartFailed
from common.memory import free

_WAIT_SECONDS = 1800.0
_LOOK_SECONDS = 1.0
_PAUSE_ON_CLUSTER_SECONDS = 15.0
# Learner, evaluator, replay server and parameter server; and an actor (docs/guides/reliability.md).
_BYTES_OF_RUN = 1.1e9
_BYTES_OF_ACTOR = 0.3e9


def needed_by(actors: int) -> float:
    """Bytes that the processes of a run take, roughly, without what is in its replay."""
    return _BYTES_OF_RUN + actors * _BYTES_OF_ACTOR


class MemoryWait:
    """Waits for memory after a part was ended for lack of it, and says so once.

    Args:
        needed: bytes that have to be free on this machine; None where the parts run on others,
            whose memory is not seen: then a pause has to do.
        say: takes a line for people.
        stopping: whether the run is to end.
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
        """Whether this machine has less than the run needs, or than half of all there is."""
        if self._needed is None:
            return False
        now, whole = free()
        return now < min(self._needed, whole / 2)

    def wait(self, failure: PartFailed) -> None:
        """Waits until there is memory, or the run is to end.

        Raises:
            OutOfMemory: there was too little for half an hour.
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
        """The run trains: there is memory."""
        if self._clock is not None:
            self._clock = None
            self._say("there is memory again: the run goes on")
