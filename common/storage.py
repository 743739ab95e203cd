"""Locations of runs and collections: folders of this machine, or URLs.

All code works on a folder of this machine. For a URL that folder is a copy: it is fetched before it
is read, and changes are uploaded while the work continues. Any file system that fsspec knows is
possible: s3://, gs://, abfs://, sftp://, file://.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

from common.errors import BadInput, require
from common.files import as_utf8, matching, read_json, write_json

_SECONDS_BETWEEN_UPLOADS = 5.0
_LAST_UPLOAD_SECONDS = 600.0
# A folder is complete once one of these files is there, so they are uploaded last.
_LAST = ("checkpoint.json", "segment.json", "collection.json", "status.json")
_INDEX = ".fetched.json"
# Ray sets it for submitted jobs (ray/dashboard/modules/job/job_supervisor.py).
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclasses.dataclass(frozen=True)
class Location:
    """A folder, and the URL that it is a copy of, if any."""

    path: pathlib.Path
    url: str = ""

    @classmethod
    def of(cls, text: str) -> "Location":
        """Returns the location that a user names.

        The working directory of a submitted job vanishes with the job, so a relative path there is
        relative to the home folder.

        Raises:
            BadInput: The name is empty, or it is a URL that is not UTF-8 or that no installed
                library can read.
        """
        require(bool(text), "the name of a folder or URL is empty")
        if "://" in text:
            require(text == as_utf8(text), f"the URL {text!r} must be UTF-8")
            url = text.rstrip("/")
            _file_system(url)
            cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
            return cls(pathlib.Path(cache) / "pianist" / urllib.parse.quote(url, safe=""), url)
        path = pathlib.Path(text).expanduser()
        return cls(pathlib.Path.home() / path if _JOB_VARIABLE in os.environ else path)

    def __truediv__(self, name: str) -> "Location":
        """Returns the location with that name within this one."""
        return Location(self.path / name, f"{self.url}/{name}" if self.url else "")

    def __str__(self) -> str:
        """Returns the URL or path, for users."""
        return self.url or str(self.path)

    def fetch(self, pattern: str = "*") -> pathlib.Path:
        """Brings the copy up to date with the URL.

        Args:
            pattern: Pattern of the names to fetch within the location, as in `fnmatch`.

        Returns:
            Path of the folder.

        Raises:
            BadInput: The URL cannot be read.
        """
        if not self.url:
            return self.path
        system, root = _file_system(self.url)
        index = _read_index(self.path)
        try:
            system.invalidate_cache()
            found = system.find(root, detail=True) if system.exists(root) else {}
            for remote, facts in found.items():
                name = remote[len(root) :].lstrip("/")
                mark = _mark_of(facts)
                local = self.path / name
                if not pathlib.PurePath(name).match(pattern) and pattern != "*":
                    continue
                if index.get(name, {}).get("remote") == mark and local.is_file():
                    continue
                local.parent.mkdir(parents=True, exist_ok=True)
                partial = local.with_name(f".{local.name}.partial")
                system.get_file(remote, str(partial))
                partial.replace(local)
                index[name] = {"remote": mark, "local": _local_mark(local)}
        except Exception as error:  # Every file system has errors of its own.
            raise BadInput(f"{self.url} cannot be read: {_first_line(error)}") from error
        if index:
            write_json(self.path / _INDEX, index)
        return self.path

    @contextlib.contextmanager
    def uploaded(self) -> Iterator[None]:
        """Uploads changes in the folder, every few seconds and at the end of the context.

        Raises:
            BadInput: The first or the last upload failed. The folder still has everything.
        """
        if not self.url:
            yield
            return
        upload = _Upload(self)
        upload.begin()
        try:
            yield
        finally:
            upload.end()


class _Upload:
    """A thread that uploads a folder, with a record of its uploads."""

    def __init__(self, location: Location):
        self._location = location
        self._system, self._root = _file_system(location.url)
        self._done = {name: entry["local"] for name, entry in _read_index(location.path).items()}
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def begin(self) -> None:
        try:
            self._upload()
        except Exception as error:  # Every file system has errors of its own.
            raise BadInput(
                f"{self._location.url} cannot be written: {_first_line(error)}"
            ) from error
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=_LAST_UPLOAD_SECONDS)
        where = f"{self._location.path} has everything"
        if self._thread.is_alive():
            raise BadInput(
                f"{self._location.url} took no more within {_LAST_UPLOAD_SECONDS:.0f} s; {where}"
            )
        if self._error is not None:
            raise BadInput(
                f"{self._location.url} cannot be written: {_first_line(self._error)}; {where}"
            ) from self._error

    def _run(self) -> None:
        announced = False
        ended = False
        while not ended:
            ended = self._ended.wait(_SECONDS_BETWEEN_UPLOADS)
            try:
                self._upload()
                self._error = None
            except Exception as error:  # `end` reports it if it lasts until then.
                self._error = error
                if not announced:
                    announced = True
                    print(
                        f"{self._location.url} cannot be written: {_first_line(error)}; everything "
                        f"is kept in {self._location.path}, and uploading is tried again",
                        file=sys.stderr,
                    )

    def _upload(self) -> None:
        there = {
            str(path.relative_to(self._location.path)): _local_mark(path)
            for path in self._location.path.rglob("*")
            if path.is_file() and not _passing(path.relative_to(self._location.path))
        }
        changed = [name for name, mark in there.items() if self._done.get(name) != mark]
        for name in sorted(changed, key=lambda name: (name.endswith(_LAST), name)):
            remote = f"{self._root}/{name}"
            self._system.makedirs(remote.rpartition("/")[0], exist_ok=True)
            try:
                self._system.put_file(str(self._location.path / name), remote)
            except FileNotFoundError:
                if (self._location.path / name).exists():
                    raise
                continue  # Removed meanwhile, like old checkpoints.
            self._done[name] = there[name]
        for name in set(self._done) - set(there):
            remote = f"{self._root}/{name}"
            if self._system.exists(remote):
                self._system.rm_file(remote)
            del self._done[name]


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BadInput(f"{url} cannot be used: {_first_line(error)}") from error
    return system, root.rstrip("/")


def _read_index(folder: pathlib.Path) -> dict[str, Any]:
    return read_json(folder / _INDEX) if (folder / _INDEX).is_file() else {}


def _mark_of(facts: dict[str, Any]) -> str:
    """Returns a hash that changes when the file at the URL does."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _local_mark(path: pathlib.Path) -> list[int]:
    facts = path.stat()
    return [facts.st_mtime_ns, facts.st_size]


