"""Interface of the replay servers: a writer for each environment and a reader for the learner."""

import contextlib
import queue
import threading
from typing import Any, NamedTuple, Protocol

import numpy as np

from common.errors import PartFailed
from replay.writer import ChunkWriter


class Replay(NamedTuple):
    """The replay servers of a run, which can be sent to other processes."""

    servers: list[Any]
    """Handles of the `ReplayServer` actors."""
    addresses: list[str]
    """Addresses of the servers' Reverb, "host:port"; each is empty if there is no Reverb."""

    def writer(self, number: int = 0) -> ChunkWriter:
        """Returns a writer for environment `number`; environments take the servers in turn."""
        which = number % len(self.servers)
        if self.addresses[which]:
            from replay.reverb_queue import ReverbWriter

            return ReverbWriter(self.addresses[which])
        from replay.memory_queue import MemoryWriter

        return MemoryWriter(self.servers[which])

    def reader(self, ahead: int = 16) -> "Reader":
        """Returns the learner's reader; see `Reader`."""
        return Reader(self, ahead)


class _OneServer(Protocol):
    def next(self) -> np.ndarray:
        """Returns the next chunk as soon as there is one."""


class Reader:
    """Reads chunks ahead of their use, with one thread per server.

    Args:
        replay: Replay servers to read from.
        ahead: Most chunks to read ahead.
    """

    def __init__(self, replay: Replay, ahead: int):
        self._here: queue.Queue[np.ndarray | None] = queue.Queue(ahead)
        self._failure: Exception | None = None
        for which in range(len(replay.servers)):
            reader = _reader_of(replay, which)
            threading.Thread(
                target=self._read, args=(reader,), name="replay-read", daemon=True
            ).start()

    def take(self, seconds: float = 0.0) -> np.ndarray | None:
        """Returns the next chunk, (rows, packed size) float32, or None if none comes in `seconds`.

        Raises:
            PartFailed: A server is gone.
        """
        self._require_alive()
        try:
            chunk = self._here.get(timeout=seconds) if seconds > 0 else self._here.get_nowait()
        except queue.Empty:
            return None
        if chunk is None:
            self._require_alive()
        return chunk

    def ready(self) -> int:
        """Returns the number of chunks read ahead.

        Raises:
            PartFailed: A server is gone.
        """
        self._require_alive()
        return self._here.qsize()

    def _require_alive(self) -> None:
        if self._failure is not None:
            raise PartFailed(f"a replay server is gone: {self._failure}") from self._failure

    def _read(self, reader: _OneServer) -> None:
        try:
            while True:
                self._here.put(reader.next())
        # Reverb has many kinds of errors. A thread that ended silently would leave its server full.
        except Exception as error:
            self._failure = error
            with contextlib.suppress(queue.Full):
                self._here.put_nowait(None)  # Wakes the reader.


def _reader_of(replay: Replay, which: int) -> _OneServer:
    if replay.addresses[which]:
        from replay.reverb_queue import ReverbReader

        return ReverbReader.at(replay.addresses[which])
    from replay.memory_queue import MemoryReader

    return MemoryReader(replay.servers[which])
