"""Stand-ins for actors, many on one machine: they take the time of an actor, not its processor.

Each is a process of its own that writes to a real replay server as an actor does, through one
`replay.reverb_table.ReverbWriter` an environment. What it writes are the steps of an episode that
was really played, again and again; a step takes a set time, in which the process sleeps.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

from benchmarks.written_episode import Step
from replay.client import Sampler
from replay.reverb_table import ReverbWriter

_START_SECONDS = 120.0
_GRACE_SECONDS = 60.0
_END_SECONDS = 30.0
MEMORY_SHARE = 0.7
"""Of the free memory, that stand-ins may take; the rest is for what is measured."""


class Work(NamedTuple):
    """What one process did while it was measured."""

    transitions: int
    """Written, or sampled."""
    processor_seconds: float
    """Of all its threads, Reverb's own among them."""


def write(
    connection: Connection,
    address: str,
    episode: Sequence[Step],
    environments: int,
    step_seconds: float,
) -> None:
    """Plays whenever it is told to: takes seconds from the connection, sends `Work` back.

    Args:
        connection: to whoever measures; what is received first must be seconds, None ends.
        address: of the replay server, "host:port".
        episode: that every environment plays.
        environments: that one actor plays in turn.
        step_seconds: that a step of one environment takes.
    """
    writers = [ReverbWriter(address) for _ in range(environments)]
    position = len(episode)

    def play(seconds: float) -> int:
        nonlocal position
        transitions, deadline = 0, time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            if not all(writer.wait(deadline - now) for writer in writers):
                break
            if position == len(episode):
                position = 0
                for writer in writers:
                    writer.begin(episode[0].observation)
            time.sleep(step_seconds * environments)
            step, position = episode[position], position + 1
            last = position == len(episode)
            following = episode[0 if last else position].observation
            for writer in writers:
                writer.add(step.action, 0, step.reward, step.discount, following, last)
            transitions += environments
        return transitions

    _serve(connection, play)


def sample(sampler: Sampler, batch_size: int, seconds: float) -> Work:
    """Samples as fast as it can, in this process."""
    process = psutil.Process()
    before = sum(process.cpu_times()[:2])
    transitions, deadline = 0, time.monotonic() + seconds
    while (now := time.monotonic()) < deadline:
        if sampler.sample(deadline - now) is not None:
            transitions += batch_size
    return Work(transitions, sum(process.cpu_times()[:2]) - before)


def _serve(connection: Connection, work: Callable[[float], int]) -> None:
    process = psutil.Process()
    connection.send(None)
    try:
        while (seconds := connection.recv()) is not None:
            before = sum(process.cpu_times()[:2])
            transitions = work(seconds)
            connection.send(Work(transitions, sum(process.cpu_times()[:2]) - before))
    except (EOFError, KeyboardInterrupt):
        return  # Whoever measures is gone.


class Group:
    """Processes that are told together to work."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._bytes_each = 0
        # All that a process imports is imported once, and shared by all of them.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def bytes_each(self) -> int:
        """Memory that belongs to the first process alone; 0 if there is none."""
        return self._bytes_each

    def add(self, target: Callable[..., None], *arguments: Any) -> bool:
        """Starts a process and waits until it is ready; not if memory does not carry it.

        Args:
            target: such as `write`.
            arguments: all but the connection.
        """
        if self._bytes_each > MEMORY_SHARE * psutil.virtual_memory().available:
            return False
        here, there = self._context.Pipe()
        process = self._context.Process(target=target, args=(there, *arguments), daemon=True)
        process.start()
        there.close()
        self._processes.append(process)
        self._connections.append(here)
        self._receive(here, _START_SECONDS)
        if not self._bytes_each:
            self._bytes_each = psutil.Process(process.pid).memory_full_info().uss
        return True

    def begin(self, seconds: float, number: int | None = None) -> Sequence[Connection]:
        """Tells the first so many, or all, to work; what `end` wants."""
        connections = self._connections[:number]
        for connection in connections:
            connection.send(seconds)
        return connections

    def end(self, connections: Sequence[Connection], seconds: float) -> list[Work]:
        """What those did that were told to work for these seconds.

        Raises:
            RuntimeError: one of them does not answer, or has died.
        """
        return [
            self._receive(connection, _GRACE_SECONDS + 10 * seconds) for connection in connections
        ]

    def work(self, seconds: float, number: int | None = None) -> list[Work]:
        """Lets the first so many, or all, work; what they did."""
        return self.end(self.begin(seconds, number), seconds)

    def close(self) -> None:
        """Ends all of them."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(_END_SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join(_END_SECONDS)

    def _receive(self, connection: Connection, seconds: float) -> Any:
        if not connection.poll(seconds):
            raise RuntimeError(f"a stand-in did not answer within {seconds:.0f} s")
        try:
            return connection.recv()
        except EOFError as error:
            raise RuntimeError("a stand-in died") from error
