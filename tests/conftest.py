"""For all tests."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import pytest
from runs_for_tests import (
    FLAGS,
    WARM_UP,
    Recorded,
    StartedError,
    command,
    environment_variables,
    run,
    wait_until_nothing_is_left,
)
from xdist.scheduler import LoadScopeScheduling

import pianist
import piano  # noqa: F401 - settles which OpenGL is used, before MuJoCo is imported.

_SHARED_MEMORY = pathlib.Path("/dev/shm")
_BEFORE = pytest.StashKey[set]()
_COMPILED = "JAX_COMPILATION_CACHE_DIR"


def pytest_sessionstart(session):
    session.config.stash[_BEFORE] = set(_SHARED_MEMORY.iterdir())
    if not hasattr(session.config, "workerinput"):
        # All runs learn with the same small networks: what one has compiled serves the others.
        os.environ[_COMPILED] = tempfile.mkdtemp(prefix="p-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """After all tests, those of other processes too, no shared memory is left behind."""
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(os.environ[_COMPILED])
        left = set(_SHARED_MEMORY.iterdir()) - session.config.stash[_BEFORE]
        if left:
            print(f"\nshared memory left behind: {sorted(map(str, left))}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


_LOOK_AT_ONE_RUN = ("test_training.py", "test_segments.py", "test_fine_tuning.py")
_TAKE_LONGEST = (
    *("test_cluster.py", *_LOOK_AT_ONE_RUN, "test_autoscaling.py"),
    *("test_scale.py", "test_benchmarks.py", "test_replay.py"),
)


class _ByFile(LoadScopeScheduling):
    """Of tests that run side by side, those of a file, or that look at one run, stay together."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0].rpartition("/")[2]
        return "trained" if file in _LOOK_AT_ONE_RUN else file


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that no process is left alone with it at the end."""
    order = {name: number for number, name in enumerate(_TAKE_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_xdist_make_scheduler(config, log):
    return _ByFile(config, log)


@pytest.fixture(scope="session")
def folder():
    """Short: the paths of Ray's sockets are limited to 107 characters."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="p-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def trained(folder):
    """A finished run: its answer, and its folder."""
    result = run(
        folder,
        *("train", "--name", "scale", *FLAGS, "--actors", 2, "--environments-per-actor", 2),
        *("--warmstart-steps", WARM_UP, "--max-steps", 1500, "--eval-interval", 700),
        *("--log-interval", 200, "--record-every", 3, "--json"),
    )
    assert result.returncode == 0, result.stderr
    wait_until_nothing_is_left(folder)
    return json.loads(result.stdout), folder / "runs" / "scale"


@pytest.fixture(scope="session")
def recorded(trained, folder):
    """A collection of the trained run, interrupted half way and completed by the same command."""
    _, path = trained
    arguments = (
        *("segments", "scale", "--whole-pieces", "--noise", 0, 0.2),
        *("--record-resolution", 48, 64, "--json"),
    )
    with subprocess.Popen(
        command(*arguments, "--actors", 1),
        cwd=folder,
        env=environment_variables(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 500
        while not list(path.glob("collections/*/segments/[0-9]*/segment.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    wait_until_nothing_is_left(folder)
    finished = {
        file.parent.name: file.stat().st_mtime_ns
        for file in path.glob("collections/*/segments/[0-9]*/segment.json")
    }
    result = run(folder, *arguments)
    assert result.returncode == 0, result.stderr
    wait_until_nothing_is_left(folder)
    answer = json.loads(result.stdout)
    collection = folder / answer["collection"]
    return Recorded(collection, process.returncode, errors, finished, answer)


@pytest.fixture
def run_cli(monkeypatch, capsys, folder):
    """Calls `pianist` in this process, where no Ray starts: exit code, answer and complaint."""
    from common import ray_session

    def start(*_arguments):
        raise StartedError

    monkeypatch.setattr(ray_session, "connect", start)
    # `main` sets it for the rest of the process.
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(folder)
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pianist", *map(str, arguments)])
        exit_code = pianist.main()
        return exit_code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, handler)
