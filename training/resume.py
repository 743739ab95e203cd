"""Resuming a run: its settings, and what of its checkpoints and its journal is whole."""

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

# What a policy is made for, and what its arrays are shaped by.
_FIXED = ("seed", "preset", "song", "environment")
_FIXED_NETWORK = ("num_qs", "hidden_dims", "activation", "critic_layer_norm")


class Resumed(NamedTuple):
    """What a run resumes from."""

    checkpoint: PackedFolder | None
    journal: list[pathlib.Path]
    """Entries of the journal of the replay, oldest first."""
    environment_steps: int
    """That the run has had."""

    @property
    def learner_steps(self) -> int:
        """Of the checkpoint."""
        if self.checkpoint is None:
            return 0
        return int(checkpoint.description_of(self.checkpoint)["learner_steps"])

    def __str__(self) -> str:
        """For people."""
        saved = "no checkpoint" if self.checkpoint is None else self.checkpoint.name
        return (
            f"{saved}, {journal.count(self.journal)} transitions in replay, "
            f"{self.environment_steps} environment steps so far"
        )


NOTHING = Resumed(None, [], 0)
"""A new run."""


def settings_of(folder: run.RunFolder) -> TrainConfig:
    """The settings of a run that is to be resumed: the defaults of all flags.

    Raises:
        BadInput: it is no training run, or its settings are damaged.
    """
    require(
        run.read_status(folder)["kind"] == "train",
        f"the run {folder.name} is a fine-tuning: only training runs can be resumed",
    )
    file = folder.path / "config.json"
    return from_json(TrainConfig, read_json(file), str(file))


def reopen(config: TrainConfig, folder: run.RunFolder) -> Repertoire:
    """What a run that is to be resumed plays.

    Raises:
        BadInput: it cannot be resumed, or not with these settings.
    """
    saved = settings_of(folder)
    _require_same(config, dataclasses.replace(saved, name=folder.name))
    status = run.read_status(folder)
    require(
        status["state"] not in run.ACTIVE,
        f"the run {folder.name} is under way: process {status['process']} on {status['host']}",
    )
    require(
        status["environment_steps"] < config.max_steps,
        f"the run {folder.name} has had {status['environment_steps']} environment steps: to "
        "resume it, raise --max-steps",
    )
    songs = read_json(folder.path / "songs.json").get("songs", [])
    return Repertoire([Song.from_json(values) for values in songs], config.environment)


def keep_settings(config: TrainConfig, folder: run.RunFolder) -> None:
    """Writes the settings of a resumed run into its folder."""
    root_dir = settings_of(folder).root_dir
    settings = dataclasses.replace(config, resume="", root_dir=root_dir, name=folder.name)
    write_json(folder.path / "config.json", to_json(settings))


def find(
    folder: run.RunFolder, capacity: int, environment_steps: int = 0
) -> tuple[Resumed, list[str]]:
    """What of a run is whole.

    Args:
        folder: of the run.
        capacity: of the replay.
        environment_steps: that the run is known to have had.

    Returns:
        The newest that is whole; and of what is damaged what is wrong with it.
    """
    saved, damaged = checkpoint.newest_whole(folder.checkpoints)
    entries, damaged_entries = journal.whole(folder.replay, capacity)
    steps = max(environment_steps, journal.end(folder.replay))
    if saved is not None:
        steps = max(steps, int(checkpoint.description_of(saved).get("environment_steps", 0)))
    return Resumed(saved, entries, steps), damaged + damaged_entries


def _require_same(config: TrainConfig, saved: TrainConfig) -> None:
    """Refuses changes of what cannot be changed."""
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
