"""`pianist bench`: one benchmark, all its sides in one run."""

import dataclasses
from typing import Any, Literal

import tyro

from replay.errors import require_range


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """Measures a part beside what it would replace, in alternating rounds; prints medians."""

    what: tyro.conf.Positional[Literal["environment", "render"]]
    """environment: control steps a second; render: seconds for a video."""
    rounds: int = 5
    """Rounds that count; one more comes first."""
    seconds: float = 3.0
    """Of each measurement, where it can be chosen."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require_range(self, "rounds", least=1, most=100)
        require_range(self, "seconds", least=0.1, most=600)


def bench(config: BenchConfig) -> dict[str, Any]:
    """Runs the benchmark; returns its figures by name."""
    if config.what == "environment":
        from benchmarks import environment

        return environment.measure(config.rounds, config.seconds)
    from benchmarks import render

    return render.measure(config.rounds)
