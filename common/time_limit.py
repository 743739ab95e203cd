"""A limit for calls that know none of their own."""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


def call_with_timeout(seconds: float, call: Callable[..., Value], *arguments: Any) -> Value:
    """What `call(*arguments)` returns or raises, if it does so in time.

    After that a late call continues in a background thread, and its result is dropped.

    Raises:
        TimeoutError: the call took longer.
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
