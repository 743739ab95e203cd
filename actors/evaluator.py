"""The evaluator: plays a checkpoint by its deterministic actions, measures and records it."""

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
"""Metrics by name, see `piano.metrics`; None for a metric without a value."""


class SongEvaluation(NamedTuple):
    """The results of an evaluation on one song."""

    subfolder: str
    """Folder within the evaluation's folder: "." for a single song, otherwise the song's title."""
    performance: Performance
    """First performance of the song."""
    metrics: Metrics
    """Means over all performances of the song."""


class Evaluation(NamedTuple):
    """The results of an evaluation."""

    checkpoint: str
    """Name of the checkpoint."""
    environment_steps: int
    """Environment steps of the checkpoint."""
    learner_steps: int
    """Learner steps of the checkpoint."""
    metrics: Metrics
    """Means over all performances of all songs."""
    songs: list[SongEvaluation]

    def write(self, parent: pathlib.Path) -> pathlib.Path:
        """Writes a folder with the checkpoint's name into `parent`, and returns its path.

        The folder holds metrics.json and, for a single song, performance.npz. With several songs,
        each song has both files in a folder of its own within this one.
        """
        folder = parent / self.checkpoint
        steps = {"environment_steps": self.environment_steps, "learner_steps": self.learner_steps}
        for song in self.songs:
            (folder / song.subfolder).mkdir(parents=True, exist_ok=True)
            song.performance.save(folder / song.subfolder / "performance.npz")
            write_json(folder / song.subfolder / "metrics.json", song.metrics | steps)
        write_json(folder / "metrics.json", self.metrics | steps)
        return folder


class Evaluator:
    """Plays a repertoire beside training, as a Ray actor on a CPU in a process of its own.

    Args:
        repertoire: Repertoire to play.
        agent_config: Settings of the policy's network.
        niceness: Niceness of this process, 0 to 19: how far it gives way to other processes.
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
        """Plays the songs with a checkpoint's policy, and measures the performances.

        Args:
            saved: Checkpoint whose policy plays.
            episodes: Number of performances of each song; the metrics are means over all of them.

        Raises:
            BadInput: The checkpoint is damaged or of another network.
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
            subfolder = song.title if len(self._songs) > 1 else "."
            songs.append(SongEvaluation(subfolder, played[0], mean_metrics(played)))
            performances += played
        return Evaluation(saved.name, metrics=mean_metrics(performances), songs=songs, **steps)

    def record(
        self, song: int, performance: Performance, config: RecordingConfig
    ) -> dict[str, bytes]:
        """Records sound and pictures of a performance; see `piano.recording.record`.

        Args:
            song: Number of the song in the repertoire.
            performance: Performance of that song.
            config: Camera, size, quality and sound of the recording.
        """
        return recording.record(performance, self._environments[song].piano, config)

    def what_is_missing(self) -> list[str]:
        """Returns what recordings lack; see `piano.recording.what_is_missing`."""
        return recording.what_is_missing()


def mean_metrics(performances: list[Performance]) -> Metrics:
    """Returns means over the performances that have a value; None where none has one."""
    all_values = [metrics(performance) for performance in performances]
    means: Metrics = {}
    for name in all_values[0]:
        values = [value[name] for value in all_values if not math.isnan(value[name])]
        means[name] = float(np.mean(values)) if values else None
    return means
