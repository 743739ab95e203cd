"""Files and folders: written whole or not at all, read with one clear word if damaged."""

import contextlib
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from common.errors import BadInput, require


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a JSON file that is whole at any time: beside its place, then renamed."""
    with _beside(path) as partial:
        partial.write_text(json.dumps(values, indent=2))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BadInput: there is none, or it is damaged.
        PermissionError: it may not be read, whatever is in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_JSON + 1)
    except PermissionError:
        raise
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    return parse_json(content, str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        content: of a file.
        where: the file, for messages.

    Raises:
        BadInput: it is damaged.
    """
    require(
        len(content) <= _LARGEST_JSON, f"{where} is damaged: it has more than {_LARGEST_JSON} bytes"
    )
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is damaged: {error}") from error
    require(isinstance(values, dict), f"{where} is damaged: it holds no JSON object")
    return cast(dict[str, Any], values)


def read_arrays(path: pathlib.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, by their names.

    What they say that they take is checked before memory is taken: a small file can unfold into
    one that fills the machine.

    Raises:
        BadInput: the file is missing, damaged or too large, or one of them is not in it.
        PermissionError: the file may not be read, whatever is in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
            require(
                unfolded <= _LARGEST_ARRAYS,
                f"{path} is damaged: it would take {unfolded} bytes of memory, more than "
                f"{_LARGEST_ARRAYS}",
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (BadInput, PermissionError):
        raise
    except _DAMAGED as error:
        raise BadInput(f"{path} is damaged: {error}") from error


def as_utf8(name: str) -> str:
    """A name of a file with what is not UTF-8 replaced: Python has such bytes as lone surrogates.

    The file is not found by it, but libraries, JSON and people can have it.
    """
    return _NO_UTF8.sub("\N{REPLACEMENT CHARACTER}", name)


def matching(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """What a folder holds, sorted; none if it is not there.

    `Path.glob` leaves out what may not be read, which is then taken for something that is missing.

    Args:
        folder: that is looked into.
        pattern: of names, such as "*/status.json".

    Raises:
        NotADirectoryError: the folder is a file.
        PermissionError: a folder on the way may not be read.
    """
    first, *others = pathlib.PurePath(pattern).parts
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = [folder / name for name in fnmatch.filter(sorted(names), first)]
    if others:
        rest = "/".join(others)
        found = [path for one in found if one.is_dir() for path in matching(one, rest)]
    return found


def nearest(folder: pathlib.Path) -> pathlib.Path:
    """The folder if it is there, otherwise the nearest above it that is."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def try_to_write(folder: pathlib.Path) -> None:
    """Makes a folder in another and removes it: rights do not tell of a read-only file system.

    Raises:
        OSError: it cannot be made.
    """
    pathlib.Path(tempfile.mkdtemp(prefix=".pianist-", dir=folder)).rmdir()


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their names in a folder, each one whole and on the disk."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as partial:
            partial.write_bytes(content)
            _sync(partial)


def read_files(folder: pathlib.Path) -> dict[str, bytes]:
    """All files of a folder and of those in it, by their names there."""
    return {name: pathlib.Path(path).read_bytes() for name, path in paths_of(folder).items()}


def paths_of(folder: pathlib.Path) -> dict[str, str]:
    """Paths of all files of a folder and of those in it, by their names there.

    Raises:
        PermissionError: a folder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=refuse)
    paths = [pathlib.Path(above) / name for above, _, names in walked for name in names]
    found = sorted(path for path in paths if path.is_file())
    return {str(path.relative_to(folder)): str(path) for path in found}


_NO_UTF8 = re.compile("[\ud800-\udfff]")
_SUMS = "SHA256SUMS"
_LARGEST_JSON = 100_000_000
_LARGEST_ARRAYS = LARGEST_FOLDER = 2_000_000_000
"""Bytes that a packed folder, such as a checkpoint, may have."""
# What zipfile and NumPy raise for a file that is cut off or changed; RuntimeError is zipfile's for
# flags that a changed byte sets, MemoryError NumPy's for an array that says that it is huge.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class PackedFolder(NamedTuple):
    """A small folder on its way from one machine to another."""

    name: str
    files: dict[str, bytes]
    """Their contents, by their names in it."""
    origin: str
    """Where it was, for messages."""

    @classmethod
    def pack(cls, folder: pathlib.Path) -> "PackedFolder":
        """Reads a folder.

        Raises:
            BadInput: it is too large to be one of these.
        """
        size = sum(pathlib.Path(path).stat().st_size for path in paths_of(folder).values())
        require(size <= LARGEST_FOLDER, f"{folder} is damaged: it has {size} bytes")
        return cls(folder.name, read_files(folder), str(folder))

    @classmethod
    def sealed(cls, name: str, files: dict[str, bytes]) -> "PackedFolder":
        """A folder with the checksums of its files, as `sha256sum --check` wants them."""
        sums = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {file}\n"
            for file, content in sorted(files.items())
        )
        return cls(name, files | {_SUMS: sums.encode()}, name)

    @property
    def fingerprint(self) -> bytes:
        """Equal for folders of the same name and contents: name and checksums of a sealed one."""
        return self.name.encode() + b"\0" + self.files.get(_SUMS, repr(self.files).encode())

    def require_whole(self) -> None:
        """Refuses a sealed folder in which something is missing or has changed.

        Raises:
            BadInput: naming the folder and the file.
        """
        lines = self.files.get(_SUMS, b"").decode(errors="replace").splitlines()
        sums = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
        require(bool(sums), f"{self.origin} is damaged: it has no {_SUMS}")
        for file, digest in sums.items():
            content = self.files.get(file)
            require(content is not None, f"{self.origin} is damaged: {file} is missing")
            require(
                hashlib.sha256(content or b"").hexdigest() == digest,
                f"{self.origin} is damaged: {file} is not what was written",
            )

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
        try:
            write_files(partial, self.files)
        except OSError:  # What a full disk has taken half of takes no room.
            shutil.rmtree(partial)
            raise
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(parent)
        return final


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file to be written, which then takes the place of another, or is gone if that failed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
