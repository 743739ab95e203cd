"""A connection to Ray: to the cluster that is there, otherwise to one of our own."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator

import psutil
import ray

from replay.errors import BadInput

_OBJECT_STORE_BYTES = 300_000_000
_CONNECT_SECONDS = 10.0
# On a busy machine Ray's processes may need longer than the half minute that it gives them.
_ATTEMPTS = 3
_TOO_SLOW = "timed out during startup"
_END_SECONDS = 10.0
_PREFIX, _LOCK = "pianist-", "lock"


def cluster_address() -> str | None:
    """The cluster to run on: RAY_ADDRESS, or that which `ray start` began on this machine.

    None means a Ray of our own. (Ray's "auto" would also join the private Ray of another run,
    and end with it.)

    Raises:
        BadInput: nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        file = pathlib.Path(folder) / "ray" / "ray_current_cluster"
        address = file.read_text().strip() if file.is_file() else "local"
    if address == "local":
        return None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        # Ray itself would try for minutes.
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"no Ray cluster answers at {address} (from RAY_ADDRESS or `ray start`): start it, "
            "or go on without by unsetting RAY_ADDRESS and running `ray stop`"
        ) from error
    return address


@contextlib.contextmanager
def connect(address: str | None, keep_logs: pathlib.Path) -> Iterator[None]:
    """Connects to Ray and leaves it.

    Args:
        address: of a cluster. With None, Ray is started here for as long as the context lasts,
            and nothing of it is left behind.
        keep_logs: folder for the logs of a Ray of our own, if the context ends in an error.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Nobody has been asked whether Ray may report how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Nor does anybody look at the events of tasks, of which Ray would keep 100,000: there is no
    # dashboard, and the parts are called several times a second.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    _remove_abandoned()
    # Short: the paths of Ray's sockets are limited to 107 characters.
    folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        _start(folder)
        try:
            yield
        finally:
            ray.shutdown()
    except Exception:
        logs = folder / "session_latest" / "logs"
        if logs.is_dir():
            shutil.copytree(logs, keep_logs, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _remove_abandoned() -> None:
    """Removes what runs have left that were killed: nobody holds their lock any more."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def _start(folder: pathlib.Path) -> None:
    """Starts a Ray of our own, whose files lie in the folder."""
    before = _children()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _temporary_files_in(folder):
                ray.init(
                    address="local",
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder),
                )
        except Exception as error:  # Ray raises nothing more special.
            _end(_children() - before)
            if _TOO_SLOW not in str(error) or attempt == _ATTEMPTS:
                raise
            print("Ray did not start in its half minute; trying again", file=sys.stderr)
        else:
            return


@contextlib.contextmanager
def _temporary_files_in(folder: pathlib.Path) -> Iterator[None]:
    """For processes that are started meanwhile: what they leave when they are ended goes with it.

    A variable of Ray's runtime environment would do the same, but no worker that Ray has ready
    could then be used.
    """
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """Ends what a Ray that did not start has started; Ray itself would when this process ends."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_END_SECONDS)
