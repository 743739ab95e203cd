"""Which of a machine's processor cores a process works on.

Learner and actors that both run as fast as they can would fight over the cores of one machine: the
compiled update splits every product over all of them, and then waits for the part whose core was
taken by the physics. On two cores, each side on one of its own, the learner gets 1.8 times as far.
"""

import os
from collections.abc import Collection
from typing import NamedTuple


class Processors(NamedTuple):
    """What a process plays on."""

    threads: int = 1
    """That play side by side."""
    cores: Collection[int] = ()
    """On which all of them play; none means all."""


ONE_THREAD = Processors()


def available_cores() -> list[int]:
    """Cores that this thread may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS does not say.


def pin_to(cores: Collection[int]) -> None:
    """Keeps this thread, and all that it starts from now on, to these cores; none means all.

    It has to come before JAX is used: XLA starts as many threads as there are usable cores.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def actors_here(learns_on_cpu: bool) -> int:
    """How many actors, a core each, this machine has room for beside a learner; at least one.

    Args:
        learns_on_cpu: whether the learner takes its half of the cores. On a GPU it needs one, as
            do replay server and evaluator.
    """
    cores = len(available_cores())
    return max(1, cores // 2 if learns_on_cpu else cores - 2)


def split_cores() -> tuple[list[int], list[int]]:
    """The usable cores in two halves, the learner's and the actors'; empty if there is but one."""
    cores = available_cores()
    half = (len(cores) + 1) // 2
    return (cores[:half], cores[half:]) if len(cores) > 1 else ([], [])