def _passing(name: pathlib.PurePath) -> bool:
    """Returns whether a file is temporary."""
    return any(part.startswith(".") for part in name.parts) or name.name.endswith("-journal")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def find(name: str, root_dir: str, kind: str, *marks: str) -> Location:
    """Finds the location that a user means: a folder or URL, or a name below `root_dir`.

    Args:
        name: Name that the user wrote. It may continue below a run, as in RUN/collections/FIRST.
        root_dir: Folder or URL that holds the runs.
        kind: Kind of the location, in words.
        marks: Patterns of files, at least one of which the location must hold. Without patterns any
            folder will do.

    Raises:
        BadInput: There is no such location; the message says where the search went, and lists the
            nearest names there.
        OSError: A location may not be read, or `root_dir` is a file.
    """
    locations = [Location.of(name)]
    if "://" not in name and not pathlib.Path(name).is_absolute():
        locations.append(Location.of(root_dir) / name)
    for location in locations:
        folder = location.fetch()
        if folder.is_dir() and (not marks or any(matching(folder, mark) for mark in marks)):
            return location
    there = [path.name for path in matching(Location.of(root_dir).path, "*") if path.is_dir()]
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.4) or there[-3:]
    hint = f"{root_dir} holds {', '.join(near)}" if near else f"{root_dir} holds no runs"
    raise BadInput(f"no {kind} at {name}, nor {name} in {root_dir}; {hint}")
