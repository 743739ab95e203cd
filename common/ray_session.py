"""A connection to Ray: to an existing cluster, otherwise to a Ray of this command's own."""

import contextlib
import fcntl
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import psutil
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from common import host, patient_ray, process_logs, watchdog
from common.errors import BadInput, PartFailed, require
from common.memory import RAY_THRESHOLD
from common.terminal import ENDING_SIGNALS
from common.time_limit import call_with_timeout
from common.waiting import said_if_long, to_standard_error

_OBJECT_STORE_BYTES = 300_000_000
_CONNECT_SECONDS = 10.0
_JOIN_SECONDS = 60.0
_TOKEN = (
    "set RAY_AUTH_MODE=token, and have the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
)
_NOTICE_SECONDS = 2.0
_STOPPED_EXIT_CODE = 130  # The CLI exits with the same code.
_END_SECONDS = 10.0
_PREFIX, _LOCK = "pianist-", "lock"
_OF_RAY = rf"{_PREFIX}[a-z0-9_]{{8}}"  # `tempfile` names folders like this.
_LOCK_SECONDS = 60.0
_PORTS = 65536
_LONGEST_SOCKET = 103
_LONGEST_BELOW = len(
    f"/{_PREFIX}12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)


def cluster_address() -> str | None:
    """Returns the address of the cluster to run on; None means a Ray of this command's own.

    The address comes from RAY_ADDRESS, or else from the cluster that `ray start` began on this
    machine. Ray's "auto" would also join the private Ray of another run, and end with it.

    Raises:
        BadInput: The address is invalid, or no suitable cluster answers there.
    """
    address, source = os.environ.get("RAY_ADDRESS", "").strip(), "RAY_ADDRESS"
    if not address:
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        source = str(pathlib.Path(folder) / "ray" / "ray_current_cluster")
        address = _own_text(pathlib.Path(source)) or "local"
    if address == "local":
        return None
    fix = (
        "unset RAY_ADDRESS to use a Ray of this command's own"
        if source == "RAY_ADDRESS"
        else "run `ray stop` to use a Ray of this command's own"
    )
    require(
        "://" not in address,
        f"RAY_ADDRESS is {address}, must be HOST:PORT of a cluster's head, as `ray start` prints "
        "it. From outside a cluster run `pianist submit`",
    )
    head, _, port = address.rpartition(":")
    require(
        bool(head) and port.isdecimal() and int(port) < _PORTS,
        f"{source} says {address!r}, must be HOST:PORT of a Ray cluster; {fix}",
    )
    try:
        socket.create_connection((head, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"no Ray cluster answers at {address} (from {source}): start it, or {fix}"
        ) from error
    _ask(address, source, fix)
    return address


def _ask(address: str, source: str, fix: str) -> None:
    """Asks a cluster's head for its version, because Ray itself would try for minutes.

    Raises:
        BadInput: The address has no Ray cluster, one of another version, or one that wants another
            token.
    """
    where = f"{address} (from {source})"
    try:
        with init_grpc_channel(address) as channel:
            stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            # Ray's types do not cover generated code.
            request = gcs_service_pb2.CheckAliveRequest()  # type: ignore[attr-defined]
            version = stub.CheckAlive(request, timeout=_CONNECT_SECONDS).ray_version
    except ray.exceptions.AuthenticationError as error:  # There is no token here.
        raise BadInput(f"RAY_AUTH_MODE is token, but there is no token: {_TOKEN}") from error
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.UNAUTHENTICATED:
            message = f"the Ray cluster at {where} refuses this machine's token: {_TOKEN}"
        elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
            message = (
                f"what listens at {where} has not answered for {_CONNECT_SECONDS:.0f} s: is it the "
                f"head of a Ray cluster? Start one, or {fix}"
            )
        else:
            reason = (error.details() or code.name).rpartition("last error: ")[2]
            message = (
                f"what answers at {where} is no head of a Ray cluster ({reason}): name the port "
                f"that `ray start` prints, or {fix}"
            )
        raise BadInput(message) from error
    require(
        version == ray.__version__,
        f"the Ray cluster at {where} is of version {version}, Ray here of {ray.__version__}: "
        f"install the same on both, or {fix}",
    )


def _own_text(file: pathlib.Path) -> str:
    """Returns the text of this user's file; empty if the file is missing or another user's.

    Another user's Ray is for that user alone.
    """
    try:
        return file.read_text().strip() if file.stat().st_uid == os.getuid() else ""
    except OSError:
        return ""


def _join(address: str) -> None:
    """Joins a cluster.

    Raises:
        BadInput: The cluster refuses, for example because its version of Python differs.
    """
    try:
        with said_if_long(f"the Ray cluster at {address} to answer"), _working_folder_of("/"):
            call_with_timeout(
                _JOIN_SECONDS,
                lambda: ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR),
            )
    except Exception as error:  # Ray raises no narrower error.
        raise BadInput(
            f"the Ray cluster at {address} cannot be joined: {' '.join(str(error).split())}"
        ) from error


@contextlib.contextmanager
def connect(address: str | None, keep_logs: pathlib.Path) -> Iterator[None]:
    """Connects to Ray, and disconnects at the end of the context.

    Args:
        address: Address of a cluster. With None, Ray is started here for as long as the context
            lasts, and nothing of it is left behind.
        keep_logs: Folder for the logs of a Ray of this command's own, if the context ends in an
            error.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        _join(address)
        try:
            yield
        finally:
            # Connections that a vanished cluster leaves open end with this process.
            with contextlib.suppress(TimeoutError):
                call_with_timeout(_JOIN_SECONDS, ray.shutdown)
        return
    # The user has not been asked to agree to Ray's usage reports.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Task events have no reader, and Ray would keep 100,000 of them: there is no dashboard, and the
    # parts are called several times a second.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    # Workers keep the priority of this command. Ray would add 15 to their niceness, which leaves
    # them 3% of a core beside any other program of ordinary priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray would end workers when other programs have nearly filled the memory. If memory runs out,
    # Linux ends processes itself, Ray's workers first. A user who sets a threshold wants it kept.
    if RAY_THRESHOLD not in os.environ:
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    # On a busy machine workers may need longer than the minute that Ray gives them, and Ray's own
    # agents longer than half a minute. `Patience` decides whether anything still moves.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "1800")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "1800000")
    _remove_abandoned()
    folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_roomy_folder()))
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    logs = folder / "session_latest" / "logs"
    try:
        with _watched(folder) as stand_down:
            try:
                with process_logs.kept_in(logs):
                    with said_if_long("Ray to start"):
                        _start(folder)
                    try:
                        yield
                    finally:
                        ray.shutdown()
                        stand_down()
            except Exception:
                _keep(logs, keep_logs)
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _keep(logs: pathlib.Path, where: pathlib.Path) -> None:
    """Copies the logs of a Ray that failed.

    An error of the copy is only printed, because the failure of Ray is what counts.
    """
    if not logs.is_dir():
        return
    try:
        shutil.copytree(logs, where, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    except OSError as error:  # One error covers all files and has no error number.
        to_standard_error(f"the logs of Ray cannot be kept in {where}: {str(error)[:200]}")


def _remove_abandoned() -> None:
    """Removes the folders of killed runs, whose locks are free.

    A Ray process that ended late may have made such a folder again, without a lock.
    """
    found = [folder for parent in _short_folders() for folder in parent.glob(f"{_PREFIX}*")]
    for folder in found:
        with contextlib.suppress(OSError):
            try:
                with (folder / _LOCK).open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            except FileNotFoundError:
                if _is_left_over(folder):
                    shutil.rmtree(folder)


def _is_left_over(folder: pathlib.Path) -> bool:
    """Returns whether a folder without a lock belongs to this user's Ray and is out of use."""
    facts = folder.stat(follow_symlinks=False)
    return (
        re.fullmatch(_OF_RAY, folder.name) is not None
        and stat.S_ISDIR(facts.st_mode)
        and facts.st_uid == os.getuid()
        # A younger folder may be about to get its lock.
        and time.time() - facts.st_mtime > _LOCK_SECONDS
        and any(folder.glob("session_*"))
        and not watchdog.processes_of(folder)
    )


def _short_folders() -> list[pathlib.Path]:
    """Returns folders for temporary files that Ray can use, the usual one first.

    The paths of Ray's sockets are limited to 107 characters, on macOS to 103.

    Raises:
        BadInput: There is no such folder.
    """
    usual = pathlib.Path(tempfile.gettempdir())
    folders = [usual, *map(pathlib.Path, host.OTHER_FOLDERS)]
    short = [
        folder
        for folder in dict.fromkeys(folders)
        if len(os.fsencode(folder)) + _LONGEST_BELOW <= _LONGEST_SOCKET
        and re.fullmatch(r"[\w./+-]+", str(folder), re.ASCII)
        and folder.is_dir()
        and os.access(folder, os.W_OK | os.X_OK)
    ]
    require(
        bool(short),
        f"TMPDIR ({usual}) is too long or odd for the sockets of Ray, and none of "
        f"{', '.join(host.OTHER_FOLDERS)} can be written: set TMPDIR to a folder with a short name",
    )
    return short


def _roomy_folder() -> pathlib.Path:
    """Returns the first of the `_short_folders` with enough free space for Ray's files.

    Raises:
        BadInput: All folders are full.
    """
    folders = _short_folders()
    roomy = next(filter(host.has_room, folders), None)
    if roomy is None:
        raise BadInput(
            f"{', '.join(map(str, folders))}: less than {host.LEAST_ROOM / 1e6:.0f} MB are free, "
            "which Ray takes for its files: make room, or set TMPDIR to a folder that has it"
        )
    return roomy


@contextlib.contextmanager
def _watched(folder: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Starts a watchdog that ends Ray's processes and removes the folder if this process is killed.

    The watchdog also does so at the end of the context, unless the yielded function has been called
    to say that Ray has ended.
    """
    dog = subprocess.Popen(
        [sys.executable, watchdog.__file__, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    last_word = []
    try:
        yield lambda: last_word.append(b"ended")
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            dog.communicate(b"".join(last_word), timeout=_END_SECONDS)


@contextlib.contextmanager
def _working_folder_of(folder: pathlib.Path | str) -> Iterator[None]:
    """Makes a folder the working folder for as long as the context lasts.

    Ray has workers import from the folder that its driver begins in. A file there, such as
    random.py, would take the place of a module.
    """
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _start(folder: pathlib.Path) -> None:
    """Starts a Ray of this command's own, whose files lie in the folder.

    Raises:
        PartFailed: Ray did not start.
    """
    before = _children()
    try:
        with (
            _sigterm_as_before(),
            _temporary_files_in(folder),
            _working_folder_of(folder),
            patient_ray.patient() as options,
            _hangups_kept_from_children(),
            _left_at_a_signal(folder, before),
        ):
            ray.init(
                address="local",
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
                **options,
            )
    except BaseException as error:
        _end(_children() - before)
        if not isinstance(error, Exception) or isinstance(error, PartFailed):
            raise
        # Ray raises no narrower error.
        raise PartFailed(f"Ray did not start: {error}{process_logs.last_lines_of_ray()}") from error


@contextlib.contextmanager
def _sigterm_as_before() -> Iterator[None]:
    """Restores the handler of SIGTERM, since Ray sets one that exits with code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _left_at_a_signal(folder: pathlib.Path, before: set[psutil.Process]) -> Iterator[None]:
    """Ends this process at a signal that Ray does not notice.

    Ray's C++ code waits for half a minute at a time, during which Python handles no signal.

    Args:
        folder: Folder to remove.
        before: Processes below this one that are not Ray's.
    """
    if threading.current_thread() is not threading.main_thread():  # Gets no signals.
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    over = threading.Event()

    def watch() -> None:
        while (received := reader.recv(1)) and received[0] not in ENDING_SIGNALS:
            pass
        if received and not over.wait(_NOTICE_SECONDS):
            _end(_children() - before)
            shutil.rmtree(folder, ignore_errors=True)
            print("pianist: stopped", file=sys.stderr, flush=True)
            os._exit(_STOPPED_EXIT_CODE)

    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join()
        reader.close()


@contextlib.contextmanager
def _hangups_kept_from_children() -> Iterator[None]:
    """Blocks SIGHUP in this thread, and so in the processes that it starts.

    The end of a terminal also sends SIGHUP to these processes, which would then die before the
    checkpoint is saved. Other threads of this process still receive the signal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _temporary_files_in(folder: pathlib.Path) -> Iterator[None]:
    """Puts temporary files of processes that start within the context into a folder.

    When these processes are killed, the files that they leave behind are removed with the folder. A
    variable of Ray's runtime environment would do the same, but it would rule out workers that Ray
    already has ready.
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
    """Ends the processes that a failed start of Ray has left behind.

    Ray itself would end them only when this process ends.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_END_SECONDS)
