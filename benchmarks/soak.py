"""A long training that is checked for growing memory, open files and lost speed.

python -m benchmarks.soak runs/soak --minutes 60 --json
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import psutil
import tyro

from benchmarks.rounds import announce
from benchmarks.watched_run import CHIMES, read_status

_EDGE = 1 / 6
"""Share of the time, at the beginning and at the end, over which throughput is compared."""
_SETTLED = 1 / 3
"""Share of the time at the beginning in which memory may grow: the replay and caches fill."""
_END_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class SoakConfig:
    """Trains for a long time, and measures every process regularly."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Folder for the run, which must not exist yet."""
    minutes: float = 60.0
    """Minutes of training."""
    every: float = 20.0
    """Seconds between two measurements."""
    json: bool = False
    """Print the answer as JSON."""


class Look(NamedTuple):
    """Measurement of one process."""

    minutes: float
    """Minutes since training began."""
    megabytes: float
    """Memory of the process that is not shared, in megabytes."""
    open_files: int


def soak(config: SoakConfig) -> dict[str, Any]:
    """Trains and measures.

    Returns:
        `processes`, by name: `megabytes` at the end, `megabytes_an_hour` (slope of a line through
        the measurements after the first third), `open_files` after the first third and at the end,
        and all `looks`. `steps_a_second` and `updates_a_second`: values in the first and in the
        last sixth of the time, and their ratio.

    Raises:
        RuntimeError: The run ended too early or with an error.
    """
    config.folder.mkdir(parents=True)
    run = config.folder / "soak"
    command = [
        *(sys.executable, "-m", "pianist", "train", "--root-dir", config.folder, "--name", "soak"),
        *(*CHIMES, "--environments-per-actor", 4, "--replay-capacity", 20_000),
        *("--max-minutes", config.minutes, "--max-steps", 500_000_000, "--eval-interval", 20_000),
    ]
    looks: dict[str, list[Look]] = {}
    counts: list[tuple[float, int, int]] = []
    started: float | None = None
    with (
        (config.folder / "output.txt").open("wb") as log,
        subprocess.Popen([str(word) for word in command], stdout=log, stderr=log) as process,
    ):
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(config.every if started is not None else 0.5)
            status = read_status(run)
            if status["state"] != "training" or not status["learner_steps"]:
                continue
            started = time.monotonic() if started is None else started
            minutes = (time.monotonic() - started) / 60
            counts.append((minutes, status["environment_steps"], status["learner_steps"]))
            for name, look in _look(driver, minutes):
                looks.setdefault(name, []).append(look)
            if len(counts) % 15 == 0:
                announce(f"{minutes:.0f} of {config.minutes:g} min")
        code = process.wait(timeout=_END_SECONDS)
    if code or not counts or counts[-1][0] < 0.8 * config.minutes:
        raise RuntimeError(f"the run ended with exit code {code}; see {log.name}")
    return summary(looks, counts)


def summary(looks: dict[str, list[Look]], counts: list[tuple[float, int, int]]) -> dict[str, Any]:
    """Computes the answer of `soak`.

    Args:
        looks: Measurements of each process, in chronological order.
        counts: Minutes, environment steps and learner steps, in chronological order.
    """
    end = counts[-1][0]
    processes = {}
    for name, of_one in looks.items():
        settled = [look for look in of_one if look.minutes >= _SETTLED * end]
        if len(settled) < 3:  # The process ended early or began late.
            continue
        hours = np.array([look.minutes for look in settled]) / 60
        megabytes = np.array([look.megabytes for look in settled])
        processes[name] = {
            "megabytes": float(megabytes[-1]),
            "megabytes_an_hour": float(np.polyfit(hours, megabytes, 1)[0]),
            "open_files": [settled[0].open_files, settled[-1].open_files],
            "looks": [look._asdict() for look in of_one],
        }
    answer: dict[str, Any] = {"minutes": end, "processes": processes}
    for column, name in ((1, "steps_a_second"), (2, "updates_a_second")):
        first = _rate([row for row in counts if row[0] <= _EDGE * end], column)
        last = _rate([row for row in counts if row[0] >= (1 - _EDGE) * end], column)
        answer[name] = {"first": first, "last": last, "ratio": last / first}
    return answer


def table(answer: dict[str, Any]) -> str:
    """Formats the processes as a Markdown table for docs/guides/reliability.md."""
    lines = [
        "| process | MB at the end | MB an hour | open files |",
        "| --- | --- | --- | --- |",
    ]
    for name, facts in sorted(answer["processes"].items()):
        first, last = facts["open_files"]
        lines.append(
            f"| {name} | {facts['megabytes']:.0f} | {facts['megabytes_an_hour']:+.1f} | "
            f"{first}, {last} |"
        )
    for name in ("steps_a_second", "updates_a_second"):
        rates = answer[name]
        lines.append(
            f"\n{name.replace('_', ' ')}: {rates['first']:.1f} in the first sixth of the "
            f"{answer['minutes']:.0f} minutes, {rates['last']:.1f} in the last, which is "
            f"{rates['ratio']:.2f} of it"
        )
    return "\n".join(lines)


def _rate(rows: list[tuple[float, int, int]], column: int) -> float:
    (begin, *_), (end, *_) = rows[0], rows[-1]
    return float((rows[-1][column] - rows[0][column]) / (60 * (end - begin)))


def _look(driver: psutil.Process, minutes: float) -> list[tuple[str, Look]]:
    """Measures the driver and all its child processes; the names are the same in every call."""
    found = []
    for process in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            name = "driver" if process == driver else re.sub(r"^ray::|[^\w].*$", "", process.name())
            megabytes = process.memory_full_info().uss / 1e6
            found.append((f"{name} {process.pid}", Look(minutes, megabytes, process.num_fds())))
    return found


def main(config: SoakConfig) -> None:
    """Runs the benchmark, and prints its answer."""
    answer = soak(config)
    print(json.dumps(answer, indent=2) if config.json else table(answer))


if __name__ == "__main__":
    main(tyro.cli(SoakConfig))
