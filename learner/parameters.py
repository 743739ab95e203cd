"""From the learner to the actors: versioned policy parameters in Ray's object store."""

import asyncio
import threading
from typing import Any, NamedTuple

import ray

Parameters = Any
"""Of a network, as flax has them: arrays in nested dictionaries."""


class ParameterServer:
    """Holds the newest policy parameters (an asynchronous Ray actor, a process of its own).

    Only references pass through it: the arrays lie in Ray's object store, one copy a node,
    and are read there without copying. Older versions are let go at once.
    """

    def __init__(self) -> None:
        self._newest = Published(-1, 0.0, [])
        self._published = asyncio.Condition()

    async def publish(self, newest: "Published") -> None:
        """Makes parameters the newest."""
        async with self._published:
            self._newest = newest
            self._published.notify_all()

    async def version(self) -> int:
        """Of the newest parameters; -1 before the first."""
        return self._newest.version

    async def newer_than(self, version: int, seconds: float) -> "Published | None":
        """Parameters newer than `version`, as soon as there are any; None after `seconds`."""
        async with self._published:
            try:
                await asyncio.wait_for(
                    self._published.wait_for(lambda: self._newest.version != version),
                    timeout=seconds,
                )
            except asyncio.TimeoutError:
                return None
            return self._newest


class Published(NamedTuple):
    """Parameters in the object store."""

    version: int
    """The learner step they come from."""
    time: float
    """When they were published, in Unix seconds."""
    reference: list[ray.ObjectRef]
    """One reference, in a list so that Ray passes it on unread."""


class Arrived(NamedTuple):
    """Parameters that are here."""

    version: int
    """The learner step they come from."""
    published: float
    """When they were published, in Unix seconds."""
    parameters: Parameters
    """As NumPy's arrays."""


class ParameterSubscription:
    """An actor's end: a thread always has a request under way, so that the actor never waits.

    Args:
        server: handle of the `ParameterServer` actor.
    """

    _REQUEST_SECONDS = 30.0
    _ANSWER_SECONDS = 120.0

    def __init__(self, server: Any):
        self._server = server
        self._newest: Arrived | None = None
        self._error: ray.exceptions.RayError | None = None
        threading.Thread(target=self._listen, name="parameters", daemon=True).start()

    def newest(self) -> Arrived | None:
        """The newest parameters; None before the first.

        Raises:
            ray.exceptions.RayError: the server is gone.
        """
        if self._error is not None:
            raise self._error
        return self._newest

    def _listen(self) -> None:
        version = -1
        try:
            while True:
                request = self._server.newer_than.remote(version, self._REQUEST_SECONDS)
                answer = ray.get(request, timeout=self._ANSWER_SECONDS)
                if answer is not None:
                    version, published, (reference,) = answer
                    parameters = ray.get(reference, timeout=self._ANSWER_SECONDS)
                    self._newest = Arrived(version, published, parameters)
        except ray.exceptions.RayError as error:  # Raised when parameters are asked for.
            self._error = error
