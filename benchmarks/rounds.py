"""Fair comparisons on noisy machines: medians over rounds in which all sides take turns."""

import pathlib
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

from common.cores import available_cores

Figures = dict[str, float]


def alternate(sides: Mapping[str, Callable[[], Figures]], rounds: int) -> dict[str, Figures]:
    """Measures every side once per round.

    Args:
        sides: Functions, by name of the side, that measure the side and return its figures.
        rounds: Number of rounds that count; one more round comes first and does not count.

    Returns:
        Medians of the figures by name of the side.
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
    """Prints progress to standard error, since standard output is for the answer."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describes the machine on which the figures were measured."""
    model = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"processor": model, "cores": len(available_cores())}
