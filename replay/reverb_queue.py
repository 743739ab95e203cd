"""Chunks through Reverb: a bounded queue to the learner, and another to the journal."""

import ctypes
import threading
from typing import Any

import numpy as np

from replay.packing import CHUNK_ROWS
from replay.reverb_without_tensorflow import load
from replay.unjournaled import Unjournaled
from replay.writer import ChunkWriter

reverb = load()

LEARNER, JOURNAL = "learner", "journal"
_LENGTH, _STEPS = "length", "steps"  # Reverb returns them in this order.
_WAITING_FOR_JOURNAL = 64
_READ_AHEAD = 4
_INFO_SECONDS = 10
_NOWHERE = "/dev/null/reverb"


class ReverbQueue:
    """One Reverb server, whose tables each give out every chunk once, the oldest first.

    Each item is one chunk. Reverb wants all items of a table to have the same shape, so a chunk is
    padded to `CHUNK_ROWS` rows and stored with its length.

    Args:
        waiting: Most chunks that may wait for the learner.
        kept: Most transitions that may wait for the journal.
    """

    def __init__(self, waiting: int, kept: int):
        def queue(name: str, size: int) -> Any:
            return reverb.Table(
                name=name,
                sampler=reverb.selectors.Fifo(),
                remover=reverb.selectors.Fifo(),
                max_size=size,
                max_times_sampled=1,
                rate_limiter=reverb.rate_limiters.Queue(size),
            )

        # Reverb writes no checkpoints here, see `replay.journal`. Its default checkpointer makes a
        # temporary folder and never removes it.
        checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(_NOWHERE)
        tables = [queue(LEARNER, waiting), queue(JOURNAL, _WAITING_FOR_JOURNAL)]
        self._server = reverb.Server(tables, checkpointer=checkpointer)
        self._client = reverb.Client(f"localhost:{self._server.port}")
        self._new = Unjournaled(kept)
        self._failure: Exception | None = None
        threading.Thread(target=self._follow, name="replay-journal", daemon=True).start()

    @property
    def port(self) -> int:
        """Port at which writers and readers find the server."""
        return int(self._server.port)

    def inserted(self) -> int:
        """Returns the number of transitions ever inserted.

        Raises:
            RuntimeError: Reverb does not give out chunks any more.
        """
        self._require_following()
        return self._new.inserted

    def take_new(self, most: int) -> list[np.ndarray]:
        """Takes the oldest waiting chunk, and further ones up to `most` transitions in all.

        Raises:
            RuntimeError: Reverb does not give out chunks any more.
            TimeoutError: Reverb does not give out the chunks that it has.
        """
        self._require_following()
        table = self._client.server_info(timeout=_INFO_SECONDS)[JOURNAL]
        there = table.rate_limiter_info.sample_stats.completed + table.current_size
        self._new.wait_for(there, _INFO_SECONDS)
        chunks = self._new.take(most)
        _give_back_memory()
        return chunks

    def _follow(self) -> None:
        try:
            # Reverb needs no network to read in the server's own process.
            reader = ReverbReader(self._client, JOURNAL)
            while True:
                self._new.add(reader.next())
        # A thread that ended silently would leave the table full, and all writers blocked.
        except Exception as error:
            self._failure = error

    def _require_following(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the journal's chunks cannot be read") from self._failure


class ReverbReader:
    """Reads the chunks of a table, the oldest first, and so removes them from the table.

    Args:
        client: Client of the server.
        table: Name of the table to read.
    """

    def __init__(self, client: Any, table: str):
        # Reverb wants a number of samples; this one is practically endless.
        self._sampler = client._client.NewSampler(table, 2**62, _READ_AHEAD)

    @classmethod
    def at(cls, address: str) -> "ReverbReader":
        """Returns the learner's reader of the server at address "host:port"."""
        return cls(reverb.Client(address), LEARNER)

    def next(self) -> np.ndarray:
        """Returns the next chunk, (rows, packed size) float32, as soon as there is one.

        Raises:
            RuntimeError: The server is gone.
        """
        length, steps = self._sampler.GetNextTrajectory()[-2:]
        rows = np.asarray(steps[: int(length)])
        # A view of a short chunk would keep all of its padding in memory.
        return rows if len(rows) == CHUNK_ROWS else rows.copy()


class ReverbWriter(ChunkWriter):
    """Writes the steps of one environment, in order.

    Args:
        address: Address of the replay server, "host:port".
    """

    def __init__(self, address: str):
        super().__init__()
        self._writer = reverb.Client(address).trajectory_writer(num_keep_alive_refs=1)

    def _send(self, seconds: float, everything: bool) -> bool:
        tables = (LEARNER, JOURNAL)
        while self._chunks:
            chunk = self._chunks.popleft()
            padded = np.zeros((CHUNK_ROWS, chunk.shape[1]), np.float32)
            padded[: len(chunk)] = chunk
            self._writer.append({_LENGTH: np.int32(len(chunk)), _STEPS: padded})
            trajectory = {name: self._writer.history[name][-1] for name in (_LENGTH, _STEPS)}
            # The learner's queue comes first, so that the journal gets only chunks that fit into
            # that queue.
            for table in tables:
                self._writer.create_item(table, priority=1.0, trajectory=trajectory)
        try:
            # A writer that is never flushed grows without bound (google-deepmind/reverb issue 55).
            self._writer.flush(
                block_until_num_items=0 if everything else len(tables),
                timeout_ms=max(1, round(1000 * seconds)),
            )
        except reverb.errors.DeadlineExceededError:
            return False
        return True


def _give_back_memory() -> None:
    """Returns freed memory to the system.

    The Reverb thread that receives a chunk puts it into a heap of its own. The memory of chunks
    that have left the table stays in that heap, which would otherwise grow again with each thread.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # Reverb's wheels are for glibc.
