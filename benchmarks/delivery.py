"""The way from the writers to the learner: what arrives a second, and what it costs.

A replay server is a bounded queue: writers get no further than somebody reads. So the two are
measured together, and only what has arrived counts.
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
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")  # In which the system counts processor time.


class Receiver:
    """Reads in the learner's place all that is written; `run` is to be its thread's.

    Args:
        replay: that is read.
        ring: into which it is put, if any.
    """

    def __init__(self, replay: Replay, ring: Ring | None = None):
        self._reader = replay.reader()
        self._ring = ring
        self._received = 0
        self._changed = threading.Condition()
        self._stopped = False

    @property
    def received(self) -> int:
        """Transitions so far."""
        return self._received

    def run(self) -> None:
        """Reads until `stop`."""
        while not self._stopped:
            chunk = self._reader.take(_LOOK_SECONDS)
            if chunk is None:
                continue
            if self._ring is not None:
                self._ring.put(chunk)  # Goes to the device block by block.
            with self._changed:
                self._received += transitions_in(chunk)
                self._changed.notify_all()

    def wait_for(self, transitions: int) -> None:
        """Waits until so many have arrived in all.

        Raises:
            TimeoutError: they do not arrive.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._received >= transitions, _ARRIVE_SECONDS):
                raise TimeoutError(f"{self._received} of {transitions} transitions have arrived")

    def stop(self) -> None:
        """Ends `run`."""
        self._stopped = True


@contextlib.contextmanager
def receiving(replay: Replay, ring: Ring | None = None) -> Iterator[Receiver]:
    """A receiver that reads meanwhile, on a thread of its own."""
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
    """Lets writers write until they have done so, and all has arrived.

    Args:
        write: does it; what each of the writers did. All they wrote is in the server.
        receiver: in this process, all of whose processor time counts as the reader's.
        server: process of the replay server.

    Returns:
        Transitions delivered a second; microseconds of a core that each took of the writers, of
        the server and of the reader; bytes of each on the loopback.
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
    # On a very busy machine nothing at all may come through in a short time.
    each = 1e6 / max(1, transitions)
    return {
        "transitions_per_second": transitions / elapsed,
        "writer_microseconds": each * sum(one.processor_seconds for one in done),
        "server_microseconds": each * max(_TICK_SECONDS, server_seconds),
        "reader_microseconds": each * max(_TICK_SECONDS, reader_seconds),
        "bytes": (_loopback_bytes() - bytes_before) / max(1, transitions),
    }


def process_of(server: Any) -> psutil.Process:
    """The process of a replay server, given its handle."""
    number = server.__ray_call__.remote(lambda _: os.getpid())
    return psutil.Process(get_result(number, "ReplayServer", "the replay server did not answer"))


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
