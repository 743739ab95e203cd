"""A stand-in for an actor that waits for parameters, with few imports because 256 of them run."""

import time
from typing import Any

from learner.parameters import ParameterSubscription


class Subscriber:
    """Takes parameters as an actor does, and records their time of arrival.

    Args:
        server: Handle of the `ParameterServer` actor.
    """

    _LOOK_SECONDS = 0.02

    def __init__(self, server: Any):
        self._subscription = ParameterSubscription(server)

    def wait(self, version: int, seconds: float) -> float:
        """Waits for parameters of a version.

        Args:
            version: Version that is newer than all earlier ones.
            seconds: Time limit in seconds.

        Returns:
            The time of arrival on the machine's monotonic clock, in seconds.

        Raises:
            TimeoutError: The parameters did not arrive in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            newest = self._subscription.newest()
            if newest is not None and newest.version == version:
                return time.monotonic()
            time.sleep(self._LOOK_SECONDS)
        raise TimeoutError(f"no parameters of version {version} within {seconds:.0f} s")
