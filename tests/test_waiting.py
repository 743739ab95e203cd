"""How long parts are waited for, what is said meanwhile, and what when one has failed."""

import contextlib
import signal
import sys
import time

import psutil
import pytest
from runs_for_tests import FLAGS, running, wait_until_nothing_is_left

from common import clock, process_logs, waiting
from common.clock import AwakeClock
from common.errors import PartFailed
from common.waiting import Patience, said_if_long

pytestmark = [pytest.mark.run, pytest.mark.slow]

BUSY = "while True: pass"
IDLE = "import time; time.sleep(600)"


# --- Patience ---------------------------------------------------------------------------


@pytest.fixture
def part(monkeypatch):
    """Starts a process that runs some code, which is the part that is waited for."""
    started = []
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "_MOVED_SECONDS", 0.02)

    def start(code):
        started.append(psutil.Popen([sys.executable, "-S", "-c", code]))
        monkeypatch.setattr(waiting, "processes_of", lambda _part: started)
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()


def seconds_until_given_up(patience, most):
    started = time.monotonic()
    with pytest.raises(PartFailed) as failure:
        looks_for(patience, most)
    return time.monotonic() - started, str(failure.value)


def looks_for(patience, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        patience.look()
        time.sleep(0.02)


def test_a_part_that_moves_is_waited_for_and_one_that_stops_is_given_up(part):
    process = part(BUSY)
    patience = Patience("Learner", "the learner did not start", 2.0, most_used=1000)
    looks_for(patience, 5)
    process.send_signal(signal.SIGSTOP)
    _, message = seconds_until_given_up(patience, 20)
    assert message == "the learner did not start: no answer and nothing of it moved for 2 s"


def test_a_part_that_does_nothing_is_given_up(part):
    part(IDLE)
    seconds, _ = seconds_until_given_up(Patience("Learner", "it did not start", 0.5), 10)
    assert seconds > 0.4


def test_a_part_that_works_and_never_answers_is_given_up(part):
    part(BUSY)
    patience = Patience("Learner", "no step", 2.0, most_used=0.2)
    assert "though it works" in seconds_until_given_up(patience, 20)[1]


def test_workers_that_die_as_they_start_do_not_move(part, monkeypatch):
    patience = Patience("Learner", "it did not start", 1.0, most_used=1000)
    processes: list[psutil.Popen] = []

    def another(_part):
        for process in processes:
            process.kill()
            process.wait()
        processes[:] = [part(BUSY)]
        monkeypatch.setattr(waiting, "processes_of", another)
        time.sleep(0.1)
        return processes

    monkeypatch.setattr(waiting, "processes_of", another)
    seconds_until_given_up(patience, 10)


def test_a_part_elsewhere_has_its_seconds(monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "_STILL_SECONDS", 0.2)
    seconds, message = seconds_until_given_up(Patience("Learner", "it did not start", 1.0), 10)
    assert seconds >= 1.0
    assert message == "it did not start: no answer for 1 s"


def test_time_in_which_the_command_was_stopped_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    awake, patience = AwakeClock(), Patience("Learner", "the learner does not answer")
    for _ in range(20):
        now[0] += 1
        awake.seconds()
        patience.look()
    now[0] += 3600  # Ctrl-Z, a debugger, or a laptop that sleeps.
    patience.look()
    assert awake.seconds() == 25
    for _ in range(30):
        now[0] += 1
        patience.look()


# --- What is said -----------------------------------------------------------------------


def test_what_takes_long_is_said_once_and_what_does_not_is_not():
    said: list[str] = []
    with said_if_long("the learner to start", said.append, seconds=0.1):
        time.sleep(0.4)
    with said_if_long("Ray to start", said.append, seconds=0.4):
        time.sleep(0.05)
    time.sleep(0.5)
    assert said == ["waiting for the learner to start"]


def test_the_last_lines_of_the_log_of_the_part_that_failed_are_found(tmp_path):
    lines = "".join(f"line {number}\n" for number in range(5000))
    (tmp_path / "worker-1-01-11.err").write_text(f":job_id:01\n:actor_name:Learner\n{lines}")
    (tmp_path / "worker-2-01-12.err").write_text(":job_id:01\n:actor_name:LearnerToo\nno\n")
    (tmp_path / "worker-3-01-13.err").write_text(":job_id:01\nImportError: no module\n")
    (tmp_path / "worker-4-01-14.err").write_text(":job_id:01\n:actor_name:Silent\n")
    assert process_logs.last_lines_of_part("Learner") == ""
    with process_logs.kept_in(tmp_path):
        shown = process_logs.last_lines_of_part("Learner").splitlines()
        assert shown[0].endswith("worker-1-01-11.err:")
        assert shown[1:] == [f"    line {number}" for number in range(4990, 5000)]
        # It died before Ray made it a part.
        assert "ImportError: no module" in process_logs.last_lines_of_part("Silent")


# --- Real runs --------------------------------------------------------------------------


def signal_to(run, part, number):
    """Sends a signal to a part as soon as it is there, which then never starts."""
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        for child in psutil.Process(run.process.pid).children(recursive=True):
            if child.name().startswith(part):
                child.send_signal(number)
                return
        time.sleep(0.02)
    raise AssertionError(run.said())


@pytest.mark.parametrize(
    ("part", "number", "waits_for"),
    [
        ("ray::Learner", signal.SIGINT, "waiting for the learner to start"),
        ("ray::ReplayServer", signal.SIGTERM, "waiting for the replay server to start"),
        ("raylet", signal.SIGTERM, "waiting for Ray to start"),
    ],
)
def test_a_signal_ends_a_start_that_hangs(folder, part, number, waits_for):
    name = f"hangs-{part[-6:]}"
    with running(folder, folder / "runs" / name, "--name", name, *FLAGS) as hanging:
        signal_to(hanging, part, signal.SIGSTOP)
        hanging.wait_until(lambda run: waits_for in run.said())
        started = time.monotonic()
        hanging.process.send_signal(number)
        hanging.process.communicate(timeout=600)
        busy = max(1.0, psutil.getloadavg()[0] / psutil.cpu_count())
        assert time.monotonic() - started < 5 * busy
        assert hanging.process.returncode == 130
        if part.startswith("ray::"):
            assert hanging.status()["state"] == "stopped"
        said = hanging.said()
    assert said.count(waits_for) == 1
    assert "Traceback" not in said
    wait_until_nothing_is_left(folder)


def test_a_part_that_dies_as_it_starts_shows_its_log_and_the_run_goes_on(folder):
    flags = ["--name", "dies", *FLAGS, "--max-steps", 1_000_000]
    with running(folder, folder / "runs" / "dies", *flags) as dying:
        signal_to(dying, "ray::Learner", signal.SIGSEGV)
        dying.wait_until(lambda run: run.status()["state"] == "training")
        said = dying.said()
        dying.end(signal.SIGTERM, 60)
    assert "the learner did not start: its process died; the last lines of its log, work" in said
    assert '\n      File "' in said  # Of the stack.
    assert "Traceback" not in said
    wait_until_nothing_is_left(folder)
