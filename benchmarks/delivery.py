"""Delivery of transitions from writers to the learner: throughput and cost.

A replay server is a bounded queue, in which writers can only advance as fast as the reader does.
Both are therefore measured together, and only transitions that have arrived count.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil

from benchmarks.rounds import Figures
from benchmarks.work import Work, own_processor_seconds, processor_seconds
from common.waiting import get_result
from learner.ring import Ring
from replay.client import Replay
from replay.packing import transitions_in

_LOOK_SECONDS = 0.1
_ARRIVE_SECONDS = 60.0
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")  # Resolution of the system's processor times.


class Receiver:
    """Reads all written transitions in place of the learner; a thread executes `run`.

    Args:
        replay: Replay to read from.
        ring: Ring that stores the transitions; None discards them.
    """

    def __init__(self, replay: Replay, ring: Ring | None = None):
        self._reader = replay.reader()
        self._ring = ring
        self._received = 0
        self._changed = threading.Condition()
        self._stopped = False

    @property
    def received(self) -> int:
        """Number of transitions received so far."""
        return self._received

    def run(self) -> None:
        """Reads until `stop` is called."""
        while not self._stopped:
            chunk = self._reader.take(_LOOK_SECONDS)
            if chunk is None:
                continue
            if self._ring is not None:
                self._ring.put(chunk)  # Moves to the device block by block.
            with self._changed:
                self._received += transitions_in(chunk)
                self._changed.notify_all()

    def wait_for(self, transitions: int) -> None:
        """Waits until `transitions` have arrived in total.

        Raises:
            TimeoutError: The transitions do not arrive in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._received >= transitions, _ARRIVE_SECONDS):
                raise TimeoutError(f"{self._received} of {transitions} transitions have arrived")

    def stop(self) -> None:
        """Ends `run`."""
        self._stopped = True


@contextlib.contextmanager
def receiving(replay: Replay, ring: Ring | None = None) -> Iterator[Receiver]:
    """Runs a receiver in a separate thread for the duration of the context."""
    receiver = Receiver(replay, ring)
    thread = threading.Thread(target=receiver.run, name="receiver", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stop()
        thread.join()


def deliver(
    write: Callable[[], Sequence[Work]], receiver: Receiver, server: psutil.Process
) -> Figures:
    """Lets writers write, and measures until all transitions have arrived.

    Args:
        write: Function that writes, and returns each writer's work once the server has all of it.
        receiver: Receiver in this process, whose whole processor time counts as the reader's.
        server: Process of the replay server.

    Returns:
        Transitions delivered per second; core microseconds per transition of the writers, the
        server and the reader; bytes per transition on the loopback interface.
    """
    received, bytes_before = receiver.received, _loopback_bytes()
    server_before, reader_before = processor_seconds(server), own_processor_seconds()
    started = time.perf_counter()
    done = write()
    receiver.wait_for(received + sum(one.transitions for one in done))
    elapsed = time.perf_counter() - started
    transitions = receiver.received - received
    server_seconds = processor_seconds(server) - server_before
    reader_seconds = own_processor_seconds() - reader_before
    # On a very busy machine nothing may arrive in a short time.
    each = 1e6 / max(1, transitions)
    return {
        "transitions_per_second": transitions / elapsed,
        "writer_microseconds": each * sum(one.processor_seconds for one in done),
        "server_microseconds": each * max(_TICK_SECONDS, server_seconds),
        "reader_microseconds": each * max(_TICK_SECONDS, reader_seconds),
        "bytes": (_loopback_bytes() - bytes_before) / max(1, transitions),
    }


def process_of(server: Any) -> psutil.Process:
    """Returns the process of a replay server, given its Ray handle."""
    number = server.__ray_call__.remote(lambda _: os.getpid())
    return psutil.Process(get_result(number, "ReplayServer", "the replay server did not answer"))


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
