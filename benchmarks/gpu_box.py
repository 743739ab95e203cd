"""One machine with a GPU and many cores: speed of the learner step and of a whole run.

The run learns Twinkle with the actors on all cores, as `pianist train` starts it.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import environment, learner
from benchmarks.rounds import announce, machine
from benchmarks.watched_run import read_status

_FLAGS = (
    *("--environment-name", "RoboPianist-debug-TwinkleTwinkleRousseau-v0", "--preset", "gpu-box"),
    *("--trim-silence", "--gravity-compensation", "--reduced-action-space"),
    *("--action-reward-observation", "--primitive-fingertip-collisions"),
    *("--eval-interval", "25000", "--record-every", "1000"),
    *("--max-steps", "1000000000", "--record-resolution", "48", "64"),
)
_WANTED = ("f1", "note_f1")
_REACHED = 0.9
_LOOK_SECONDS = 0.5
_START_SECONDS = 300.0
_SETTLED = 1 / 4
"""Share of the log lines at the beginning that does not count for the speed."""


def measure(rounds: int, seconds: float, minutes: float) -> dict[str, Any]:
    """Measures the learner step alone, one core's environments, and a run.

    Args:
        rounds: Number of rounds of the first two measurements.
        seconds: Seconds per measurement of the first two.
        minutes: Minutes of the run.

    Returns:
        `learner_steps_alone_per_second`; `one_core_per_second`, environment steps of a whole actor
        on one core; `run`, see `train`; `of_the_cores`, environment steps per core of the run,
        relative to those of one core alone.
    """
    run = train(minutes)  # First, because JAX in this process keeps GPU memory.
    announce("the learner step alone")
    step = 1000 / learner.step_milliseconds(rounds, seconds)
    announce("one core's environments")
    one_core = environment.whole_actor_per_second(rounds, seconds)
    cores = len(os.sched_getaffinity(0))
    return {
        "machine": machine(),
        "cores": cores,
        "learner_steps_alone_per_second": step,
        "one_core_per_second": one_core,
        "run": run,
        "of_the_cores": run["environment_steps_per_second"] / (cores * one_core),
    }


def train(minutes: float) -> dict[str, Any]:
    """Runs a training and observes it.

    Returns:
        Environment steps and learner steps per second after the first quarter of the log lines; the
        share of its time that the learner waited for data; the time at which frame F1 and
        note-event F1 first reached 0.9, in seconds since the first environment step (None if
        never); all evaluations.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "gpu-box"
        command = [
            *(sys.executable, "-m", "pianist", "train", "--root-dir", folder, "--name", run.name),
            *(*_FLAGS, "--max-minutes", str(minutes)),
        ]
        started = time.time()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while not read_status(run)["environment_steps"]:
                if process.poll() is not None or time.time() - started > _START_SECONDS:
                    process.terminate()
                    raise RuntimeError("the run did not start")
                time.sleep(_LOOK_SECONDS)
            begun = time.time()
            if process.wait(timeout=60 * minutes + _START_SECONDS):
                raise RuntimeError("the run failed")
        lines = [json.loads(line) for line in (run / "logbook.jsonl").open()]
        actors = read_status(run)["actors_wanted"]
    return {"actors": actors, "seconds_to_start": begun - started} | summary(lines, begun)


def summary(lines: list[dict[str, Any]], begun: float) -> dict[str, Any]:
    """Computes the results of `train` that come from the logbook.

    Args:
        lines: Lines of the logbook.
        begun: Time of the first environment step, in Unix seconds.
    """
    trained = [line for line in lines if line["learner_steps"] and "replay/size" in line]
    first, last = trained[round(_SETTLED * len(trained))], trained[-1]
    evaluations = [line for line in lines if "eval/f1" in line]

    def rate(name: str) -> float:
        return float((last[name] - first[name]) / (last["time"] - first["time"]))

    return {
        "learner_steps_per_second": rate("learner_steps"),
        "environment_steps_per_second": rate("environment_steps"),
        "learner_waiting": float(
            np.mean([line.get("learner/waiting_fraction", 0.0) for line in trained])
        ),
        "seconds_to": {
            name: next(
                (line["time"] - begun for line in evaluations if line[f"eval/{name}"] >= _REACHED),
                None,
            )
            for name in _WANTED
        },
        "evaluations": [
            {
                "seconds": line["time"] - begun,
                "environment_steps": line["environment_steps"],
                "learner_steps": line["learner_steps"],
                **{name: line[f"eval/{name}"] for name in _WANTED},
            }
            for line in evaluations
        ],
    }
