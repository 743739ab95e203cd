"""Ends the processes that a killed command leaves behind: python watchdog.py FOLDER.

The watchdog is a process of its own, so that it outlives the command. It holds the reading end of a
pipe. Bytes in the pipe say that the command ended in good order. If the pipe ends without bytes,
the command was killed.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import time

import psutil

_GRACE_SECONDS = 1.0  # Most of Ray's processes end by themselves.
_LOOK_SECONDS = 0.5
_LOOKS = 20


def main() -> None:
    """Waits for the command's end; if it was killed, ends its processes and removes its folder."""
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
    """Returns this user's processes that belong to a Ray whose files are in `folder`."""
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
    """Returns whether a process was started for a folder; naming or reading it is not enough."""
    if process.environ().get("TMPDIR") == str(folder):
        return True
    # Some of Ray's agents overwrite their environment with their title.
    title = " ".join(process.cmdline())
    return title.startswith("ray::") and folder in (at := pathlib.Path(process.cwd()), *at.parents)


if __name__ == "__main__":
    main()
