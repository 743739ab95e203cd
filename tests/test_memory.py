"""A machine whose memory others take: what is left, and how a run waits for it."""

import signal
import subprocess
import sys

import psutil
import pytest
import ray
from runs_for_tests import FLAGS, running, wait_until_nothing_is_left

from common.errors import OutOfMemory, PartFailed
from common.memory import RAY_THRESHOLD, free
from common.ray_errors import part_failed
from training import memory

pytestmark = pytest.mark.run

GB = 1e9
FAILURE = OutOfMemory("the learner died: its machine is short of memory")


@pytest.mark.parametrize(
    ("limit_file", "used_file", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_the_limit_of_a_container_counts_and_caches_do_not(tmp_path, limit_file, used_file, cache):
    (tmp_path / "memory").mkdir()
    (tmp_path / limit_file).write_text("1000000000\n")
    (tmp_path / used_file).write_text("600000000\n")
    stat = (tmp_path / limit_file).with_name("memory.stat")
    stat.write_text(f"anon 500000000\n{cache} 100000000\nactive_anon 3\n")
    assert free(tmp_path) == (0.5 * GB, 1.0 * GB)


def test_without_a_limit_the_machine_counts_and_ray_s_threshold(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    machine = psutil.virtual_memory()
    assert free(tmp_path)[0] == pytest.approx(machine.available, abs=1 * GB)
    monkeypatch.setenv(RAY_THRESHOLD, "0.5")
    assert free(tmp_path)[1] == 0.5 * machine.total


@pytest.fixture
def wait(monkeypatch):
    """A wait for 2 GB, with what is free, what is said, and whether the run is to end."""
    free, said, ends = [8 * GB], list[str](), list[bool]()
    monkeypatch.setattr(memory, "free", lambda: (free[0], 16 * GB))
    monkeypatch.setattr(memory, "_LOOK_SECONDS", 0.01)
    return memory.MemoryWait(2 * GB, said.append, lambda: bool(ends)), free, said, ends


def test_it_is_said_once_and_again_when_there_is_memory(wait):
    waits, free, said, _ = wait
    assert not waits.is_short
    for _ in range(3):
        waits.wait(FAILURE)
    assert len(said) == 1
    assert said[0].startswith(str(FAILURE))
    waits.trains()
    waits.trains()
    assert said[1:] == ["there is memory again: the run goes on"]
    free[0] = 1 * GB
    assert waits.is_short


def test_half_an_hour_without_memory_ends_the_run_and_so_does_a_signal(wait, monkeypatch):
    waits, free, said, ends = wait
    free[0] = 1 * GB
    monkeypatch.setattr(memory, "_WAIT_SECONDS", 0.1)
    with pytest.raises(OutOfMemory, match="there was no memory for"):
        waits.wait(FAILURE)
    ends.append(True)
    waits.wait(FAILURE)
    assert len(said) == 1


def test_what_ray_says_becomes_one_line():
    killed = ray.exceptions.OutOfMemoryError(
        "3 worker(s) were killed due to the node running low on memory. Memory on the node (IP: "
        "10.0.0.1, ID: ab) was 2.89GB used / 23.54GB limit (0.122853)\nOOM kill reason: ..."
    )
    failure = part_failed("the learner died", killed)
    assert isinstance(failure, OutOfMemory)
    assert str(failure) == (
        "the learner died: its machine is short of memory (2.89GB of 23.54GB used)"
    )
    died = part_failed("the learner died", ray.exceptions.ActorDiedError())
    assert type(died) is PartFailed
    assert str(died) == "the learner died: its process died"


TAKES = "import sys, time; taken = bytearray(int(sys.argv[1])); print(1, flush=True); time.sleep(8)"


@pytest.mark.alone
def test_a_run_goes_on_when_another_process_took_the_memory_twice(folder):
    machine = psutil.virtual_memory()
    room, taken = 5 * GB, 6 * GB
    if machine.available < room + taken:
        pytest.skip("it needs 11 GB of free memory")
    threshold = (machine.total - machine.available + room) / machine.total
    flags = [*FLAGS, "--max-steps", 1_000_000, "--warmstart-steps", 100, "--eval-interval", 1000]
    path = folder / "runs" / "hungry"
    with running(
        folder,
        path,
        "--name",
        "hungry",
        *flags,
        environment={RAY_THRESHOLD: str(threshold)},
    ) as run:
        for time_ in (1, 2):
            run.wait_until(lambda run: run.status()["state"] == "training", 200)
            before = run.status()["environment_steps"]
            subprocess.run([sys.executable, "-c", TAKES, str(int(taken))], check=True, timeout=600)
            run.wait_until(lambda run, n=time_: run.said().count("memory again") == n, 200)
            assert run.said().count("the run waits for memory") == time_
            assert run.status()["environment_steps"] >= before
        run.end(signal.SIGTERM, 60)
        assert run.process.returncode == 130
    assert "Traceback" not in (folder / "hungry.txt").read_text()
    wait_until_nothing_is_left(folder)
