"""Stand-ins for actors, which use the time of an actor but not its processor time.

Many of them run on one machine. Each is a separate process that writes to a real replay server as
an actor does, through one `replay.reverb_queue.ReverbWriter` per environment. It repeats the steps
of an episode that was really played. A step takes a fixed time, during which the process sleeps;
one sleep covers a few steps.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil

from benchmarks.work import Work, own_processor_seconds
from benchmarks.written_episode import write_rest
from replay.reverb_queue import ReverbWriter
from replay.transition import Step

_STEPS_AT_ONCE = 8  # Few wake-ups, because a real actor spends no time on waking up.
_START_SECONDS = 120.0
_GRACE_SECONDS = 60.0
_END_SECONDS = 30.0
MEMORY_SHARE = 0.7
"""Share of the free memory for the stand-ins; the rest is for the measured parts."""


def write(
    connection: Connection,
    address: str,
    episode: Sequence[Step],
    environments: int,
    step_seconds: float,
) -> None:
    """Plays on command: receives seconds over the connection, and sends `Work` back.

    The server has all written transitions before the `Work` is sent.

    Args:
        connection: Connection to the measuring process, which sends seconds, or None to end.
        address: Address of the replay server, "host:port".
        episode: Episode that every environment plays.
        environments: Number of environments that one actor plays in turn.
        step_seconds: Seconds that a step of one environment takes.
    """
    writers = [ReverbWriter(address) for _ in range(environments)]
    position = len(episode)

    def take_step() -> None:
        nonlocal position
        if position == len(episode):
            position = 0
            for writer in writers:
                writer.begin(episode[0].observation)
        step, position = episode[position], position + 1
        last = position == len(episode)
        following = episode[0 if last else position].observation
        for writer in writers:
            writer.add(step.action, 0, step.reward, step.discount, following, last)

    def play(seconds: float) -> int:
        transitions, deadline = 0, time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            if not all(writer.wait(deadline - now) for writer in writers):
                break
            time.sleep(_STEPS_AT_ONCE * step_seconds * environments)
            for _ in range(_STEPS_AT_ONCE):
                take_step()
            transitions += _STEPS_AT_ONCE * environments
        for writer in writers:
            write_rest(writer)
        return transitions

    _serve(connection, play)


def _serve(connection: Connection, work: Callable[[float], int]) -> None:
    connection.send(None)
    try:
        while (seconds := connection.recv()) is not None:
            before = own_processor_seconds()
            transitions = work(seconds)
            connection.send(Work(transitions, own_processor_seconds() - before))
    except (EOFError, KeyboardInterrupt):
        return  # The measuring process has ended.


class Group:
    """A group of processes that work at the same time."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._bytes_each = 0
        # Imports happen once, in the fork server, and all processes share them.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def bytes_each(self) -> int:
        """Unshared memory of the first process, in bytes; 0 if there is no process."""
        return self._bytes_each

    def add(self, target: Callable[..., None], *arguments: Any) -> bool:
        """Starts a process and waits until it is ready.

        Args:
            target: Function of the process, such as `write`.
            arguments: Arguments of the function after the connection.

        Returns:
            False if memory does not suffice for another process, else True.
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

    def work(self, seconds: float, number: int | None = None) -> list[Work]:
        """Lets the first `number` processes, or all, work for `seconds`.

        Returns:
            The work of each process.

        Raises:
            RuntimeError: A process does not answer, or has died.
        """
        connections = self._connections[:number]
        for connection in connections:
            connection.send(seconds)
        return [
            self._receive(connection, _GRACE_SECONDS + 10 * seconds) for connection in connections
        ]

    def close(self) -> None:
        """Ends all processes."""
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
