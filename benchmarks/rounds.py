"""Fair comparisons on noisy machines: all sides in turn, again and again, medians."""

import pathlib
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

from common.cores import available_cores

Figures = dict[str, float]


def alternate(sides: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, Figures]:
    """Measures every side once a round; returns the median of each of its figures.

    Args:
        sides: by name, what measures a side and returns its figures.
        rounds: how often; one more round comes first and does not count.
    """
    measured: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, measure in sides.items():
            figures = measure()
            if number:
                measured[name].append(figures)
            shown = ", ".join(f"{value:.4g} {unit}" for unit, value in figures.items())
            announce(f"round {number} of {rounds}: {name}: {shown}")
    return {
        name: {unit: statistics.median(row[unit] for row in rows) for unit in rows[0]}
        for name, rows in measured.items()
    }


def announce(line: str) -> None:
    """Tells people how far it is; standard output is for the answer."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "cores": len(available_cores())}
