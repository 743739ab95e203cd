"""The signals that end a run."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from common import terminal


class StopSignals:
    """Notes a signal that asks the run to end, so that it saves its state first.

    Args:
        say: Function that prints a line for people.
        saves: Function that returns whether the run has a state to save.
    """

    def __init__(self, say: Callable[[str], None], saves: Callable[[], bool]):
        self._say = say
        self._saves = saves
        self._received = False

    def received(self) -> bool:
        """Returns whether a signal has arrived."""
        return self._received

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles ending signals in the block: the second one ends the process immediately."""

        def stop(number: int, _frame: Any) -> None:
            self._received = True
            terminal.let_go(number)
            saves = ": saving a checkpoint (again to leave at once)" if self._saves() else ""
            self._say(f"stopping{saves}")
            for other in before:
                signal.signal(other, terminal.end)

        before = {number: signal.signal(number, stop) for number in terminal.ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
