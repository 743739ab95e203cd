"""A whole training compared with the single-process baseline: speed, waiting and memory."""

import pathlib
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import ray

from actors.actor import CollectReport
from actors.config import ActorConfig
from benchmarks import baseline
from benchmarks.rounds import Figures, alternate, announce, machine
from benchmarks.twinkle import CONFIG, SONG, load_repertoire, played_episode
from benchmarks.written_episode import write_episodes
from common import ray_session
from common.waiting import get_result
from piano.repertoire import Repertoire
from replay.config import ReplayConfig
from training import parts
from training.config import TrainConfig

_ENVIRONMENTS = 4
_WARM_UP = 1_000
_JOURNAL_ENTRY = 50_000


def measure(rounds: int, seconds: float, replay_size: int) -> dict[str, Any]:
    """Measures both in alternating rounds; our training has four environments.

    Args:
        rounds: Number of rounds that count.
        seconds: Seconds per measurement.
        replay_size: Number of transitions in the replay while memory is measured.

    Returns:
        Environment steps and learner steps per second of both; for our training also
        `learner_waiting`, the share of the learner's time without data; `parameter_delay_ms` from
        publication to first use; and `megabytes`, the memory of all its processes, with shared
        memory counted once.
    """
    config = TrainConfig(
        song=SONG,
        environment=CONFIG,
        actor=ActorConfig(environments_per_actor=_ENVIRONMENTS),
        replay=ReplayConfig(
            update_to_data_ratio="free",
            warmstart_steps=_WARM_UP,
            replay_capacity=replay_size + _WARM_UP,
        ),
    )
    repertoire = load_repertoire()
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
        parts.running(config, 1, repertoire, False, announce) as training,
    ):
        driver_bytes = psutil.Process().memory_full_info().pss  # Excludes the loop below.
        loop = baseline.loop(
            repertoire.songs[0], CONFIG, config.learner, seed=0, warm_up_steps=_WARM_UP
        )
        while next(loop).learner_steps < 10:  # Compile and warm up.
            pass
        while not _ours(training, parts.SLICE_SECONDS)["learner_steps_per_second"]:
            announce("warming up")
        measured = alternate(
            {
                "baseline": lambda: _baseline(loop, seconds),
                "ours": lambda: _ours(training, seconds),
            },
            rounds,
        )
        _fill(training, repertoire, replay_size)
        megabytes = (driver_bytes + _bytes_of_children()) / 1e6
    return measured | {
        "learner_waiting": measured["ours"]["learner_waiting"],
        "megabytes": megabytes,
        "environments": _ENVIRONMENTS,
        "replay_size": replay_size,
        "rounds": rounds,
        "machine": machine(),
    }


def _baseline(loop: Any, seconds: float) -> Figures:
    started, number = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        next(loop)
        number += 1
    return {
        "environment_steps_per_second": number / elapsed,
        "learner_steps_per_second": number / elapsed,
    }


def _ours(training: parts.Parts, seconds: float) -> Figures:
    """Measures actors and learner; the actors pause until their reports are taken."""
    training.pool.reports()
    learning = training.learner.learn.remote(seconds)
    reports: list[CollectReport] = []
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds or not reports:
        ray.wait([*training.pool.futures, learning], timeout=parts.SLICE_SECONDS)
        reports += training.pool.reports()
    learnt = get_result(learning, "Learner", "the learner died", 60 + 10 * seconds)
    futures = training.pool.futures
    ray.wait(futures, num_returns=len(futures), timeout=60)
    delays = [delay for report in reports for delay in report.parameter_delays]
    return {
        "environment_steps_per_second": sum(report.steps for report in reports) / elapsed,
        "learner_steps_per_second": learnt.steps / learnt.seconds,
        "learner_waiting": learnt.waiting_seconds / learnt.seconds,
        "parameter_delay_ms": 1000 * statistics.median(delays) if delays else 0.0,
    }


def _fill(training: parts.Parts, repertoire: Repertoire, transitions: int) -> None:
    """Writes `transitions` into the replay, and takes them out as the journal does."""
    episode = played_episode(repertoire.piano(0))
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(write_episodes, training.replay.writer(), episode, transitions)
        is_written = False
        while not is_written:  # The learner only reads while it learns, so it learns once more.
            is_written = written.done()
            learning = training.learner.learn.remote(parts.SLICE_SECONDS)
            get_result(learning, "Learner", "the learner died")
        written.result()
    for server in training.replay.servers:
        while ray.get(server.take_new.remote(_JOURNAL_ENTRY, 0), timeout=60) is not None:
            pass


def _bytes_of_children() -> int:
    """Returns the memory of all child processes; shared memory is divided among them."""
    processes = psutil.Process().children(recursive=True)
    return sum(process.memory_full_info().pss for process in processes)
