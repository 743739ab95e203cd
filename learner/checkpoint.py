"""Checkpoints: one folder per saved learner step, written atomically, without pickle.

    step_000012345/
        training_state.safetensors   networks, targets, temperature, optimizers, random state
        checkpoint.json              step counts, configuration, song: everything else
        SHA256SUMS                   checksums of these two

A reader of a checkpoint needs only its folder. Readers refuse a damaged checkpoint.
"""

import json
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from common.errors import BadInput, require
from common.files import PackedFolder, parse_json, read_json
from common.project import program
from learner.networks import Parameters
from learner.sac import TrainingState

_STATE, _DESCRIPTION = "training_state.safetensors", "checkpoint.json"
_OLD_SPELLING = "optimiser", "optimizer"
"""Old and new spelling in the names of arrays."""
_ACTOR, _ACTOR_EMA, _STEP = ".actor", ".actor_ema", ".step"  # Paths in the state.
_FOLDER_NAME = re.compile(r"step_(\d{9,})")


def pack(state: TrainingState, description: dict[str, Any]) -> PackedFolder:
    """Packs a checkpoint, to be written into the folder of a run's checkpoints.

    Args:
        state: Training state on any device.
        description: JSON values that a reader needs besides the arrays. `pack` adds the program and
            its version as "written_by".

    Returns:
        Packed folder named after the learner step, such as "step_000012345".
    """
    return _pack(_named_arrays(state), int(state.step), description)


def with_actor(
    saved: PackedFolder, actor: Parameters, step: int, description: dict[str, Any]
) -> PackedFolder:
    """Returns a checkpoint or snapshot with another policy and everything else unchanged.

    Args:
        saved: Checkpoint or snapshot to start from.
        actor: Parameters of the new policy, for the same network.
        step: Learner step that names the new checkpoint.
        description: Description of the new checkpoint; see `pack`.

    Raises:
        BadInput: `saved` is damaged.
    """
    named = {_ACTOR + jax.tree_util.keystr(path): leaf for path, leaf in _leaves(actor)}
    arrays = _arrays(saved)
    for name in _part(_ACTOR_EMA, arrays):  # The average restarts from this actor.
        del arrays[_ACTOR_EMA + name]
    if _STEP in arrays:  # A snapshot has no step.
        arrays[_STEP] = np.array(step, np.int32)
    return _pack(arrays | _on_host(named), step, description)


def snapshot(saved: PackedFolder) -> PackedFolder:
    """Returns the part of a checkpoint that plays, which has a tenth of its size.

    A snapshot can be played and fine-tuned, but not resumed.

    Raises:
        BadInput: The checkpoint is damaged.
    """
    return _seal(saved.name, _policy(_arrays(saved)), saved.files[_DESCRIPTION])


def remove_all_but_newest(folder: pathlib.Path, keep: int, best: str | None = None) -> None:
    """Removes all checkpoints of a run except the newest `keep` and the best.

    Args:
        folder: Folder of the checkpoints.
        keep: Number of newest checkpoints to keep.
        best: Name of one more checkpoint to keep.
    """
    for old in list_checkpoints(folder)[:-keep]:
        if old.name != best:
            shutil.rmtree(old)


def newest_whole(folder: pathlib.Path) -> tuple[PackedFolder | None, list[str]]:
    """Returns the newest undamaged checkpoint of a run.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The checkpoint or None, and an error message for each damaged checkpoint after it.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        saved = PackedFolder.pack(path)
        try:
            saved.require_whole()
        except BadInput as error:
            damaged.append(str(error))
        else:
            return saved, damaged
    return None, damaged


def list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoint folders of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _FOLDER_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def find(path: pathlib.Path) -> pathlib.Path:
    """Finds the checkpoint that a user means by `path`.

    Args:
        path: Folder of a checkpoint, or of a run, whose newest checkpoint is taken.

    Raises:
        BadInput: There is no checkpoint.
    """
    require(path.is_dir(), f"no checkpoint at {path}: there is no such folder")
    if (path / _STATE).is_file() and (path / _DESCRIPTION).is_file():
        return path
    within = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    require(
        bool(within),
        f"no checkpoint at {path}: expected {_STATE} and {_DESCRIPTION} in it, "
        "or a run's folder with checkpoints/step_*",
    )
    return find(within[-1])


def load_description(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Returns the description of a checkpoint; see `pack`.

    Raises:
        BadInput: The description is missing or damaged.
    """
    return read_json(checkpoint / _DESCRIPTION)


