"""The logs of Ray's processes, which say why one of them failed."""

import contextlib
import pathlib
from collections.abc import Iterator

_LINES = 10
_LONGEST_LINE = 200
_LARGEST_TAIL = 20_000
# Beginnings of lines that Ray writes into the log of every worker.
_MARKS = (":job_id:", ":actor_name:", ":task_name:")

# Empty if Ray is a cluster, because its logs are on its own machines.
_folders: list[pathlib.Path] = []


@contextlib.contextmanager
def kept_in(folder: pathlib.Path) -> Iterator[None]:
    """Registers the folder of the logs for as long as the block lasts."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def last_lines_of_part(part: str) -> str:
    """Returns the last lines of the newest log of a part, indented; empty if there are none.

    Args:
        part: Name of the part's class.
    """
    mark = f":actor_name:{part}"
    others = []
    for file in _newest_first("worker-*.err"):
        text = _tail(file)
        lines = _lines(text)
        if lines and mark in text.splitlines():
            return _shown(file, lines)
        if lines and ":actor_name:" not in text:
            others.append((file, lines))
    # The log of a worker that failed before it became a part, such as one that cannot import Ray.
    return _shown(*others[0]) if others else ""


def last_lines_of_ray() -> str:
    """Returns the last lines that Ray's own processes logged, indented; empty if there are none."""
    for pattern in ("raylet.err", "gcs_server.err", "raylet.out", "gcs_server.out"):
        for file in _newest_first(pattern):
            if lines := _lines(_tail(file)):
                return _shown(file, lines)
    return ""


def _newest_first(pattern: str) -> list[pathlib.Path]:
    files = [file for folder in _folders for file in folder.glob(pattern)]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def _tail(file: pathlib.Path) -> str:
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        # The first line tells whose log it is.
        opened.seek(0)
        head = opened.read(200) if size > _LARGEST_TAIL else b""
        opened.seek(max(0, size - _LARGEST_TAIL))
        return (head + b"\n" + opened.read()).decode(errors="replace")


def _lines(text: str) -> list[str]:
    kept = [line.rstrip() for line in text.splitlines() if not line.startswith(_MARKS)]
    return [line for line in kept if line][-_LINES:]


def _shown(file: pathlib.Path, lines: list[str]) -> str:
    shown = "".join(f"\n    {line[:_LONGEST_LINE]}" for line in lines)
    return f"; the last lines of its log, {file.name}:{shown}"
