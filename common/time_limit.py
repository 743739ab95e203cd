"""A time limit for calls that have none of their own."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


def call_with_timeout(seconds: float, call: Callable[..., Value], *arguments: Any) -> Value:
    """Returns what `call(*arguments)` returns, or raises what it raises, if it does so in time.

    A late call continues in a background thread, and its result is dropped.

    Raises:
        TimeoutError: The call took longer than `seconds`.
    """
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(*arguments), None))
        except BaseException as error:  # Raised below, in the caller's thread.
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if error is not None:
        raise error
    return value
