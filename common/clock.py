"""A clock that stands still while this process does."""

import time


class AwakeClock:
    """Seconds since its creation, without those in which this process was stopped.

    A process is stopped by Ctrl-Z, a debugger or a laptop that sleeps; what it waits for may then
    have come in time, unseen. The clock has to be read every few seconds: of a longer time between
    two readings `longest_step` seconds count.

    Args:
        longest_step: seconds.
    """

    def __init__(self, longest_step: float = 5.0):
        self._longest_step = longest_step
        self._read = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        """Reads the clock."""
        now = time.monotonic()
        self._seconds += min(now - self._read, self._longest_step)
        self._read = now
        return self._seconds
