"""The interface of the replay servers: a writer for each environment, and the learner's reader."""

import queue
import threading
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray

from common.errors import PartFailed
from replay.writer import ChunkWriter


class Replay(NamedTuple):
    """The replay servers of a run; can be sent to other processes."""

    servers: list[Any]
    """Handles of the `ReplayServer` actors."""
    addresses: list[str]
    """Of their Reverb, "host:port"; empty where there is none."""

    def writer(self, number: int = 0) -> ChunkWriter:
        """A writer for the environment of that number; the servers are taken in turn."""
        which = number % len(self.servers)
        if self.addresses[which]:
            from replay.reverb_queue import ReverbWriter

            return ReverbWriter(self.addresses[which])
        from replay.memory_queue import MemoryWriter

        return MemoryWriter(self.servers[which])

    def reader(self, ahead: int = 16) -> "Reader":
        """The learner's reader, see `Reader`."""
        return Reader(self, ahead)


class _OneServer(Protocol):
    def next(self) -> np.ndarray:
        """The next chunk, as soon as there is one."""


class Reader:
    """Chunks from all servers, a few read ahead of their use on threads of their own.

    Args:
        replay: the servers.
        ahead: chunks, at most.
    """

    def __init__(self, replay: Replay, ahead: int):
        self._here: queue.Queue[np.ndarray | PartFailed] = queue.Queue(ahead)
        for which in range(len(replay.servers)):
            reader = _reader_of(replay, which)
            threading.Thread(
                target=self._read, args=(reader,), name="replay-read", daemon=True
            ).start()

    def take(self, seconds: float = 0.0) -> np.ndarray | None:
        """The next chunk, (rows, packed size) float32; None if there is none in `seconds`.

        Raises:
            PartFailed: a server is gone.
        """
        try:
            chunk = self._here.get(timeout=seconds) if seconds > 0 else self._here.get_nowait()
        except queue.Empty:
            return None
        if isinstance(chunk, PartFailed):
            self._here.put(chunk)  # For the next call.
            raise chunk
        return chunk

    def ready(self) -> int:
        """Chunks that have been read ahead."""
        return self._here.qsize()

    def _read(self, reader: _OneServer) -> None:
        try:
            while True:
                self._here.put(reader.next())
        # Reverb's, when its connection ends, and Ray's.
        except (RuntimeError, ray.exceptions.RayError) as error:
            self._here.put(PartFailed(f"a replay server is gone: {error}"))


def _reader_of(replay: Replay, which: int) -> _OneServer:
    if replay.addresses[which]:
        from replay.reverb_queue import ReverbReader

        return ReverbReader.at(replay.addresses[which])
    from replay.memory_queue import MemoryReader

    return MemoryReader(replay.servers[which])
