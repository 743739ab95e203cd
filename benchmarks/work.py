"""What a process did while it was measured."""

from typing import NamedTuple

import psutil


class Work(NamedTuple):
    """What one process did while it was measured."""

    transitions: int
    """Written."""
    processor_seconds: float
    """Of all its threads, Reverb's own among them."""


def processor_seconds(process: psutil.Process) -> float:
    """That all threads of a process have taken so far."""
    return float(sum(process.cpu_times()[:2]))


def own_processor_seconds() -> float:
    """That all threads of this process have taken so far."""
    return processor_seconds(psutil.Process())
