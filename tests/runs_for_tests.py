"""The small real runs that several files of tests look at, and how to start more."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import psutil

ROOT = pathlib.Path(__file__).parent.parent
SCALE = ROOT / "example_midis" / "five_finger_scale.mid"
FLAGS = [
    *("--midi-file", SCALE, "--trim-silence", "--gravity-compensation", "--reduced-action-space"),
    *("--primitive-fingertip-collisions", "--action-reward-observation"),
    *("--agent-config.hidden-dims", 32, 32, "--batch-size", 16, "--record-resolution", 48, 64),
    *("--replay-capacity", 20_000),
]
WARM_UP = 300
PATIENCE = 500
"""Seconds for what is waited for and is no promise: a machine may be slow and busy."""


class Recorded(NamedTuple):
    """A collection of the trained run, interrupted half way and then completed."""

    path: pathlib.Path
    exit_code: int
    """Of the command that was interrupted."""
    errors: str
    """What that command printed for people."""
    finished: dict[str, int]
    """The segments that it had finished: name, and when (nanoseconds)."""
    answer: dict
    """Of the command that completed it."""


class StartedError(Exception):
    """Everything has been checked: Ray would be started now."""


def command(*arguments):
    return [sys.executable, str(ROOT / "pianist.py"), *map(str, arguments)]


def environment_variables(folder):
    # Where CI is set, as on every continuous integration service, libraries say more.
    return os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "CI": "true"}


def run(folder, *arguments, seconds=900):
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment_variables(folder),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def as_ordinary_user(*words):
    """The same command, for whom the permissions of files count: root's are above them."""
    if os.getuid():
        return [*words]
    above = "-dac_override,-dac_read_search,-fowner,-chown"
    return ["setpriv", f"--bounding-set={above}", "--inh-caps=-all", *words]


class HeldBack:
    """Leaves a process a third of the time, until `end`: others need the processors.

    Its priority would not do: it counts among the processes of its session only.
    """

    def __init__(self, process):
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._hold_back, daemon=True)
        self._thread.start()

    def end(self):
        self._ended.set()
        self._thread.join()

    def _hold_back(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.2):
                self._process.suspend()
                self._ended.wait(0.4)
                self._process.resume()


def learner_of(process):
    """The learner of the run whose process that is, where Ray was started by it."""
    (found,) = (
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("ray::Learner")
    )
    return found


class Running:
    """`pianist train` as a process, and what it says of itself."""

    def __init__(self, folder, path, *arguments, environment=None, before=()):
        self.path = path
        self.errors = (folder / f"{path.name}.txt").open("a+")
        self.process = subprocess.Popen(
            [*before, *command("train", *arguments)],
            cwd=folder,
            env=environment_variables(folder) | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def status(self):
        try:
            return json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "starting", "environment_steps": 0, "learner_steps": 0}

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def wait_until(self, what, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while not what(self):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, (self.status(), self.said())
            time.sleep(0.1)

    def end(self, number, seconds):
        self.process.send_signal(number)
        answer, _ = self.process.communicate(timeout=seconds)
        self.errors.close()
        return answer


@contextlib.contextmanager
def running(folder, path, *arguments, **more):
    """Ends with the block, whatever happens in it."""
    begun = Running(folder, path, *arguments, **more)
    try:
        yield begun
    finally:
        if begun.process.poll() is None:
            begun.end(signal.SIGKILL, 60)
        assert begun.process.stdout is not None
        begun.process.stdout.close()


def left_behind(folder):
    """Processes that were started with our folder for temporary files, and what lies in it."""
    processes = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("TMPDIR", "").startswith(str(folder)):
                processes.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes + [path.name for path in folder.glob("pianist-*")]


def wait_until_nothing_is_left(folder, seconds=60):
    deadline = time.monotonic() + seconds
    while left_behind(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left_behind(folder) == []


def assert_refused(result, *words):
    """Exit code 2, no answer, and one line that says why."""
    exit_code, answer, errors = result
    assert exit_code == 2, errors
    assert answer == ""
    assert "Traceback" not in errors
    (complaint,) = (line for line in errors.splitlines() if line.startswith("pianist: "))
    for word in words:
        assert word in complaint
