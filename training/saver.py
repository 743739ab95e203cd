"""Checkpoints of a training run."""

import time
from typing import Any

import ray

from common.waiting import get_result
from learner import checkpoint
from training import run
from training.disk import Disk
from training.journaling import Journaling

_CHECKPOINTS_KEPT = 5
_CHECKPOINT_SECONDS = 300.0
"""Longest time between checkpoints in seconds."""


class Saver:
    """Saves checkpoints of the learner, and removes all but the newest and the best.

    Args:
        folder: Folder of the run.
        learner: Ray actor of `learner.learner.Learner`.
        journaling: Journal of the replay, which a resumed run reads beside the checkpoint.
        disk: Disk of the folder.
        description: Settings and songs of the run, which each checkpoint holds.
    """

    def __init__(
        self,
        folder: run.RunFolder,
        learner: Any,
        journaling: Journaling,
        disk: Disk,
        description: dict[str, Any],
    ):
        self._folder = folder
        self._learner = learner
        self._journaling = journaling
        self._disk = disk
        self._description = description
        self._saved_at = time.monotonic()
        self.has_saved = False
        """Whether a checkpoint has been written."""

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than five minutes."""
        return time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS

    def save(self, environment_steps: int) -> ray.ObjectRef:
        """Saves a checkpoint, and requests the journal's next entry.

        Args:
            environment_steps: Environment steps of the run so far.

        Returns:
            Reference to the checkpoint, a `common.files.PackedFolder`.

        Raises:
            PartFailed: The learner gave no checkpoint.
        """
        self._journaling.begin()
        packed = self._learner.checkpoint.remote(
            {"environment_steps": environment_steps, **self._description}
        )
        saved = get_result(packed, "Learner", "the learner gave no checkpoint")
        self._saved_at = time.monotonic()
        with self._disk.may_be_full("checkpoints"):
            saved.write(self._folder.checkpoints)
            self.has_saved = True
        checkpoint.remove_all_but_newest(
            self._folder.checkpoints, _CHECKPOINTS_KEPT, run.best_checkpoint(self._folder)
        )
        return packed
