"""Transitions per second through the replay: Reverb and the queue in memory."""

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, Literal

import ray

from benchmarks.delivery import deliver, process_of, receiving
from benchmarks.rounds import Figures, alternate, machine
from benchmarks.twinkle import load_repertoire, played_episode
from benchmarks.written_episode import EpisodeWriter
from common import ray_session
from replay.config import ReplayConfig
from training.parts import remote, start_replay

_KEPT = 100_000
_WAIT_SECONDS = 120.0


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures one writer in a separate process and one reader, in alternating rounds.

    Writer and reader limit each other, see `benchmarks.delivery`.

    Args:
        rounds: Number of rounds that count.
        seconds: Seconds per measurement.

    Returns:
        Figures of `benchmarks.delivery.deliver` for `reverb` and `memory`, rounds and machine.
    """
    episode = played_episode(load_repertoire().piano(0))
    kinds: tuple[Literal["reverb", "memory"], ...] = ("reverb", "memory")
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
        contextlib.ExitStack() as stack,
    ):
        sides: dict[str, Callable[[], Figures]] = {}
        for kind in kinds:
            replay = start_replay(
                ReplayConfig(replay=kind, update_to_data_ratio="free", replay_capacity=_KEPT)
            )
            writer = remote(EpisodeWriter, num_cpus=0).remote(replay, episode)
            receiver = stack.enter_context(receiving(replay))
            server = process_of(replay.servers[0])
            write = functools.partial(_write, writer, seconds)
            sides[kind] = functools.partial(deliver, write, receiver, server)
        measured = alternate(sides, rounds)
    return measured | {"rounds": rounds, "machine": machine()}


def _write(writer: Any, seconds: float) -> list[Any]:
    return [ray.get(writer.write.remote(seconds), timeout=_WAIT_SECONDS + 10 * seconds)]
