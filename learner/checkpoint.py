"""Checkpoints: one folder a learner step, written atomically, without pickle.

    step_000012345/
        training_state.safetensors   networks, targets, temperature, optimizers, random state
        checkpoint.json              step counts, configuration, song: all else that is needed
        SHA256SUMS                   of these two

Whatever opens a checkpoint needs nothing but its folder. One that is damaged is refused.
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
"""In names of arrays."""
_ACTOR, _ACTOR_EMA, _STEP = ".actor", ".actor_ema", ".step"  # Names in the state.
_FOLDER_NAME = re.compile(r"step_(\d{9,})")


def pack(state: TrainingState, description: dict[str, Any]) -> PackedFolder:
    """A checkpoint, to be written into the folder that holds a run's checkpoints.

    Args:
        state: on any device.
        description: JSON values; what a reader needs besides the arrays. The program and its
            version are added, as "written_by".

    Returns:
        A folder named "step_000012345", after the learner step.
    """
    return _pack(_named_arrays(state), int(state.step), description)


def with_actor(
    saved: PackedFolder, actor: Parameters, step: int, description: dict[str, Any]
) -> PackedFolder:
    """A checkpoint or snapshot with another policy, and all else as it was.

    Args:
        saved: the other.
        actor: parameters of the same network.
        step: that names the new one.
        description: see `pack`.

    Raises:
        BadInput: the other is damaged.
    """
    named = {_ACTOR + jax.tree_util.keystr(path): leaf for path, leaf in _leaves(actor)}
    arrays = _arrays(saved)
    for name in _part(_ACTOR_EMA, arrays):  # It begins anew, with this actor.
        del arrays[_ACTOR_EMA + name]
    if _STEP in arrays:  # It is no snapshot.
        arrays[_STEP] = np.array(step, np.int32)
    return _pack(arrays | _on_host(named), step, description)


def snapshot(saved: PackedFolder) -> PackedFolder:
    """Of a checkpoint what plays, a tenth of it: it can be played and fine-tuned, not resumed.

    Raises:
        BadInput: the checkpoint is damaged.
    """
    return _seal(saved.name, _policy(_arrays(saved)), saved.files[_DESCRIPTION])


def remove_all_but_newest(folder: pathlib.Path, keep: int, best: str | None = None) -> None:
    """Removes the oldest checkpoints of a run until `keep` are left, and the best.

    Args:
        folder: of the checkpoints.
        keep: how many.
        best: name of one that is kept besides.
    """
    for old in list_checkpoints(folder)[:-keep]:
        if old.name != best:
            shutil.rmtree(old)


def newest_whole(folder: pathlib.Path) -> tuple[PackedFolder | None, list[str]]:
    """The newest checkpoint of a run that is not damaged.

    Args:
        folder: of the checkpoints.

    Returns:
        The checkpoint, if there is one, and of those after it what is wrong with them.
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
    """Checkpoint folders of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _FOLDER_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def find(path: pathlib.Path) -> pathlib.Path:
    """The checkpoint that a person means by `path`.

    Args:
        path: a checkpoint's folder, or a run's, of which the newest is taken.

    Raises:
        BadInput: there is no checkpoint.
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
    """What `pack` was given as the description.

    Raises:
        BadInput: it is missing or damaged.
    """
    return read_json(checkpoint / _DESCRIPTION)


def description_of(checkpoint: PackedFolder) -> dict[str, Any]:
    """The same of a checkpoint that is packed."""
    return parse_json(
        checkpoint.files.get(_DESCRIPTION, b""), f"{checkpoint.origin}/{_DESCRIPTION}"
    )


def load_state(checkpoint: PackedFolder, template: TrainingState) -> TrainingState:
    """The whole training state; an average that it has not got begins with the actor.

    Args:
        checkpoint: that `pack` made.
        template: a state of the same configuration; gives structure, shapes and dtypes.

    Raises:
        BadInput: the file is damaged, or is of another configuration.
    """
    arrays = _arrays(checkpoint)
    begun = {_ACTOR_EMA + name: array for name, array in _part(_ACTOR, arrays).items()}
    return _load(checkpoint, begun | arrays, template, prefix="")


def load_actor(checkpoint: PackedFolder, template: Parameters) -> Parameters:
    """The parameters of the network that plays: the actor's average, if there is one.

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
    """All arrays of a checkpoint, by their path in the state."""
    saved.require_whole()
    try:
        arrays: dict[str, np.ndarray] = safetensors.numpy.load(saved.files[_STATE])
    except (KeyError, SafetensorError) as error:
        raise BadInput(f"checkpoint {saved.origin} is damaged: {_STATE}: {error}") from error
    return {name.replace(*_OLD_SPELLING): array for name, array in arrays.items()}


def _part(part: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a part of the state, by their path in it."""
    return {
        name.removeprefix(part): array
        for name, array in arrays.items()
        if name.startswith(f"{part}[")
    }


def _policy(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the network that plays, named as the actor's are."""
    plays = _part(_ACTOR_EMA, arrays) or _part(_ACTOR, arrays)
    return {_ACTOR + name: array for name, array in plays.items()}


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _on_host(named: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(jax.device_get(leaf), order="C") for name, leaf in named.items()}


def _named_arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Arrays by their path in the state, such as `.actor['params']['mean']['kernel']`."""
    return _on_host({jax.tree_util.keystr(path): leaf for path, leaf in _leaves(state)})
