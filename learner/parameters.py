"""Publishes versioned policy parameters from the learner to the actors.

The parameters pass through Ray's object store.
"""

import asyncio
import threading
from typing import Any, NamedTuple

import ray

Parameters = Any
"""Parameters of a network as flax keeps them: arrays in nested dictionaries."""


class ParameterServer:
    """Holds the newest policy parameters, as an asynchronous Ray actor in a process of its own.

    Only references pass through the server. The arrays lie in Ray's object store, one copy per
    node, and processes read them there without copying. The server drops older versions at once.
    """

    def __init__(self) -> None:
        self._newest = Published(-1, 0.0, [])
        self._published = asyncio.Condition()

    async def publish(self, newest: "Published") -> None:
        """Makes parameters the newest ones."""
        async with self._published:
            self._newest = newest
            self._published.notify_all()

    async def version(self) -> int:
        """Returns the version of the newest parameters; -1 before the first."""
        return self._newest.version

    async def newer_than(self, version: int, seconds: float) -> "Published | None":
        """Waits for parameters newer than `version`, and returns them, or None after `seconds`."""
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
    """Parameters in Ray's object store."""

    version: int
    """Learner step that the parameters come from."""
    time: float
    """Time of publication, in Unix seconds."""
    reference: list[ray.ObjectRef]
    """One reference to the parameters, in a list so that Ray passes it on without resolving it."""


class Arrived(NamedTuple):
    """Parameters that have arrived in this process."""

    version: int
    """Learner step that the parameters come from."""
    published: float
    """Time of publication, in Unix seconds."""
    parameters: Parameters
    """Parameters as NumPy arrays."""


class ParameterSubscription:
    """An actor's connection to the parameter server.

    A thread always has a request under way, so the actor never waits.

    Args:
        server: Handle of the `ParameterServer` actor.
    """

    _REQUEST_SECONDS = 30.0
    _ANSWER_SECONDS = 120.0

    def __init__(self, server: Any):
        self._server = server
        self._newest: Arrived | None = None
        self._error: ray.exceptions.RayError | None = None
        threading.Thread(target=self._listen, name="parameters", daemon=True).start()

    def newest(self) -> Arrived | None:
        """Returns the newest parameters, or None before the first.

        Raises:
            ray.exceptions.RayError: The server is gone.
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
        except ray.exceptions.RayError as error:  # `newest` raises it.
            self._error = error
