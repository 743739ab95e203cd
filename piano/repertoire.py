"""The songs of a run, and the one table that all observations refer to."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.errors import require
from piano.config import EnvironmentConfig
from piano.scene import Scene
from piano.song import Song
from piano.task_spec import Score, TaskSpec, make_score


class Repertoire:
    """Songs that one policy plays.

    Args:
        songs: at least one.
        config: of every environment.

    Raises:
        BadInput: some songs have annotated fingering and others none, so that observations
            would differ.
    """

    def __init__(self, songs: Sequence[Song], config: EnvironmentConfig):
        self.songs = tuple(songs)
        self._config = config
        self._scores = scores = [make_score(song, config) for song in songs]
        for song, score in zip(songs, scores, strict=True):
            require(
                score.features.shape[1] == scores[0].features.shape[1],
                f"{songs[0].title} and {song.title} cannot be learnt together: only one of them "
                "has annotated fingering; --disable-fingering-reward makes them alike",
            )
        self.table = self._table(scores)
        """(rows, features) uint8, see `learner.observation.assemble`; a block a song."""
        ends = np.cumsum([config.frame_stack - 1 + len(score.features) for score in scores])
        self._first_rows = [
            int(end) - len(score.features) for end, score in zip(ends, scores, strict=True)
        ]

    def held_table(self, hold: int) -> np.ndarray:
        """The table of the same songs, if each note ended `hold` control steps later."""
        return self._table([make_score(song, self._config, hold) for song in self.songs])

    def due_keys(self, number: int) -> np.ndarray:
        """What is due at each control step of a song, (T, 88) bool."""
        return self._scores[number].keys

    def _table(self, scores: Sequence[Score]) -> np.ndarray:
        # Rows of zeros belong to the empty frames before an episode begins.
        empty = self._config.frame_stack - 1
        return np.concatenate([np.pad(score.features, ((empty, 0), (0, 0))) for score in scores])

    @property
    def title(self) -> str:
        """The songs' titles."""
        return " + ".join(song.title for song in self.songs)

    @functools.cached_property
    def scene(self) -> Scene:
        """Of hands and piano, the same for all songs; built when first asked for."""
        return Scene(self.songs[0], self._config)

    def __getstate__(self) -> dict[str, Any]:
        """With the scene, so that no process has to build them that this is sent to."""
        return self.__dict__ | {"scene": self.scene}

    def piano(self, number: int) -> TaskSpec:
        """The model of a song; numbers beyond the last song begin again with the first."""
        number %= len(self.songs)
        return TaskSpec(self.scene, self._scores[number], self._config, self._first_rows[number])
