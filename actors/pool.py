"""The pool: keeps as many actors as wanted at work, and replaces dead ones."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import ray

from actors.actor import CollectReport
from common.clock import AwakeClock
from common.errors import OutOfMemory, PartFailed
from common.ray_errors import part_failed


@dataclasses.dataclass
class _Member:
    handle: Any
    placed: ray.ObjectRef
    future: ray.ObjectRef
    has_reported: bool = False
    heard: float = 0.0


class ActorPool:
    """Keeps actors collecting.

    The pool replaces an actor that dies, or that falls silent after it has played. If new actors
    die before they can play, the pool waits longer and longer before it tries the next one, so that
    one bad machine does not end a run. It gives up only if no actor has ever played.

    Args:
        start: Function that starts the actor with the given number, and returns its handle. The
            numbers count up without end.
        size: Number of actors wanted.
        slice_seconds: Seconds that an actor plays between reports.
        announce: Function that takes a line for users.
    """

    _FAILURES_ALLOWED = 3
    _SILENT_SECONDS = 120.0
    _LONGEST_PAUSE_SECONDS = 300.0
    _MEMORY_PAUSE_SECONDS = 10.0

    def __init__(
        self,
        start: Callable[[int], Any],
        size: int,
        slice_seconds: float,
        announce: Callable[[str], None],
    ):
        self._start = start
        self._slice_seconds = slice_seconds
        self._announce = announce
        self._started = 0
        self._failures_at_start = 0
        self._has_played = False
        self._not_before = 0.0
        self._is_short_of_memory = False
        self._clock = AwakeClock()
        self._members: list[_Member] = []
        self.wanted = 0
        """Number of actors wanted."""
        self.resize(size)

    @property
    def placed(self) -> int:
        """Number of actors whose process is running and ready."""
        placed = [member.placed for member in self._members if not member.has_reported]
        return self.running + len(
            ray.wait(placed, num_returns=len(placed), timeout=0)[0] if placed else []
        )

    @property
    def running(self) -> int:
        """Number of actors that have reported at least once."""
        return sum(member.has_reported for member in self._members)

    @property
    def futures(self) -> list[ray.ObjectRef]:
        """One future per member, ready when the member has something to report."""
        return [member.future for member in self._members]

    def resize(self, size: int) -> None:
        """Changes the number of actors wanted: starts more, or ends the ones that came last."""
        self.wanted = size
        self._members.sort(key=lambda member: not member.has_reported)
        for member in self._members[size:]:
            ray.kill(member.handle)
        del self._members[size:]
        self._fill()

    def reports(self) -> list[CollectReport]:
        """Returns the reports that have come in, without waiting.

        Actors that have reported play on, and dead actors are replaced.

        Raises:
            PartFailed: New actors die repeatedly before any actor has reported.
        """
        reports, now = [], self._clock.seconds()
        futures = self.futures
        ready = set(ray.wait(futures, num_returns=len(futures), timeout=0)[0] if futures else [])
        for member in list(self._members):
            if member.future in ready:
                try:
                    reports.append(ray.get(member.future))
                except ray.exceptions.RayError as error:
                    self._remove(member, part_failed("an actor died", error))
                else:
                    member.has_reported, member.heard = True, now
                    self._failures_at_start, self._has_played = 0, True
                    member.future = member.handle.collect.remote(self._slice_seconds)
            elif member.has_reported and now - member.heard > self._SILENT_SECONDS:
                silence = f"an actor was silent for {self._SILENT_SECONDS:.0f} s"
                self._remove(member, PartFailed(silence))
        self._is_short_of_memory &= self.running < self.wanted
        self._fill()
        return reports

    def stop(self) -> None:
        """Ends all actors at once."""
        self.resize(0)

    def _fill(self) -> None:
        while len(self._members) < self.wanted and time.monotonic() >= self._not_before:
            handle = self._start(self._started)
            self._started += 1
            ready = handle.__ray_ready__.remote()
            self._members.append(_Member(handle, ready, handle.collect.remote(self._slice_seconds)))

    def _remove(self, member: _Member, failure: PartFailed) -> None:
        ray.kill(member.handle)
        self._members.remove(member)
        pause = 0.0
        if isinstance(failure, OutOfMemory):
            self._wait_for_memory(failure)
            return
        if not member.has_reported:
            self._failures_at_start += 1
            if self._failures_at_start >= self._FAILURES_ALLOWED:
                if not self._has_played:
                    raise PartFailed(
                        f"{self._failures_at_start} actors in a row died before they could play: "
                        f"{failure}"
                    )
                pause = min(2.0**self._failures_at_start, self._LONGEST_PAUSE_SECONDS)
                self._not_before = time.monotonic() + pause
        when = f"in {pause:.0f} s" if pause else "now"
        self._announce(f"{failure}; it is replaced {when}")

    def _wait_for_memory(self, failure: OutOfMemory) -> None:
        """Postpones replacements until there may be memory again, and announces that once."""
        if not self._has_played:
            raise failure
        self._not_before = time.monotonic() + self._MEMORY_PAUSE_SECONDS
        if not self._is_short_of_memory:
            self._is_short_of_memory = True
            self._announce(f"{failure}; it is replaced when there is memory")
