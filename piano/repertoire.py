"""The songs of a run and the table of features that all observations refer to."""

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
    """The songs that one policy plays.

    Args:
        songs: Songs to play, at least one.
        config: Settings of every environment.

    Raises:
        BadInput: Only some songs have annotated fingering, so their observations would differ.
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
        """Table of features, (rows, features) uint8, with one block of rows per song. See
        `learner.observation.assemble`."""
        ends = np.cumsum([config.frame_stack - 1 + len(score.features) for score in scores])
        self._first_rows = [
            int(end) - len(score.features) for end, score in zip(ends, scores, strict=True)
        ]

    def held_table(self, hold: int) -> np.ndarray:
        """Returns the table for notes that end `hold` control steps later.

        Args:
            hold: Number of control steps; negative for notes that end earlier.
        """
        return self._table([make_score(song, self._config, hold) for song in self.songs])

    def due_keys(self, number: int) -> np.ndarray:
        """Returns the keys due at each control step of a song, (T, 88) bool.

        Args:
            number: Index of the song.
        """
        return self._scores[number].keys

    def _table(self, scores: Sequence[Score]) -> np.ndarray:
        # The rows of zeros stand for the empty frames before an episode begins.
        empty = self._config.frame_stack - 1
        return np.concatenate([np.pad(score.features, ((empty, 0), (0, 0))) for score in scores])

    @property
    def title(self) -> str:
        """Titles of the songs, joined by plus signs."""
        return " + ".join(song.title for song in self.songs)

    @functools.cached_property
    def scene(self) -> Scene:
        """Scene with hands and piano, shared by all songs and built on first access."""
        return Scene(self.songs[0], self._config)

    def __getstate__(self) -> dict[str, Any]:
        """Includes the scene, so that processes that receive this object need not build it."""
        return self.__dict__ | {"scene": self.scene}

    def piano(self, number: int) -> TaskSpec:
        """Returns the task specification of a song.

        Args:
            number: Index of the song. Numbers past the last song wrap around to the first.
        """
        number %= len(self.songs)
        return TaskSpec(self.scene, self._scores[number], self._config, self._first_rows[number])
