"""A trained policy: a checkpoint with the settings and the songs of its training."""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from common import storage
from learner import checkpoint
from training.config import TrainConfig, from_json

if TYPE_CHECKING:
    from piano.song import Song


class TrainedPolicy(NamedTuple):
    """The description of a checkpoint's policy, without its parameters."""

    checkpoint: pathlib.Path
    """Folder of the checkpoint."""
    config: TrainConfig
    """Settings of the training. For a fine-tuned policy, those of the original training."""
    description: dict[str, Any]
    """Description that `learner.checkpoint.pack` received with the parameters."""

    @classmethod
    def open(cls, folder: pathlib.Path) -> "TrainedPolicy":
        """Opens the policy of a checkpoint.

        Args:
            folder: Folder of the checkpoint.

        Raises:
            BadInput: The description is missing or damaged.
        """
        description = checkpoint.load_description(folder)
        config = from_json(description.get("config"), f"checkpoint {folder}")
        return cls(folder, config, description)

    @classmethod
    def find(cls, name: str, root_dir: str) -> "TrainedPolicy":
        """Finds a policy by the name of its checkpoint or run.

        Args:
            name: Folder or URL of a checkpoint or a run, or name of a run in `root_dir`. For a
                run, the newest checkpoint is used.
            root_dir: Folder or URL that holds the runs.

        Raises:
            BadInput: The checkpoint does not exist or is damaged.
        """
        return cls.open(checkpoint.find(storage.find(name, root_dir, "checkpoint").fetch()))

    @property
    def songs(self) -> "list[Song]":
        """Songs that the policy was trained to play.

        Raises:
            BadInput: The description is damaged.
        """
        from piano.song import Song

        return [Song.from_json(values) for values in self.description.get("songs", [])]

    @property
    def environment_steps(self) -> int:
        """Environment steps of the training up to the checkpoint; 0 if unknown."""
        return int(self.description.get("environment_steps", 0))
