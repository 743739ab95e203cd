"""Transitions a second through both doors of the replay: Reverb, and the table in memory."""

import functools
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from benchmarks.rounds import Figures, alternate, machine
from benchmarks.stand_ins import sample
from benchmarks.twinkle import load_repertoire, played_episode
from benchmarks.written_episode import Step, write_episode
from cluster import ray_session
from cluster.parts import start_replay
from replay.client import Replay, Sampler
from replay.config import ReplayConfig
from replay.writer import StepWriter

_BATCH_SIZE = 256
_WARM_UP = 1_000
_WAIT_SECONDS = 10.0


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures one writer and one sampler, alone and beside each other, in alternating rounds.

    Args:
        rounds: that count.
        seconds: of each measurement.

    Returns:
        For `reverb` and `memory`: `writing`, `sampling` and `both`.
    """
    piano = load_repertoire().piano(0)
    episode = played_episode(piano)
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
    ):

        def start(kind: Literal["reverb", "memory"]) -> Replay:
            config = ReplayConfig(
                replay=kind, update_to_data_ratio="free", warmstart_steps=_WARM_UP
            )
            return start_replay(config, piano)

        kinds = {kind: start(kind) for kind in ("reverb", "memory")}
        sides: dict[str, Callable[[], Figures]] = {}
        for kind, replay in kinds.items():
            writer, sampler = replay.writer(), replay.sampler()
            _write(writer, episode, 2 * _WARM_UP, seconds=60.0)
            sides |= {
                f"{kind} writing": functools.partial(_writing, writer, episode, seconds),
                f"{kind} sampling": functools.partial(_sampling, sampler, seconds),
                f"{kind} both": functools.partial(_both, writer, sampler, episode, seconds),
            }
        measured = alternate(sides, rounds)
    return {
        kind: {what: measured[f"{kind} {what}"] for what in ("writing", "sampling", "both")}
        for kind in kinds
    } | {"batch_size": _BATCH_SIZE, "rounds": rounds, "machine": machine()}


def _write(writer: StepWriter, episode: list[Step], most: int, seconds: float) -> int:
    """Writes whole episodes until there are so many transitions, or time is up."""
    written, deadline = 0, time.monotonic() + seconds
    while written < most and time.monotonic() < deadline:
        write_episode(writer, episode)
        written += len(episode)
    writer.wait(_WAIT_SECONDS, everything=True)
    return written


def _writing(writer: StepWriter, episode: list[Step], seconds: float) -> Figures:
    started = time.perf_counter()
    written = _write(writer, episode, 10**9, seconds)
    return {"transitions_per_second": written / (time.perf_counter() - started)}


def _sampling(sampler: Sampler, seconds: float) -> Figures:
    started = time.perf_counter()
    work = sample(sampler, _BATCH_SIZE, seconds)
    return {
        "transitions_per_second": work.transitions / (time.perf_counter() - started),
        "client_microseconds": 1e6 * work.processor_seconds / max(work.transitions, 1),
    }


def _both(writer: StepWriter, sampler: Sampler, episode: list[Step], seconds: float) -> Figures:
    written: list[Figures] = []
    thread = threading.Thread(target=lambda: written.append(_writing(writer, episode, seconds)))
    thread.start()
    sampled = _sampling(sampler, seconds)
    thread.join()
    return {
        "written_per_second": written[0]["transitions_per_second"],
        "sampled_per_second": sampled["transitions_per_second"],
    }
