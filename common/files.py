"""Files and folders that are written whole or not at all, with one clear message if damaged."""

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
    """Writes a JSON file that is complete at any time.

    The file is written under another name, and then renamed.
    """
    with _beside(path) as partial:
        partial.write_text(json.dumps(values, indent=2))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BadInput: The file is missing or damaged.
        PermissionError: The user lacks permission to read the file.
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
    """Parses a JSON object.

    Args:
        content: Contents of a file.
        where: Name of the file, for messages.

    Raises:
        BadInput: The contents are damaged.
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
    """Reads arrays of an .npz file by their names.

    The sizes that the file declares are checked before memory is allocated, because a small file
    can unpack to one that fills the machine's memory.

    Raises:
        BadInput: The file is missing, damaged or too large, or lacks one of the arrays.
        PermissionError: The user lacks permission to read the file.
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
    """Returns the name of a file with every part that is not UTF-8 replaced.

    Python keeps such bytes as lone surrogates. The new name does not find the file, but libraries,
    JSON and users can read it.
    """
    return _NO_UTF8.sub("\N{REPLACEMENT CHARACTER}", name)


def matching(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Returns the sorted paths in a folder that match a pattern; none if the folder is missing.

    `Path.glob` leaves out paths that may not be read, which then seem to be missing.

    Args:
        folder: Folder to search.
        pattern: Pattern of names, such as "*/status.json".

    Raises:
        NotADirectoryError: The folder is a file.
        PermissionError: A folder on the way may not be read.
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
    """Returns the folder if it exists, otherwise the nearest one above it that does."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def try_to_write(folder: pathlib.Path) -> None:
    """Checks that a folder can be written, by making a folder in it and removing that.

    Permissions do not show that a file system is read-only.

    Raises:
        OSError: The folder cannot be written.
    """
    pathlib.Path(tempfile.mkdtemp(prefix=".pianist-", dir=folder)).rmdir()


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their names into a folder, each one complete and on the disk."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as partial:
            partial.write_bytes(content)
            _sync(partial)


def read_files(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns the contents of all files in a folder and its subfolders, by their names there."""
    return {name: pathlib.Path(path).read_bytes() for name, path in paths_of(folder).items()}


def paths_of(folder: pathlib.Path) -> dict[str, str]:
    """Returns the paths of all files in a folder and its subfolders, by their names there.

    Raises:
        PermissionError: A folder may not be read.
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
"""Most bytes that a packed folder, such as a checkpoint, may have."""
# Errors of zipfile and NumPy for a file that is cut off or changed. zipfile raises RuntimeError for
# flags that a changed byte sets. NumPy raises MemoryError for an array that claims to be huge.
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
    """Contents of the files, by their names in the folder."""
    origin: str
    """Former place of the folder, for messages."""

    @classmethod
    def pack(cls, folder: pathlib.Path) -> "PackedFolder":
        """Reads a folder.

        Raises:
            BadInput: The folder is too large for a packed folder.
        """
        size = sum(pathlib.Path(path).stat().st_size for path in paths_of(folder).values())
        require(size <= LARGEST_FOLDER, f"{folder} is damaged: it has {size} bytes")
        return cls(folder.name, read_files(folder), str(folder))

    @classmethod
    def sealed(cls, name: str, files: dict[str, bytes]) -> "PackedFolder":
        """Returns a folder with the checksums of its files, in the form of `sha256sum --check`."""
        sums = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {file}\n"
            for file, content in sorted(files.items())
        )
        return cls(name, files | {_SUMS: sums.encode()}, name)

    @property
    def fingerprint(self) -> bytes:
        """Bytes that are equal for folders of the same name and contents.

        For a sealed folder they are its name and its checksums.
        """
        return self.name.encode() + b"\0" + self.files.get(_SUMS, repr(self.files).encode())

    def require_whole(self) -> None:
        """Refuses a sealed folder in which something is missing or has changed.

        Raises:
            BadInput: A file is missing or has changed; the message names the folder and the file.
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
        """Writes the folder under another name and renames it, so that it is complete or absent.

        Args:
            parent: Folder to write it in; made if missing.

        Returns:
            Path of the folder, which replaces an earlier one of the same name.
        """
        final, partial = parent / self.name, parent / f".{self.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write_files(partial, self.files)
        except OSError:  # A half-written folder must not fill the disk.
            shutil.rmtree(partial)
            raise
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync(parent)
        return final


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path, which then replaces `path`, or is removed if writing failed."""
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