def description_of(checkpoint: PackedFolder) -> dict[str, Any]:
    """Returns the description of a packed checkpoint; see `pack`.

    Raises:
        BadInput: The description is missing or damaged.
    """
    return parse_json(
        checkpoint.files.get(_DESCRIPTION, b""), f"{checkpoint.origin}/{_DESCRIPTION}"
    )


def load_state(checkpoint: PackedFolder, template: TrainingState) -> TrainingState:
    """Returns the whole training state; a missing average of the actor starts as the actor.

    Args:
        checkpoint: Checkpoint that `pack` made.
        template: Training state of the same configuration, which gives structure, shapes and
            dtypes.

    Raises:
        BadInput: The checkpoint is damaged or has another configuration.
    """
    arrays = _arrays(checkpoint)
    begun = {_ACTOR_EMA + name: array for name, array in _part(_ACTOR, arrays).items()}
    return _load(checkpoint, begun | arrays, template, prefix="")


def load_actor(checkpoint: PackedFolder, template: Parameters) -> Parameters:
    """Returns the parameters of the network that plays: the actor's average, if there is one.

    Arguments and errors are as in `load_state`.
    """
    return _load(checkpoint, _policy(_arrays(checkpoint)), template, prefix=_ACTOR)


def _load(
    checkpoint: PackedFolder, arrays: dict[str, np.ndarray], template: Any, prefix: str
) -> Any:
    loaded = []
    for path, leaf in _leaves(template):
        name = prefix + jax.tree_util.keystr(path)
        require(
            name in arrays,
            f"checkpoint {checkpoint.origin} is of another network: it has no {name}",
        )
        shape = arrays[name].shape
        require(
            shape == np.shape(leaf),
            f"checkpoint {checkpoint.origin} is of another network: {name} has shape {shape}, "
            f"this configuration needs {np.shape(leaf)}",
        )
        loaded.append(jax.numpy.asarray(arrays[name], dtype=leaf.dtype))
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), loaded)


def _pack(arrays: dict[str, np.ndarray], step: int, description: dict[str, Any]) -> PackedFolder:
    description = description | {"written_by": program()}
    return _seal(f"step_{step:09d}", arrays, json.dumps(description, indent=2).encode())


def _seal(name: str, arrays: dict[str, np.ndarray], description: bytes) -> PackedFolder:
    files = {_STATE: safetensors.numpy.save(arrays), _DESCRIPTION: description}
    return PackedFolder.sealed(name, files)


def _arrays(saved: PackedFolder) -> dict[str, np.ndarray]:
    """Returns all arrays of a checkpoint by their paths in the state."""
    saved.require_whole()
    try:
        arrays: dict[str, np.ndarray] = safetensors.numpy.load(saved.files[_STATE])
    except (KeyError, SafetensorError) as error:
        raise BadInput(f"checkpoint {saved.origin} is damaged: {_STATE}: {error}") from error
    return {name.replace(*_OLD_SPELLING): array for name, array in arrays.items()}


def _part(part: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of one part of the state by their paths in that part."""
    return {
        name.removeprefix(part): array
        for name, array in arrays.items()
        if name.startswith(f"{part}[")
    }


def _policy(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of the network that plays, named like those of the actor."""
    plays = _part(_ACTOR_EMA, arrays) or _part(_ACTOR, arrays)
    return {_ACTOR + name: array for name, array in plays.items()}


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _on_host(named: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(jax.device_get(leaf), order="C") for name, leaf in named.items()}


def _named_arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Returns arrays by their paths in the state, such as `.actor['params']['mean']['kernel']`."""
    return _on_host({jax.tree_util.keystr(path): leaf for path, leaf in _leaves(state)})
