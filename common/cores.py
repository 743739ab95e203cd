"""The assignment of a machine's processor cores to processes.

Learner and actors that all run at full speed would compete for the cores of one machine. The
compiled update splits every product over all cores, and then waits for the part whose core the
physics has taken. With one of two cores for each side, the learner makes 1.8 times as much
progress.
"""

import os
from collections.abc import Collection
from typing import NamedTuple


class Processors(NamedTuple):
    """The threads and cores that a process plays on."""

    threads: int = 1
    """Number of threads that play side by side."""
    cores: Collection[int] = ()
    """Cores that all of these threads share; empty means all cores."""


ONE_THREAD = Processors()


def available_cores() -> list[int]:
    """Returns the cores that this thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS does not say which.


def pin_to(cores: Collection[int]) -> None:
    """Keeps this thread, and everything that it starts from now on, on these cores.

    Without any cores, all cores may be used. Call it before JAX is used: XLA starts as many threads
    as there are usable cores.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def actors_here(learns_on_cpu: bool) -> int:
    """Returns how many actors, one per core, fit on this machine beside a learner; at least one.

    Args:
        learns_on_cpu: Whether the learner takes its half of the cores. A learner on a GPU needs one
            core, and so do replay server and evaluator together.
    """
    cores = len(available_cores())
    return max(1, cores // 2 if learns_on_cpu else cores - 2)


def split_cores() -> tuple[list[int], list[int]]:
    """Returns the learner's and the actors' half of the usable cores; both empty for one core."""
    cores = available_cores()
    half = (len(cores) + 1) // 2
    return (cores[:half], cores[half:]) if len(cores) > 1 else ([], [])
