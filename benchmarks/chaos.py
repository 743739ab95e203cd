"""Faults in a running training: measures lost steps and time to recovery.

python -m benchmarks.chaos runs/chaos --faults 40 --json

A schedule from a random seed kills parts (SIGKILL), stops them (SIGSTOP) and starves them (stops
them nine tenths of the time). The driver is one of the parts: after it is killed, the benchmark
resumes the run as a user would.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psutil
import tyro

from benchmarks.rounds import announce
from benchmarks.watched_run import CHIMES, read_status
from learner import checkpoint
from replay import journal

DRIVER = "driver"
PARTS = ("Actor", "ReplayServer", "ParameterServer", "Learner", "Evaluator", DRIVER)
_KINDS = ("kill", "stop", "starve")
_STARVED = 0.9
_PERIOD_SECONDS = 0.1
_LOOK_SECONDS = 0.1
_START_SECONDS = 180.0
_END_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class ChaosConfig:
    """Trains while parts of the run fail, and measures the losses."""

    folder: tyro.conf.Positional[pathlib.Path]
    """Folder for the run, which must not exist yet."""
    faults: int = 40
    """Number of faults, one after the other."""
    seed: int = 0
    """Random seed of the schedule."""
    longest_stop: float = 90.0
    """Longest time, in seconds, for which a part is stopped; a part is starved for at most a third
    of it."""
    settled_seconds: float = 5.0
    """Seconds without faults between two faults."""
    json: bool = False
    """Print the answer as JSON."""


class Fault(NamedTuple):
    """One fault of the schedule."""

    part: str
    kind: str
    seconds: float
    """Seconds for which the part is stopped or starved; 0 if it is killed."""


class Outcome(NamedTuple):
    """Consequences of a fault."""

    part: str
    kind: str
    seconds: float
    back_seconds: float
    """Seconds from the end of the fault until the part ran and actors and learner made progress."""
    learner_steps_lost: int
    steps_since_checkpoint: int
    """Environment steps at the time of the fault, minus those of the newest checkpoint."""


def schedule(faults: int, seed: int, longest_stop: float) -> list[Fault]:
    """Returns faults with every part and kind equally often, in random order."""
    generator = random.Random(seed)
    whole: list[Fault] = []
    while len(whole) < faults:
        pairs = [(part, kind) for part in PARTS for kind in _KINDS]
        generator.shuffle(pairs)
        for part, kind in pairs:
            most = {"kill": 0.0, "stop": longest_stop, "starve": longest_stop / 3}[kind]
            whole.append(Fault(part, kind, generator.uniform(most / 10, most)))
    return whole[:faults]


class Training:
    """A run that is observed and disturbed.

    Args:
        folder: Parent folder of the run's folder.
        flags: Flags of `pianist train` for a new run.
    """

    def __init__(self, folder: pathlib.Path, flags: Sequence[Any]):
        self._folder = folder
        self._flags = [str(flag) for flag in flags]
        self.run = folder / "chaos"
        self._process: subprocess.Popen[bytes] | None = None
        self._steps = 0
        self.went_back = 0
        """Number of times that the count of environment steps decreased."""
        self.fewest_learner_steps = 0
        """Lowest count of learner steps seen; assign the current count to restart the search."""

    def start(self) -> None:
        """Starts the run, or resumes it if it exists."""
        which = ["--resume", self.run] if self.run.exists() else ["--name", "chaos", *self._flags]
        command = [sys.executable, "-m", "pianist", "train", "--root-dir", self._folder, *which]
        self._log = (self._folder / "output.txt").open("ab")
        self._process = subprocess.Popen(
            [str(word) for word in command], stdout=self._log, stderr=self._log
        )

    def status(self) -> dict[str, Any]:
        """Reads the status of the run, and updates the observed counts."""
        status = read_status(self.run)
        self.went_back += status["environment_steps"] < self._steps
        self._steps = max(self._steps, status["environment_steps"])
        self.fewest_learner_steps = min(self.fewest_learner_steps, status["learner_steps"])
        return status

    def wait_for_progress(self, seconds: float, part: str, gone: int = 0) -> None:
        """Waits until a part runs, and then until both actors and learner make progress.

        Args:
            seconds: Time limit in seconds.
            part: Part to wait for.
            gone: Process id of the part that was killed; another process must replace it.

        Raises:
            RuntimeError: There was no progress in time, or the run has ended.
        """
        deadline = time.monotonic() + seconds
        since: dict[str, Any] | None = None
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the run has ended; see {self._log.name}")
            status = self.status()
            if any(process.pid != gone for process in self.processes(part)):
                if since is None or status["learner_steps"] < since["learner_steps"]:
                    since = status
                if status["state"] == "training" and all(
                    status[count] > since[count] for count in ("environment_steps", "learner_steps")
                ):
                    return
        raise RuntimeError(f"no progress within {seconds:.0f} s; see {self._log.name}")

    def steps_since_checkpoint(self) -> int:
        """Returns the environment steps so far, minus those of the newest checkpoint."""
        saved = 0
        for newest in checkpoint.list_checkpoints(self.run / "checkpoints")[-1:]:
            saved = checkpoint.load_description(newest)["environment_steps"]
        return int(self.status()["environment_steps"]) - saved

    def processes(self, part: str) -> list[psutil.Process]:
        """Returns the processes of a part, which Ray names after it."""
        assert self._process is not None
        driver = psutil.Process(self._process.pid)
        if part == DRIVER:
            return [driver]
        found = []
        for process in driver.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(f"ray::{part}"):
                    found.append(process)
        return found

    def strike(self, fault: Fault) -> int:
        """Applies the fault to one process of the part.

        Returns:
            The process id if the process was killed, else 0.

        Raises:
            RuntimeError: The part has no process.
        """
        processes = self.processes(fault.part)
        if not processes:
            raise RuntimeError(f"there is no {fault.part}")
        process = processes[0]
        with contextlib.suppress(psutil.NoSuchProcess):
            match fault.kind:
                case "kill":
                    process.kill()
                case "stop":
                    with _stopped(process):
                        self.watch(fault.seconds)
                case _:
                    end = time.monotonic() + fault.seconds
                    while time.monotonic() < end:
                        with _stopped(process):
                            time.sleep(_STARVED * _PERIOD_SECONDS)
                        time.sleep((1 - _STARVED) * _PERIOD_SECONDS)
        if fault.part == DRIVER and fault.kind == "kill":
            assert self._process is not None
            self._process.wait(timeout=_END_SECONDS)
            self._log.close()
            self.start()
        return process.pid if fault.kind == "kill" else 0

    def end(self) -> int:
        """Ends the run as a user would, and returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=_END_SECONDS)
        self._log.close()
        return code

    def close(self) -> None:
        """Kills the run if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=_END_SECONDS)
            self._log.close()

    def watch(self, seconds: float) -> None:
        """Observes the counts for `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.status()
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def chaos(
    folder: pathlib.Path,
    faults: Sequence[Fault],
    flags: Sequence[Any],
    settled_seconds: float,
) -> dict[str, Any]:
    """Trains, applies faults, and measures their consequences.

    Args:
        folder: Folder for the run and its output.
        faults: Faults in their order.
        flags: Flags of `pianist train`.
        settled_seconds: Seconds without faults between two faults.

    Returns:
        `outcomes`, one per fault; `steps_went_back`, the number of times that the count of
        environment steps decreased; `environment_steps`, the transitions written; `in_journal`,
        the transitions in the journal; `exit_code`.

    Raises:
        RuntimeError: The run ended, or made no progress in time.
    """
    folder.mkdir(parents=True)
    training = Training(folder, flags)
    with contextlib.closing(training):
        return _strike_in_turn(training, faults, settled_seconds)


def _strike_in_turn(
    training: Training, faults: Sequence[Fault], settled_seconds: float
) -> dict[str, Any]:
    training.start()
    training.wait_for_progress(_START_SECONDS, "Evaluator")
    outcomes = []
    for number, fault in enumerate(faults, start=1):
        training.watch(settled_seconds)
        before = training.status()["learner_steps"]
        training.fewest_learner_steps = before
        since_checkpoint = training.steps_since_checkpoint()
        started = time.monotonic()
        gone = training.strike(fault)
        training.wait_for_progress(_START_SECONDS, fault.part, gone)
        back = time.monotonic() - started - fault.seconds
        lost = before - training.fewest_learner_steps
        outcome = Outcome(*fault, back, lost, since_checkpoint)
        outcomes.append(outcome)
        announce(
            f"{number} of {len(faults)}: {fault.kind} {fault.part} {fault.seconds:.0f} s, back "
            f"after {back:.1f} s, {outcome.learner_steps_lost} learner steps lost"
        )
    code = training.end()
    return {
        "outcomes": [outcome._asdict() for outcome in outcomes],
        "steps_went_back": training.went_back,
        "environment_steps": training.status()["environment_steps"],
        "in_journal": journal.count(journal.entries(training.run / "replay")),
        "exit_code": code,
    }


def table(answer: dict[str, Any]) -> str:
    """Formats the outcomes as a Markdown table for docs/guides/reliability.md."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for outcome in answer["outcomes"]:
        rows.setdefault((outcome["part"], outcome["kind"]), []).append(outcome)
    lines = [
        "| part | fault | times | back after, s, median and most | learner steps lost, most |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (part, kind), outcomes in sorted(rows.items()):
        back = [outcome["back_seconds"] for outcome in outcomes]
        lost = max(outcome["learner_steps_lost"] for outcome in outcomes)
        lines.append(
            f"| {part} | {kind} | {len(outcomes)} | {statistics.median(back):.1f}, "
            f"{max(back):.1f} | {lost} |"
        )
    return "\n".join(lines)


def main(config: ChaosConfig) -> None:
    """Runs the full benchmark: the chimes with the settings of `make train`."""
    answer = chaos(
        config.folder,
        schedule(config.faults, config.seed, config.longest_stop),
        [*CHIMES, "--max-steps", 50_000_000, "--eval-interval", 5_000],
        config.settled_seconds,
    )
    print(json.dumps(answer, indent=2) if config.json else table(answer))


if __name__ == "__main__":
    main(tyro.cli(ChaosConfig))
