"""Waits for the parts of a run as long as something moves, and tells the user about long waits."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray

from common import process_logs
from common.clock import AwakeClock
from common.errors import BadInput, OutOfMemory, PartFailed
from common.health import UnhealthyStep
from common.ray_errors import part_failed

ANSWER_SECONDS = 60.0
RAY = "Ray"
"""Name of Ray's own processes, in place of a part's name."""
_SAY_SECONDS = 5.0
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 5.0
# A part on this machine does not move if it has used almost no processor time for so long.
_STILL_SECONDS = 60.0
# Processor seconds of one thread. Ray's own threads in a waiting part use less in a minute. A
# working thread gets more, even at the lowest priority beside other programs.
_MOVED_SECONDS = 0.5


class Stopped(Exception):
    """The run is to end before the awaited result has come."""


def to_standard_error(line: str) -> None:
    """Prints a line for users."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_if_long(
    what: str, say: Callable[[str], None] = to_standard_error, seconds: float = _SAY_SECONDS
) -> Iterator[None]:
    """Says once what the block waits for, if it takes long.

    Args:
        what: Description of what the block waits for.
        say: Function that takes a line for users; called on another thread.
        seconds: Seconds after which it says so.
    """
    timer = threading.Timer(seconds, say, [f"waiting for {what}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Patience:
    """Decides whether to keep waiting for a part. Call `look` every few seconds.

    A part on this machine may take as long as it moves: as long as one of its threads uses some
    processor time or waits for the disk. For a part elsewhere, only the seconds are known. The time
    in which this process was stopped does not count.

    Args:
        part: Name of the part's class.
        what: Description of the failure if the part does not answer.
        seconds: Most seconds to wait for a part elsewhere.
        most_used: Seconds of processor time after which even a part that moves is given up.
    """

    def __init__(
        self,
        part: str,
        what: str,
        seconds: float = ANSWER_SECONDS,
        most_used: float = ANSWER_SECONDS,
    ):
        self._part = part
        self._what = what
        self._seconds = seconds
        self._most_used = most_used
        self._clock = AwakeClock()
        self._looked = self._moved = self._used = 0.0
        self._is_here = False
        self._threads: dict[tuple[int, int], float] = {}

    def look(self) -> None:
        """Checks whether the part moves.

        Raises:
            PartFailed: The part has not moved for too long, or has worked for too long without an
                answer.
        """
        waited = self._clock.seconds()
        if waited - self._looked < _LOOK_SECONDS:
            return
        self._looked = waited
        if self._moves():
            self._moved = waited
        still = waited - self._moved
        limit = min(self._seconds, _STILL_SECONDS) if self._is_here else self._seconds
        if still >= limit:
            known = "and nothing of it moved " if self._is_here else ""
            raise self._failure(f"no answer {known}for {still:.0f} s")
        if self._used > self._most_used and waited >= self._seconds:
            raise self._failure(f"no answer for {waited:.0f} s, though it works")

    def _failure(self, why: str) -> PartFailed:
        of_ray = self._part == RAY
        lines = (
            process_logs.last_lines_of_ray()
            if of_ray
            else process_logs.last_lines_of_part(self._part)
        )
        return PartFailed(f"{self._what}: {why}{lines}")

    def _moves(self) -> bool:
        """Returns whether a thread has used some processor time since the part last moved.

        A part that waits for the disk moves, too.
        """
        now: dict[tuple[int, int], float] = {}
        waits_for_disk = False
        for process in processes_of(self._part):
            with contextlib.suppress(psutil.Error):
                waits_for_disk |= process.status() == psutil.STATUS_DISK_SLEEP
                now |= _processor_seconds(process)
        self._is_here |= bool(now)
        # A new thread counts from its second look on: workers that die as they start do not move.
        used = {
            thread: seconds - self._threads.get(thread, seconds) for thread, seconds in now.items()
        }
        most = max(used.values(), default=0.0)
        if most < _MOVED_SECONDS and not waits_for_disk:
            self._threads = now | self._threads
            return False
        self._used += most
        self._threads = now
        return True


def _processor_seconds(process: psutil.Process) -> dict[tuple[int, int], float]:
    """Returns processor seconds by process and thread.

    Where the threads of a process are hidden, as on macOS, the process counts as one thread.
    """
    try:
        return {
            (process.pid, thread.id): thread.user_time + thread.system_time
            for thread in process.threads()
        }
    except psutil.AccessDenied:
        return {(process.pid, 0): sum(process.cpu_times()[:2])}


def processes_of(part: str) -> list[psutil.Process]:
    """Returns the processes below this one that run a part, and those below them.

    While there are none, it returns the workers of Ray that may become the part. For `RAY` it
    returns all processes below this one.

    Args:
        part: Name of the part's class.
    """
    below = psutil.Process().children(recursive=True)
    if part == RAY:
        return below
    parts, workers = [], []
    for process in below:
        with contextlib.suppress(psutil.Error):
            name = process.name().partition(".")[0]
            if name == f"ray::{part}":
                parts += [process, *process.children(recursive=True)]
            elif name == "ray::IDLE" or any("default_worker" in word for word in process.cmdline()):
                workers.append(process)
    return parts or workers


def _never() -> bool:
    return False


def get_result(
    future: ray.ObjectRef,
    part: str,
    what: str,
    seconds: float = ANSWER_SECONDS,
    most_used: float = ANSWER_SECONDS,
    stopping: Callable[[], bool] = _never,
) -> Any:
    """Waits for a future, and returns its value.

    Args:
        future: Future of a call of a part.
        part: Name of the part's class.
        what: Description of the failure if there is no value.
        seconds: Most seconds to wait for a part elsewhere; see `Patience`.
        most_used: Most seconds of processor time; see `Patience`.
        stopping: Function that returns whether the run is to end, which ends the wait.

    Raises:
        PartFailed: The part failed, died, or does not move; the message contains `what`.
        OutOfMemory: Ray ended the part for lack of memory.
        BadInput: The part raised it.
        UnhealthyStep: The learner raised it.
        Stopped: The run is to end.
    """
    patience = Patience(part, what, seconds, most_used)
    while not ray.wait([future], timeout=_POLL_SECONDS)[0]:
        if stopping():
            raise Stopped
        patience.look()
    try:
        return ray.get(future, timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BadInput | UnhealthyStep):
            raise error.cause from None
        why = str(error.cause) if isinstance(error.cause, PartFailed) else repr(error.cause)
        raise PartFailed(f"{what}: {why}") from error
    except ray.exceptions.RayError as error:
        failure = part_failed(what, error)
        if isinstance(failure, OutOfMemory):
            raise failure from error
        raise PartFailed(f"{failure}{process_logs.last_lines_of_part(part)}") from error
