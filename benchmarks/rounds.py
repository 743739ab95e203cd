"""Fair comparisons on noisy machines: all sides in turn, again and again, medians."""

import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Callable
from typing import Any


def alternate(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Measures every side once a round; returns each one's median.

    Args:
        sides: by name, what measures a side and returns its figure.
        rounds: how often; one more round comes first and does not count.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            figure = measure()
            if number:
                figures[name].append(figure)
            print(f"round {number} of {rounds}: {name} {figure:.4g}", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in figures.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "cores": len(os.sched_getaffinity(0))}
