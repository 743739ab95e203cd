"""Resuming a run: its settings and the intact parts of its checkpoints and journal."""

import dataclasses
import pathlib
from typing import NamedTuple

from common.errors import require
from common.files import PackedFolder, read_json, write_json
from learner import checkpoint
from piano.repertoire import Repertoire
from piano.song import Song
from replay import journal
from training import run
from training.config import TrainConfig, from_json, to_json

# A resumed run cannot change these settings. They define the task of the policy and the shapes of
# its arrays.
_FIXED = ("seed", "preset", "song", "environment")
_FIXED_NETWORK = ("num_qs", "hidden_dims", "activation", "critic_layer_norm")


class Resumed(NamedTuple):
    """The saved state that a run resumes from."""

    checkpoint: PackedFolder | None
    journal: list[pathlib.Path]
    """Entries of the replay's journal, oldest first."""
    environment_steps: int
    """Environment steps of the run so far."""

    @property
    def learner_steps(self) -> int:
        """Learner steps of the checkpoint."""
        if self.checkpoint is None:
            return 0
        return int(checkpoint.description_of(self.checkpoint)["learner_steps"])

    def __str__(self) -> str:
        """Describes the state for people."""
        saved = "no checkpoint" if self.checkpoint is None else self.checkpoint.name
        return (
            f"{saved}, {journal.count(self.journal)} transitions in replay, "
            f"{self.environment_steps} environment steps so far"
        )


NOTHING = Resumed(None, [], 0)
"""State of a new run."""


def settings_of(folder: run.RunFolder) -> TrainConfig:
    """Returns the settings of a run to resume, which are the defaults of all flags.

    Args:
        folder: Folder of the run.

    Raises:
        BadInput: The run is not a training run, or its settings are damaged.
    """
    require(
        run.read_status(folder).kind == "train",
        f"the run {folder.name} is a fine-tuning: only training runs can be resumed",
    )
    file = folder.path / "config.json"
    return from_json(read_json(file), str(file))


def reopen(config: TrainConfig, folder: run.RunFolder) -> Repertoire:
    """Returns the songs of a run to resume, after checking that it can be resumed.

    Args:
        config: Settings for the resumed run.
        folder: Folder of the run.

    Raises:
        BadInput: The run cannot be resumed, or not with these settings.
    """
    saved = settings_of(folder)
    _require_same(config, dataclasses.replace(saved, name=folder.name))
    status = run.read_status(folder)
    require(
        status.state not in run.ACTIVE,
        f"the run {folder.name} is under way: process {status.process} on {status.host}",
    )
    require(
        status.environment_steps < config.max_steps,
        f"the run {folder.name} has had {status.environment_steps} environment steps: to "
        "resume it, raise --max-steps",
    )
    songs = read_json(folder.path / "songs.json").get("songs", [])
    return Repertoire([Song.from_json(values) for values in songs], config.environment)


def keep_settings(config: TrainConfig, folder: run.RunFolder) -> None:
    """Writes the settings of a resumed run to its folder.

    Args:
        config: Settings of the resumed run.
        folder: Folder of the run.
    """
    root_dir = settings_of(folder).root_dir
    settings = dataclasses.replace(config, resume="", root_dir=root_dir, name=folder.name)
    write_json(folder.path / "config.json", to_json(settings))


def find(
    folder: run.RunFolder, capacity: int, environment_steps: int = 0
) -> tuple[Resumed, list[str]]:
    """Finds the intact saved state of a run.

    Args:
        folder: Folder of the run.
        capacity: Capacity of the replay in transitions.
        environment_steps: Environment steps that the run is known to have taken.

    Returns:
        Newest intact state, and one line for each damaged checkpoint or journal entry.
    """
    saved, damaged = checkpoint.newest_whole(folder.checkpoints)
    entries, damaged_entries = journal.whole(folder.replay, capacity)
    steps = max(environment_steps, journal.end(folder.replay))
    if saved is not None:
        steps = max(steps, int(checkpoint.description_of(saved).get("environment_steps", 0)))
    return Resumed(saved, entries, steps), damaged + damaged_entries


def _require_same(config: TrainConfig, saved: TrainConfig) -> None:
    """Rejects changes to settings that a resumed run cannot change."""
    pairs = [(name, getattr(config, name), getattr(saved, name)) for name in (*_FIXED, "name")]
    network, trained = config.learner.agent_config, saved.learner.agent_config
    pairs += [
        (f"agent_config.{name}", getattr(network, name), getattr(trained, name))
        for name in _FIXED_NETWORK
    ]
    for name, now, then in pairs:
        if dataclasses.is_dataclass(now):
            for field in dataclasses.fields(now):
                _require_equal(field.name, getattr(now, field.name), getattr(then, field.name))
        else:
            _require_equal(name, now, then)


def _require_equal(name: str, now: object, then: object) -> None:
    require(
        now == then,
        f"--{name.replace('_', '-')} is {now}, but the run has {then}, which cannot be changed: "
        "leave the flag out",
    )
