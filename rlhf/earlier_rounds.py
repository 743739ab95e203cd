"""The rounds that a fine-tuning learns from, and the chain of fine-tunings that led to it."""

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
    """Opens the collections that a person names.

    Args:
        names: At least one: folders or URLs of collections or runs, or names of runs in
            `root_dir`; of a run the newest collection is taken.
        root_dir: Folder or URL that holds the runs.

    Raises:
        BadInput: There is none of that name, one is damaged, or one is named twice.
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
    """Refuses a checkpoint that does not see and do what the collection holds.

    Args:
        collection: To be learnt from.
        base: The checkpoint.
        songs: Its songs.

    Raises:
        BadInput: They differ in songs or environment; the message names both.
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
    return from_json(TrainConfig, collection.manifest.get("config"), where)


def load_rounds(collections: Sequence[Collection]) -> list[Round]:
    """Reads the segments of collections, and the policies that their rounds began with.

    Says so of a collection without such a policy.

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
    """The fine-tunings that led to a checkpoint, oldest first, as `rlhf.fine_tune` tells them.

    Says so where an earlier one cannot be read.

    Args:
        start: Its checkpoint is within its run's folder, if that is there.

    Returns:
        "rounds" in the comparison of the checkpoint's run; empty if no fine-tuning made it.
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
