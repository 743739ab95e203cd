"""Files and folders: written whole or not at all, read with one clear word if damaged."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from replay.errors import BadInput, require


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a JSON file that is whole at any time: beside its place, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2))
    partial.replace(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    require(isinstance(values, dict), f"{path} is damaged: it holds no JSON object")
    return values


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their names in a folder, each one whole and on the disk."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        _sync(partial)
        partial.replace(path)


def read_files(folder: pathlib.Path) -> dict[str, bytes]:
    """All files of a folder and of those in it, by their names there."""
    return {name: pathlib.Path(path).read_bytes() for name, path in paths_of(folder).items()}


def paths_of(folder: pathlib.Path) -> dict[str, str]:
    """Paths of all files of a folder and of those in it, by their names there."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): str(path) for path in found}


class PackedFolder(NamedTuple):
    """A small folder on its way from one machine to another."""

    name: str
    files: dict[str, bytes]
    """Their contents, by their names in it."""
    origin: str
    """Where it was, for messages."""

    @classmethod
    def pack(cls, folder: pathlib.Path) -> "PackedFolder":
        """Reads a folder."""
        return cls(folder.name, read_files(folder), str(folder))

    def write(self, parent: pathlib.Path) -> pathlib.Path:
        """Writes the folder beside its place and renames it, so that it is whole or absent.

        Args:
            parent: folder to write it in; made if missing.

        Returns:
            The folder. One that was there before has been replaced.
        """
        final, partial = parent / self.name, parent / f".{self.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_files(partial, self.files)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(parent)
        return final


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
