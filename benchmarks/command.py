"""`pianist bench`: one benchmark, all its sides in one run."""

import dataclasses
from typing import Any, Literal

import tyro

from common.errors import require, require_range


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """Measures a part beside what it would replace, in alternating rounds; prints medians."""

    what: tyro.conf.Positional[
        Literal["environment", "learner", "replay", "end-to-end", "render", "scale", "gpu-box"]
    ]
    """environment: control steps a second; learner: milliseconds an update; replay: transitions a
    second; end-to-end: a whole training beside the single-process baseline; render: seconds for a
    video; scale: how many actors one replay server, one parameter server and one learner carry;
    gpu-box: what a GPU and all cores beside it do in a training."""
    rounds: int = 5
    """Rounds that count; one more comes first."""
    seconds: float = 3.0
    """Of each measurement, where it can be chosen."""
    actors: tuple[int, ...] = (1, 4, 16, 64, 256)
    """scale: the numbers of actors to be measured; as many run as memory carries."""
    step_milliseconds: float = 2.0
    """scale: what a step of an environment takes."""
    replay_size: int = 200_000
    """end-to-end: transitions in the replay while memory is measured."""
    minutes: float = 5.0
    """gpu-box: of the training."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
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
    """Runs the benchmark; returns its figures by name."""
    # What one of them imports takes seconds.
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
