"""A clock that stands still while its process does."""

import time


class AwakeClock:
    """Seconds since the clock's creation, without the time in which this process was stopped.

    Ctrl-Z, a debugger or a sleeping laptop stops a process. The result that the process waits for
    may arrive in time and stay unseen meanwhile. Read the clock every few seconds: at most
    `longest_step` seconds count between two readings.

    Args:
        longest_step: Most seconds that count between two readings.
    """

    def __init__(self, longest_step: float = 5.0):
        self._longest_step = longest_step
        self._read = time.monotonic()
        self._seconds = 0.0

    def seconds(self) -> float:
        """Reads the clock and returns its seconds."""
        now = time.monotonic()
        self._seconds += min(now - self._read, self._longest_step)
        self._read = now
        return self._seconds
