"""Recordings of evaluations, which the evaluator makes during training."""

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
    """A pending recording of one song."""

    evaluation: pathlib.Path
    """Folder of the evaluation."""
    folder: pathlib.Path
    """Folder of the song within `evaluation`."""
    environment_steps: int


class Recordings:
    """The pending recordings of a run.

    Args:
        config: Camera, size, quality and sound of the recordings.
        logbook: Logbook that shows the videos in Weights & Biases.
        writing: Function that returns the context for writing files. Its argument names the data
            that is written.
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
        """Folder of the last evaluation that was recorded; None if there is none."""

    def begin(self, evaluator: ActorHandle, evaluation: Evaluation, folder: pathlib.Path) -> None:
        """Starts the recording of all songs of an evaluation.

        Args:
            evaluator: Ray actor of `actors.evaluator.Evaluator`.
            evaluation: Evaluation that the evaluator returned.
            folder: Folder of the evaluation.
        """
        for number, song in enumerate(evaluation.songs):
            future = evaluator.record.remote(number, song.performance, self._config)
            self._pending[future] = _Recording(
                folder, folder / song.subfolder, evaluation.environment_steps
            )

    def end(self, seconds: float) -> None:
        """Waits at most `seconds` for all recordings, and writes those that are ready.

        Raises:
            PartFailed: The evaluator died or could not record.
            OSError: A file cannot be written, and `writing` does not catch the error.
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
        """Discards all pending recordings after their evaluator has died."""
        self._pending.clear()
