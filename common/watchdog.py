"""Ends what a command leaves that was killed: python watchdog.py FOLDER.

A process of its own, so that it outlives the command. It holds the reading end of a pipe. Bytes
in it say that the command has ended in good order; its end without any, that it was killed.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import time

import psutil

_GRACE_SECONDS = 1.0  # Most of Ray's processes notice by themselves.
_LOOK_SECONDS = 0.5
_LOOKS = 20


def main() -> None:
    """Waits for the command's end, and ends what is of its folder."""
    folder = pathlib.Path(sys.argv[1])
    if sys.stdin.buffer.read():
        return
    time.sleep(_GRACE_SECONDS)
    for _ in range(_LOOKS):
        left = list(processes_of(folder))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:
            break
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: pathlib.Path) -> "list[psutil.Process]":
    """This user's processes that a Ray with its files in a folder consists of."""
    own = os.getuid()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.uids().real == own
                and _is_of(process, folder)
            ):
                found.append(process)
    return found


def _is_of(process: psutil.Process, folder: pathlib.Path) -> bool:
    """Whether a process was started for a folder; one that only names or reads it was not."""
    if process.environ().get("TMPDIR") == str(folder):
        return True
    # The title of some of Ray's agents has overwritten their environment.
    title = " ".join(process.cmdline())
    return title.startswith("ray::") and folder in (at := pathlib.Path(process.cwd()), *at.parents)


if __name__ == "__main__":
    main()
