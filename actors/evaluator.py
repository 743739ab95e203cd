"""The evaluator: plays a checkpoint by its most central actions, and measures it."""

import json
import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from actors.environment import PianoEnvironment
from actors.episode import play
from actors.metrics import metrics
from actors.performance import Performance
from actors.repertoire import Repertoire
from learner import checkpoint
from learner.config import SACConfig
from learner.policy import Policy
from replay.transition import Observation


class Evaluation(NamedTuple):
    """What an evaluation found."""

    folder: pathlib.Path
    """With metrics.json and, of each performance, performance.npz."""
    performances: list[pathlib.Path]
    """Folders of the performances, a song each: `folder` itself, or below it if several."""
    environment_steps: int
    """Of the checkpoint."""
    learner_steps: int
    """Of the checkpoint."""
    metrics: dict[str, float | None]
    """By name, see `actors.metrics`; None where there is no value."""

    def files(self) -> dict[str, str]:
        """Paths of all that is in the folder, by their names in it."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): str(path) for path in found}


class Evaluator:
    """Plays a repertoire (in a process of its own, a Ray actor, beside training).

    Args:
        repertoire: to be played.
        agent_config: of the policy's network.
        niceness: how far this process gives way to others, 0 to 19.
    """

    def __init__(self, repertoire: Repertoire, agent_config: SACConfig, niceness: int = 0):
        os.nice(niceness)
        self._songs = repertoire.songs
        self._table = repertoire.table
        self._environments = [
            PianoEnvironment(repertoire.piano(i)) for i in range(len(repertoire.songs))
        ]
        self._agent_config = agent_config

    def evaluate(
        self, checkpoint_folder: pathlib.Path, output: pathlib.Path, episodes: int = 1
    ) -> Evaluation:
        """Plays and measures.

        Args:
            checkpoint_folder: whose policy plays.
            output: a folder of the checkpoint's name is made in it, with metrics.json and the
                first episode's performance.npz, from which `actors.recording` makes sound and
                pictures; of several songs each has a folder of its own in there.
            episodes: of each song; the metrics are means over all.

        Raises:
            BadInput: the checkpoint is damaged or of another network.
        """
        piano = self._environments[0].piano
        policy = Policy.load(
            checkpoint_folder, self._agent_config, piano.layout, piano.action_dim, self._table
        )
        description = checkpoint.load_description(checkpoint_folder)
        steps = {
            name: int(description.get(name, 0)) for name in ("environment_steps", "learner_steps")
        }

        def act(observation: Observation) -> np.ndarray:
            return policy.mode(observation.batch_of_one())[0]

        folder = output / checkpoint_folder.name
        folders, performances = [], []
        for song, environment in zip(self._songs, self._environments, strict=True):
            played = [play(environment, act) for _ in range(episodes)]
            folders.append(folder / song.title if len(self._songs) > 1 else folder)
            folders[-1].mkdir(parents=True, exist_ok=True)
            played[0].save(folders[-1] / "performance.npz")
            _write_metrics(folders[-1], mean_metrics(played) | steps)
            performances += played
        values = mean_metrics(performances)
        _write_metrics(folder, values | steps)
        return Evaluation(folder, folders, metrics=values, **steps)


def _write_metrics(folder: pathlib.Path, values: dict[str, float | None]) -> None:
    (folder / "metrics.json").write_text(json.dumps(values, indent=2))


def mean_metrics(performances: list[Performance]) -> dict[str, float | None]:
    """Means over performances, of those that have a value; None where none has."""
    all_values = [metrics(performance) for performance in performances]
    means: dict[str, float | None] = {}
    for name in all_values[0]:
        values = [value[name] for value in all_values if not math.isnan(value[name])]
        means[name] = float(np.mean(values)) if values else None
    return means
