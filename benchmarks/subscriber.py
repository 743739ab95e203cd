"""Stands in for an actor that waits for parameters. Apart, since it is to be small: 256 run."""

import time
from typing import Any

from learner.parameters import ParameterSubscription


class Subscriber:
    """Takes parameters as an actor does, and notes when they came.

    Args:
        server: handle of the `ParameterServer` actor.
    """

    _LOOK_SECONDS = 0.02

    def __init__(self, server: Any):
        self._subscription = ParameterSubscription(server)

    def wait(self, version: int, seconds: float) -> float:
        """When parameters of this version were there, on the machine's monotonic clock.

        Args:
            version: newer than all that have been waited for.
            seconds: to wait at most.

        Raises:
            TimeoutError: they did not come in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            newest = self._subscription.newest()
            if newest is not None and newest.version == version:
                return time.monotonic()
            time.sleep(self._LOOK_SECONDS)
        raise TimeoutError(f"no parameters of version {version} within {seconds:.0f} s")
