"""Recordings of evaluations, which the evaluator makes while a run goes on."""

import contextlib
import pathlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle

from actors.evaluator import Evaluation
from common.files import write_files
from common.waiting import get_result
from piano.config import RecordingConfig
from training.logbook import Logbook


class _Recording(NamedTuple):
    """Sound and pictures under way."""

    evaluation: pathlib.Path
    """Folder of the evaluation."""
    folder: pathlib.Path
    """Within it, of the song."""
    environment_steps: int


class Recordings:
    """Sound and pictures under way.

    Args:
        config: Camera, size, quality and sound.
        logbook: Shows the videos.
        writing: Surrounds the writing of each; given what is written, for people.
    """

    def __init__(
        self,
        config: RecordingConfig,
        logbook: Logbook,
        writing: Callable[[str], AbstractContextManager[Any]] = contextlib.nullcontext,
    ):
        self._config = config
        self._logbook = logbook
        self._writing = writing
        self._pending: dict[ray.ObjectRef, _Recording] = {}
        self.newest: pathlib.Path | None = None
        """Folder of the evaluation that was recorded last, if any was."""

    def begin(self, evaluator: ActorHandle, evaluation: Evaluation, folder: pathlib.Path) -> None:
        """Has all songs of an evaluation recorded.

        Args:
            evaluator: Ray actor of `actors.evaluator.Evaluator`.
            evaluation: By it.
            folder: Of the evaluation.
        """
        for number, song in enumerate(evaluation.songs):
            future = evaluator.record.remote(number, song.performance, self._config)
            self._pending[future] = _Recording(
                folder, folder / song.place, evaluation.environment_steps
            )

    def end(self, seconds: float) -> None:
        """Writes the recordings that are ready, waiting `seconds` at most for all of them.

        Raises:
            PartFailed: The evaluator died, or could not record.
            OSError: A file cannot be written, and `writing` lets this pass.
        """
        pending = list(self._pending)
        if not pending:
            return
        for future in ray.wait(pending, num_returns=len(pending), timeout=seconds)[0]:
            recording = self._pending.pop(future)
            files = get_result(future, "Evaluator", "a recording failed")
            with self._writing("recordings"):
                write_files(recording.folder, files)
            self.newest = recording.evaluation
            if all(other.evaluation != recording.evaluation for other in self._pending.values()):
                self._logbook.show_videos(recording.evaluation, recording.environment_steps)

    def drop(self) -> None:
        """Forgets those under way: their evaluator is gone."""
        self._pending.clear()
