"""Work and processor time of measured processes."""

from typing import NamedTuple

import psutil


class Work(NamedTuple):
    """Work of one process during a measurement."""

    transitions: int
    """Number of transitions written."""
    processor_seconds: float
    """Processor time of all threads of the process, including Reverb's, in seconds."""


def processor_seconds(process: psutil.Process) -> float:
    """Returns the processor time of all threads of a process so far."""
    return float(sum(process.cpu_times()[:2]))


def own_processor_seconds() -> float:
    """Returns the processor time of all threads of this process so far."""
    return processor_seconds(psutil.Process())
