"""A trained policy: a checkpoint, with the settings and the songs of its training."""

import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from common import storage
from learner import checkpoint
from training.config import TrainConfig, from_json

if TYPE_CHECKING:
    from piano.song import Song


class TrainedPolicy(NamedTuple):
    """What a checkpoint says about its policy; the policy's numbers stay in the file."""

    checkpoint: pathlib.Path
    """Its folder."""
    config: TrainConfig
    """Of the training; of a fine-tuned policy, of the training before."""
    description: dict[str, Any]
    """All that `learner.checkpoint.pack` was given besides the numbers."""

    @classmethod
    def open(cls, folder: pathlib.Path) -> "TrainedPolicy":
        """The policy of a checkpoint's folder.

        Raises:
            BadInput: The description is missing or damaged.
        """
        description = checkpoint.load_description(folder)
        config = from_json(TrainConfig, description.get("config"), f"checkpoint {folder}")
        return cls(folder, config, description)

    @classmethod
    def find(cls, name: str, root_dir: str) -> "TrainedPolicy":
        """The policy that a person names.

        Args:
            name: Folder or URL of a checkpoint or a run, or name of a run in `root_dir`; of a run
                the newest checkpoint is taken.
            root_dir: Folder or URL that holds the runs.

        Raises:
            BadInput: There is none, or it is damaged.
        """
        return cls.open(checkpoint.find(storage.find(name, root_dir, "checkpoint").fetch()))

    @property
    def songs(self) -> "list[Song]":
        """What it was trained to play.

        Raises:
            BadInput: The description is damaged.
        """
        from piano.song import Song

        return [Song.from_json(values) for values in self.description.get("songs", [])]

    @property
    def environment_steps(self) -> int:
        """Of the training until then; 0 if unknown."""
        return int(self.description.get("environment_steps", 0))
