"""The pool: as many actors as are wanted, each always at work, the dead replaced."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ray

from actors.actor import CollectReport


@dataclasses.dataclass
class _Member:
    handle: Any
    future: ray.ObjectRef
    has_reported: bool = False


class ActorPool:
    """Keeps actors collecting.

    Args:
        start: makes the actor of a number, counted up without end, and returns its handle.
        size: actors wanted.
        slice_seconds: how long an actor plays between reports.
        announce: takes a line for people.
    """

    _FAILURES_ALLOWED = 3

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
        self._members: list[_Member] = []
        for _ in range(size):
            self._add()

    @property
    def running(self) -> int:
        """Actors that have reported at least once."""
        return sum(member.has_reported for member in self._members)

    @property
    def futures(self) -> list[ray.ObjectRef]:
        """One a member; ready when the member has something to report."""
        return [member.future for member in self._members]

    def reports(self) -> list[CollectReport]:
        """Reports that have come in, without waiting; their actors play on, the dead are replaced.

        Raises:
            RuntimeError: new actors die before their first report, again and again.
        """
        ready, _ = ray.wait(self.futures, num_returns=len(self._members), timeout=0)
        reports = []
        for member in [member for member in self._members if member.future in ready]:
            try:
                reports.append(ray.get(member.future))
            except ray.exceptions.RayError as error:
                self._replace(member, error)
            else:
                member.has_reported = True
                self._failures_at_start = 0
                member.future = member.handle.collect.remote(self._slice_seconds)
        return reports

    def stop(self) -> None:
        """Ends all actors at once."""
        for member in self._members:
            ray.kill(member.handle)
        self._members = []

    def _add(self) -> None:
        handle = self._start(self._started)
        self._started += 1
        self._members.append(_Member(handle, handle.collect.remote(self._slice_seconds)))

    def _replace(self, member: _Member, error: Exception) -> None:
        ray.kill(member.handle)
        self._members.remove(member)
        if not member.has_reported:
            self._failures_at_start += 1
            if self._failures_at_start >= self._FAILURES_ALLOWED:
                raise RuntimeError(
                    f"{self._failures_at_start} actors in a row died before they could play"
                ) from error
        self._announce(f"an actor died and is replaced: {str(error).strip().splitlines()[-1]}")
        self._add()
