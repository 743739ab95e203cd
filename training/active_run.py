"""A run that is under way, and the files that it writes."""

import pathlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from actors.evaluator import Evaluation
from training.logbook import Logbook
from training.run import RunFolder, Status


class ActiveRun:
    """Status, logbook and evaluations of a run.

    Args:
        folder: Folder of the run.
        logbook: Logbook of the run.
        status: Status of the run, which its owner updates.
        writing: Function that returns the context for writing files. Its argument names the data
            that is written.
    """

    def __init__(
        self,
        folder: RunFolder,
        logbook: Logbook,
        status: Status,
        writing: Callable[[str], AbstractContextManager[Any]],
    ):
        self.folder = folder
        self.logbook = logbook
        self.status = status
        self.writing = writing
        self.evaluations = 0
        """Number of evaluations that have ended."""

    def set_state(self, state: str) -> None:
        """Changes the state of the run, and writes its status."""
        self.status.state = state
        self.write_status()

    def write_status(self) -> None:
        """Writes the status of the run."""
        with self.writing("the status"):
            self.status.write(self.folder.status)

    def log(
        self, environment_steps: int, learner_steps: int, values: Mapping[str, float | None]
    ) -> None:
        """Writes a line of the logbook; see `Logbook.write`."""
        with self.writing("the logbook"):
            self.logbook.write(environment_steps, learner_steps, values)

    def keep(
        self, evaluation: Evaluation, environment_steps: int, learner_steps: int
    ) -> pathlib.Path:
        """Writes an evaluation to the run's folder and its metrics to status and logbook.

        Args:
            evaluation: Results of the evaluation.
            environment_steps: Environment steps of the line of the logbook.
            learner_steps: Learner steps of the line of the logbook.

        Returns:
            Folder of the evaluation.
        """
        folder = evaluation.write(self.folder.evaluations)
        self.status.note_f1 = evaluation.metrics["note_f1"]
        values = {f"eval/{name}": value for name, value in evaluation.metrics.items()}
        self.log(environment_steps, learner_steps, values)
        return folder
