"""The evaluator: plays a checkpoint by its most central actions, measures and records it."""

import math
import os
import pathlib
from typing import NamedTuple

import numpy as np

from common.files import PackedFolder, write_json
from learner import checkpoint
from learner.config import SACConfig
from learner.device import use_cpu
from learner.policy import Policy
from piano import recording
from piano.config import RecordingConfig
from piano.environment import PianoEnvironment
from piano.episode import play
from piano.metrics import metrics
from piano.performance import Performance
from piano.repertoire import Repertoire
from replay.transition import Observation

Metrics = dict[str, float | None]
"""By name, see `piano.metrics`; None where there is no value."""


class SongEvaluation(NamedTuple):
    """What an evaluation found on one song."""

    place: str
    """Folder within the evaluation's: "." where there is but one song, otherwise its title."""
    performance: Performance
    """The first."""
    metrics: Metrics
    """Means over all performances."""


class Evaluation(NamedTuple):
    """What an evaluation found."""

    checkpoint: str
    """Its name."""
    environment_steps: int
    """Of the checkpoint."""
    learner_steps: int
    """Of the checkpoint."""
    metrics: Metrics
    """Means over all performances."""
    songs: list[SongEvaluation]

    def write(self, parent: pathlib.Path) -> pathlib.Path:
        """Makes a folder of the checkpoint's name, and returns it.

        It holds metrics.json and, of each song, performance.npz; of several songs each has a
        folder of its own in there.
        """
        folder = parent / self.checkpoint
        steps = {"environment_steps": self.environment_steps, "learner_steps": self.learner_steps}
        for song in self.songs:
            (folder / song.place).mkdir(parents=True, exist_ok=True)
            song.performance.save(folder / song.place / "performance.npz")
            write_json(folder / song.place / "metrics.json", song.metrics | steps)
        write_json(folder / "metrics.json", self.metrics | steps)
        return folder


class Evaluator:
    """Plays a repertoire (in a process of its own, a Ray actor on CPU, beside training).

    Args:
        repertoire: to be played.
        agent_config: of the policy's network.
        niceness: how far this process gives way to others, 0 to 19.
    """

    def __init__(self, repertoire: Repertoire, agent_config: SACConfig, niceness: int = 0):
        os.nice(niceness)
        use_cpu()
        self._songs = repertoire.songs
        self._table = repertoire.table
        self._environments = [
            PianoEnvironment(repertoire.piano(i)) for i in range(len(repertoire.songs))
        ]
        self._agent_config = agent_config

    def evaluate(self, saved: PackedFolder, episodes: int = 1) -> Evaluation:
        """Plays and measures.

        Args:
            saved: the checkpoint whose policy plays.
            episodes: of each song; the metrics are means over all.

        Raises:
            BadInput: the checkpoint is damaged or of another network.
        """
        piano = self._environments[0].piano
        policy = Policy.load(saved, self._agent_config, piano.layout, piano.action_dim, self._table)
        description = checkpoint.description_of(saved)
        steps = {
            name: int(description.get(name, 0)) for name in ("environment_steps", "learner_steps")
        }

        def act(observation: Observation) -> np.ndarray:
            return policy.mode(observation.batch_of_one())[0]

        songs, performances = [], []
        for song, environment in zip(self._songs, self._environments, strict=True):
            played = [play(environment, act) for _ in range(episodes)]
            place = song.title if len(self._songs) > 1 else "."
            songs.append(SongEvaluation(place, played[0], mean_metrics(played)))
            performances += played
        return Evaluation(saved.name, metrics=mean_metrics(performances), songs=songs, **steps)

    def record(
        self, song: int, performance: Performance, config: RecordingConfig
    ) -> dict[str, bytes]:
        """Sound and pictures of a performance; see `piano.recording.record`.

        Args:
            song: its number in the repertoire.
            performance: of it.
            config: camera, size, quality and sound.
        """
        return recording.record(performance, self._environments[song].piano, config)

    def what_is_missing(self) -> list[str]:
        """For recordings; see `piano.recording.what_is_missing`."""
        return recording.what_is_missing()


def mean_metrics(performances: list[Performance]) -> Metrics:
    """Means over performances, of those that have a value; None where none has."""
    all_values = [metrics(performance) for performance in performances]
    means: Metrics = {}
    for name in all_values[0]:
        values = [value[name] for value in all_values if not math.isnan(value[name])]
        means[name] = float(np.mean(values)) if values else None
    return means
