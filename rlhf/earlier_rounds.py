"""Loading of the rounds that a fine-tuning learns from, and of the fine-tunings before it."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from common import storage
from common.errors import BadInput, require
from common.files import PackedFolder, read_json
from piano.song import Song
from rlhf.collection import HOLDS_COLLECTION, Collection
from rlhf.rounds import Round
from training.config import TrainConfig, from_json
from training.run import RunFolder
from training.trained_policy import TrainedPolicy


def open_collections(names: Sequence[str], root_dir: str) -> list[Collection]:
    """Opens the collections that the user names.

    Args:
        names: One or more folders or URLs of collections or runs, or names of runs in `root_dir`.
            A run stands for its newest collection.
        root_dir: Folder or URL that holds the runs.

    Raises:
        BadInput: A collection does not exist, is damaged, or is named twice.
    """
    found = [
        Collection.open(storage.find(name, root_dir, "collection", *HOLDS_COLLECTION).fetch())
        for name in names
    ]
    known: dict[pathlib.Path, str] = {}
    for name, collection in zip(names, found, strict=True):
        path = collection.path.resolve()
        require(
            path not in known,
            f"{known.get(path)} and {name} are the same collection, {collection.path}: name each "
            "collection once",
        )
        known[path] = name
    return found


def require_same(collection: Collection, base: TrainedPolicy, songs: Sequence[Song]) -> None:
    """Checks that a checkpoint has the songs and environment of a collection.

    Args:
        collection: Collection to learn from.
        base: Checkpoint to fine-tune.
        songs: Songs of the checkpoint.

    Raises:
        BadInput: Collection and checkpoint differ in songs or environment; the message names both.
    """
    where = f"the collection {collection.path}"
    require(
        [song.to_json() for song in songs] == collection.manifest.get("songs"),
        f"{where} is of another song than checkpoint {base.checkpoint}",
    )
    configs = _recorded(collection), base.config
    for field in dataclasses.fields(base.config.environment):
        here, there = (getattr(config.environment, field.name) for config in configs)
        require(
            here == there or field.name == "wrong_press_termination",
            f"{where} was recorded with --{field.name.replace('_', '-')} {here}, checkpoint "
            f"{base.checkpoint} was trained with {there}",
        )


def _recorded(collection: Collection) -> TrainConfig:
    where = f"the collection {collection.path}"
    return from_json(collection.manifest.get("config"), where)


def load_rounds(collections: Sequence[Collection]) -> list[Round]:
    """Reads the segments of collections and the policies that their rounds began with.

    A message on standard error names each collection without such a policy.

    Raises:
        BadInput: A file is missing or damaged.
    """
    rounds = []
    for collection in collections:
        if collection.base is None:
            print(
                f"{collection.path} holds no policy that its round began with, as in version 1: "
                "its segments are scored relative to the policy that is fine-tuned",
                file=sys.stderr,
            )
        rounds.append(
            Round(
                {
                    segment.name if len(collections) == 1 else str(segment.folder): (
                        segment.trajectory()
                    )
                    for segment in collection.segments()
                },
                None if collection.base is None else PackedFolder.pack(collection.base),
                _recorded(collection).learner.agent_config,
            )
        )
    return rounds


def chain(start: TrainedPolicy) -> list[dict[str, Any]]:
    """Reads the fine-tunings that led to a checkpoint, oldest first.

    A message on standard error says if they cannot be read.

    Args:
        start: Policy whose checkpoint lies in the folder of its run, if that folder still exists.

    Returns:
        "rounds" in the comparison that `rlhf.fine_tune` wrote for the checkpoint's run; empty if no
        fine-tuning made the checkpoint or if the comparison cannot be read.
    """
    if "fine_tuned_from" not in start.description:
        return []
    file = RunFolder(start.checkpoint.resolve().parent.parent).comparison
    try:
        rounds = read_json(file).get("rounds")
        if isinstance(rounds, list):
            return rounds
        raise BadInput(f"{file} is of an earlier version, without rounds")
    except BadInput as error:
        print(f"the report begins with this round: {error}", file=sys.stderr)
        return []
