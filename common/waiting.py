"""Waiting for the parts of a run: as long as something moves, and not in silence."""

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
"""Takes the place of a part's name for Ray's own processes."""
_SAY_SECONDS = 5.0
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 5.0
# A part on this machine that has used next to nothing of a processor for so long does not move.
_STILL_SECONDS = 60.0
# Of a processor, by one thread. Ray's own threads in a part that waits use less in a minute; the
# lowest priority beside other programs gives more.
_MOVED_SECONDS = 0.5


class Stopped(Exception):
    """The run is to end, and what was waited for has not come."""


def to_standard_error(line: str) -> None:
    """Prints a line for people."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def said_if_long(
    what: str, say: Callable[[str], None] = to_standard_error, seconds: float = _SAY_SECONDS
) -> Iterator[None]:
    """Says once what is waited for, if the block takes long.

    Args:
        what: is waited for.
        say: takes a line for people, on another thread.
        seconds: after which it is said.
    """
    timer = threading.Timer(seconds, say, [f"waiting for {what}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Patience:
    """Decides whether a part may still be waited for. `look` has to be called every few seconds.

    A part on this machine may be waited for as long as it moves: as long as a thread of it uses
    some processor time, or waits for the disk. Of one elsewhere only the seconds are known. The
    time in which this process was stopped does not count.

    Args:
        part: the name of its class.
        what: is wrong, if it does not answer.
        seconds: to wait at most for a part elsewhere.
        most_used: seconds of processor time after which a part that moves is given up, too.
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
        """Looks whether the part moves.

        Raises:
            PartFailed: it has not moved for too long.
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
        """Whether a thread has used some processor time since one last had."""
        now: dict[tuple[int, int], float] = {}
        waits_for_disk = False
        for process in processes_of(self._part):
            with contextlib.suppress(psutil.Error):
                waits_for_disk |= process.status() == psutil.STATUS_DISK_SLEEP
                now |= _processor_seconds(process)
        self._is_here |= bool(now)
        # What is new counts from its second look on: workers that die as they start do not move.
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
    """By process and thread; of the whole process where its threads are not shown, as on macOS."""
    try:
        return {
            (process.pid, thread.id): thread.user_time + thread.system_time
            for thread in process.threads()
        }
    except psutil.AccessDenied:
        return {(process.pid, 0): sum(process.cpu_times()[:2])}


def processes_of(part: str) -> list[psutil.Process]:
    """Processes below this one that run a part, and those below them.

    While there are none, these are the workers of Ray that may become it. With `RAY` they are all.

    Args:
        part: the name of its class.
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
    """The future's value.

    Args:
        future: of a call of a part.
        part: the name of its class.
        what: is wrong, if there is none.
        seconds: see `Patience`.
        most_used: see `Patience`.
        stopping: whether the run is to end, so that nothing is waited for any more.

    Raises:
        PartFailed: saying `what`, if the part failed, died, or does not move.
        OutOfMemory: if Ray ended it for lack of memory.
        BadInput: raised by the part.
        UnhealthyStep: raised by the learner.
        Stopped: the run is to end.
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
