"""The command `pianist bench`, which runs one benchmark with all its sides."""

import dataclasses
from typing import Any, Literal

import tyro

from common.errors import require, require_range


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """Measures a part and its alternatives in alternating rounds, and prints medians."""

    what: tyro.conf.Positional[
        Literal["environment", "learner", "replay", "end-to-end", "render", "scale", "gpu-box"]
    ]
    """Benchmark to run. environment: control steps per second; learner: milliseconds per update;
    replay: transitions per second; end-to-end: a whole training compared with the single-process
    baseline; render: seconds for a video; scale: number of actors that one replay server, one
    parameter server and one learner can serve; gpu-box: speed of a training on a GPU and all
    cores."""
    rounds: int = 5
    """Number of rounds that count; one more warm-up round comes first."""
    seconds: float = 3.0
    """Seconds per measurement, for benchmarks of adjustable length."""
    actors: tuple[int, ...] = (1, 4, 16, 64, 256)
    """Numbers of actors to measure, as far as memory allows (scale only)."""
    step_milliseconds: float = 2.0
    """Milliseconds that a step of an environment takes (scale only)."""
    replay_size: int = 200_000
    """Number of transitions in the replay while memory is measured (end-to-end only)."""
    minutes: float = 5.0
    """Minutes of training (gpu-box only)."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        require_range(self, "rounds", least=1, most=100)
        require_range(self, "seconds", least=0.1, most=600)
        require_range(self, "replay_size", least=1)
        require_range(self, "minutes", least=0.1, most=600)
        require_range(self, "step_milliseconds", least=0.1, most=1000, unit="ms")
        require(
            len(self.actors) > 0 and all(1 <= number <= 4096 for number in self.actors),
            f"--actors is {self.actors}, must be one or more of 1 to 4096",
        )


def bench(config: BenchConfig) -> dict[str, Any]:
    """Runs the benchmark, and returns its figures by name."""
    # Each benchmark is imported only if it runs, because its imports take seconds.
    if config.what == "environment":
        from benchmarks import environment

        return environment.measure(config.rounds, config.seconds)
    if config.what == "learner":
        from benchmarks import learner

        return learner.measure(config.rounds, config.seconds)
    if config.what == "replay":
        from benchmarks import replay

        return replay.measure(config.rounds, config.seconds)
    if config.what == "end-to-end":
        from benchmarks import end_to_end

        return end_to_end.measure(config.rounds, config.seconds, config.replay_size)
    if config.what == "scale":
        from benchmarks import scale

        return scale.measure(
            config.rounds, config.seconds, config.actors, config.step_milliseconds / 1000
        )
    if config.what == "gpu-box":
        from benchmarks import gpu_box

        return gpu_box.measure(config.rounds, config.seconds, config.minutes)
    from benchmarks import render

    return render.measure(config.rounds)
