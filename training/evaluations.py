"""The evaluations of a training run, which an evaluator plays and records beside the training."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import ray

from actors.evaluator import Evaluation, Metrics
from common.errors import PartFailed
from common.files import paths_of
from common.waiting import get_result
from training.active_run import ActiveRun
from training.config import TrainConfig
from training.parts import Parts
from training.recordings import Recordings

_EVALUATION_SECONDS = 1800.0


class Evaluations:
    """Starts evaluations one at a time, keeps their results, and replaces a failed evaluator.

    Args:
        config: Settings of the run.
        parts: Parts of the run, whose evaluator plays.
        active: Run that keeps the results.
        say: Function that prints a line for people.
    """

    def __init__(
        self,
        config: TrainConfig,
        parts: Parts,
        active: ActiveRun,
        say: Callable[[str], None],
    ):
        self._config = config
        self._parts = parts
        self._active = active
        self._say = say
        self._recordings = Recordings(config.recording, active.logbook, active.writing)
        self._pending: ray.ObjectRef | None = None
        self._since = 0.0
        self._metrics: Metrics | None = None

    @property
    def is_pending(self) -> bool:
        """Whether an evaluation has not ended yet."""
        return self._pending is not None

    def result(self) -> dict[str, Any]:
        """Returns metrics of the last evaluation and files of the last recorded one, if any."""
        result: dict[str, Any] = {}
        if self._metrics is not None:
            result["metrics"] = self._metrics
        if self._recordings.newest is not None:
            result["files"] = paths_of(self._recordings.newest)
        return result

    def begin(self, checkpoint: ray.ObjectRef) -> None:
        """Starts an evaluation.

        Args:
            checkpoint: Reference to the checkpoint to play.
        """
        self._pending = self._parts.evaluator.evaluate.remote(
            checkpoint, self._config.eval_episodes
        )
        self._since = time.monotonic()

    def look(self) -> None:
        """Keeps the results that have arrived, without waiting."""
        self._end(seconds=0)
        self._end_recordings(seconds=0)

    def finish(self, save: Callable[[], ray.ObjectRef]) -> None:
        """Waits for the pending evaluation, then evaluates and records the final policy.

        Args:
            save: Function that saves the final checkpoint and returns a reference to it.
        """
        self._end(_EVALUATION_SECONDS)
        self.begin(save())
        self._end(_EVALUATION_SECONDS, last=True)
        self._end_recordings(_EVALUATION_SECONDS)

    def _end(self, seconds: float, last: bool = False) -> None:
        """Waits `seconds` for the evaluation and keeps its result.

        An evaluation that fails or takes too long leads to a new evaluator.
        """
        if self._pending is None:
            return
        waited = time.monotonic() - self._since + seconds
        if not ray.wait([self._pending], timeout=seconds)[0] and waited < _EVALUATION_SECONDS:
            return
        try:
            evaluation: Evaluation = get_result(self._pending, "Evaluator", "an evaluation failed")
        except PartFailed as failure:
            self._replace_evaluator(failure)
            return
        self._pending = None
        is_recorded = last or self._active.evaluations % self._config.record_every == 0
        self._active.evaluations += 1
        with self._active.writing("evaluations"):
            folder = self._keep(evaluation)
            if is_recorded:
                self._recordings.begin(self._parts.evaluator, evaluation, folder)

    def _keep(self, evaluation: Evaluation) -> pathlib.Path:
        steps, values = evaluation.environment_steps, evaluation.metrics
        folder = self._active.keep(evaluation, steps, evaluation.learner_steps)
        self._metrics = values
        self._say(
            f"evaluation at {steps} steps: note F1 {values['note_f1']:.2f}, "
            f"frame F1 {values['f1']:.2f}, return {values['episode_return']:.1f}"
        )
        return folder

    def _end_recordings(self, seconds: float) -> None:
        """Waits at most `seconds` for all recordings, and writes those that are ready."""
        try:
            self._recordings.end(seconds)
        except PartFailed as failure:
            self._replace_evaluator(failure)

    def _replace_evaluator(self, failure: PartFailed) -> None:
        """Replaces the evaluator and drops its pending work, while training continues."""
        self._say(f"the evaluator is replaced: {failure}")
        self._parts.replace_evaluator()
        self._pending = None
        self._recordings.drop()
