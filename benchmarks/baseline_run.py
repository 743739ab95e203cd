"""Training with the loop of `benchmarks.baseline`, with the logs of `pianist train`.

python -m benchmarks.baseline_run --minutes 40 --seed 1 --folder runs/evidence/baseline-1
"""

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import tyro

from actors.evaluator import mean_metrics
from benchmarks import baseline
from benchmarks.twinkle import CONFIG, load_repertoire
from common.files import write_json
from learner.config import LearnerConfig
from learner.networks import Parameters
from learner.policy import Policy
from piano.environment import PianoEnvironment
from piano.episode import play
from piano.performance import Performance
from replay.transition import Observation


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of the command."""

    folder: pathlib.Path
    """Folder for logbook.jsonl and for done.json, which is written last."""
    minutes: float = 40.0
    """Minutes of training, without the time of evaluations."""
    seed: int = 1
    """Random seed of the training."""
    eval_minutes: float = 1.0
    """Minutes of training between evaluations."""


def main(arguments: Arguments) -> None:
    """Trains on Twinkle Twinkle with the settings of robopianist's authors."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config, repertoire = LearnerConfig(), load_repertoire()
    environment = PianoEnvironment(repertoire.piano(0))
    steps = baseline.loop(repertoire.songs[0], CONFIG, config, arguments.seed)
    seconds, next_evaluation = 0.0, 60 * arguments.eval_minutes
    with (arguments.folder / "logbook.jsonl").open("w", buffering=1) as logbook:
        while seconds < 60 * arguments.minutes:
            started = time.monotonic()
            progress = next(steps)
            seconds += time.monotonic() - started
            if seconds < next_evaluation:
                continue
            next_evaluation += 60 * arguments.eval_minutes
            played = _perform(environment, repertoire.table, progress.actor)
            metrics = {f"eval/{name}": value for name, value in mean_metrics([played]).items()}
            line = {
                "seconds": round(seconds, 3),
                "environment_steps": progress.environment_steps,
                "learner_steps": progress.learner_steps,
            }
            logbook.write(json.dumps(line | metrics) + "\n")
    write_json(arguments.folder / "done.json", {"seconds": seconds})


def _perform(environment: PianoEnvironment, table: np.ndarray, actor: Parameters) -> Performance:
    """Plays one episode deterministically."""
    parameters = jax.device_get(actor)
    policy = Policy(LearnerConfig().agent_config, environment.piano.layout, table, parameters)

    def act(observation: Observation) -> np.ndarray:
        return policy.mode(observation.batch_of_one())[0]

    return play(environment, act)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
