"""Checkpoints: one folder a learner step, written atomically, without pickle.

    step_000012345/
        training_state.safetensors   networks, targets, temperature, optimisers, random state
        checkpoint.json              step counts, configuration, song: all else that is needed

Whatever opens a checkpoint needs nothing but its folder.
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

from learner.networks import Parameters
from learner.sac import TrainingState
from replay.errors import BadInput, require
from replay.files import PackedFolder, read_json

_STATE, _DESCRIPTION = "training_state.safetensors", "checkpoint.json"
_FOLDER_NAME = re.compile(r"step_(\d{9,})")


def pack(state: TrainingState, description: dict[str, Any]) -> PackedFolder:
    """A checkpoint, to be written into the folder that holds a run's checkpoints.

    Args:
        state: on any device.
        description: JSON values; what a reader needs besides the arrays.

    Returns:
        A folder named "step_000012345", after the learner step.
    """
    name = f"step_{int(state.step):09d}"
    files = {
        _STATE: safetensors.numpy.save(_named_arrays(state)),
        _DESCRIPTION: json.dumps(description, indent=2).encode(),
    }
    return PackedFolder(name, files, name)


def remove_all_but_newest(folder: pathlib.Path, keep: int) -> None:
    """Removes the oldest checkpoints of a run until `keep` are left."""
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


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
    description: dict[str, Any] = json.loads(checkpoint.files[_DESCRIPTION])
    return description


def load_state(checkpoint: PackedFolder, template: TrainingState) -> TrainingState:
    """The whole training state.

    Args:
        checkpoint: that `pack` made.
        template: a state of the same configuration; gives structure, shapes and dtypes.

    Raises:
        BadInput: the file is damaged, or is of another configuration.
    """
    return _load(checkpoint, template, prefix="")


def load_actor(checkpoint: PackedFolder, template: Parameters) -> Parameters:
    """The parameters of the actor network alone; arguments and errors as in `load_state`."""
    return _load(checkpoint, template, prefix=".actor")


def _load(checkpoint: PackedFolder, template: Any, prefix: str) -> Any:
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    try:
        arrays = safetensors.numpy.load(checkpoint.files[_STATE])
    except (KeyError, SafetensorError) as error:
        raise BadInput(f"checkpoint {checkpoint.origin} is damaged: {_STATE}: {error}") from error
    loaded = []
    for path, leaf in leaves:
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
    return jax.tree_util.tree_unflatten(structure, loaded)


def _named_arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Arrays by their path in the state, such as `.actor['params']['mean']['kernel']`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): np.array(jax.device_get(leaf), order="C")
        for path, leaf in leaves
    }
