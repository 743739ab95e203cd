"""From the learner to the actors: versioned policy parameters in Ray's object store."""

import asyncio
import time
from typing import Any

import ray


class ParameterServer:
    """Holds the newest policy parameters (an asynchronous Ray actor, a process of its own).

    Only references pass through it: the arrays lie in Ray's object store, one copy a node,
    and are read there without copying. Older versions are let go at once.
    """

    def __init__(self) -> None:
        self._version = -1
        self._reference: list[ray.ObjectRef] = []
        self._published = asyncio.Condition()

    async def publish(self, version: int, reference: list[ray.ObjectRef]) -> None:
        """Makes parameters the newest.

        Args:
            version: the learner step they come from.
            reference: one reference, in a list so that Ray passes it on unread.
        """
        async with self._published:
            self._version, self._reference = version, reference
            self._published.notify_all()

    async def newer_than(
        self, version: int, seconds: float
    ) -> tuple[int, list[ray.ObjectRef]] | None:
        """Parameters newer than `version`, as soon as there are any; None after `seconds`."""
        async with self._published:
            try:
                await asyncio.wait_for(
                    self._published.wait_for(lambda: self._version != version), timeout=seconds
                )
            except asyncio.TimeoutError:
                return None
            return self._version, self._reference


class ParameterSubscription:
    """An actor's end: always a request under way, never a wait for it.

    Args:
        server: handle of the `ParameterServer` actor.
    """

    _REQUEST_SECONDS = 30.0
    _LOOK_SECONDS = 0.05  # Looking takes half a millisecond.

    def __init__(self, server: Any):
        self._server = server
        self.version = -1
        """Version of the parameters got last; -1 before the first."""
        self._look_again = 0.0
        self._request()

    def latest(self) -> Any | None:
        """Parameters newer than those got last, as NumPy arrays; None if there are none."""
        if time.monotonic() < self._look_again:
            return None
        self._look_again = time.monotonic() + self._LOOK_SECONDS
        if not ray.wait([self._pending], timeout=0)[0]:
            return None
        answer = ray.get(self._pending)
        parameters = None
        if answer is not None:
            self.version, (reference,) = answer
            parameters = ray.get(reference, timeout=self._REQUEST_SECONDS)
        self._request()
        return parameters

    def _request(self) -> None:
        self._pending = self._server.newer_than.remote(self.version, self._REQUEST_SECONDS)
