"""The table of transitions in Reverb, and the writer to it."""

import collections
import contextlib
import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from replay.config import ReplayConfig
from replay.light_reverb import load
from replay.pacing import pacing
from replay.packing import pack_step
from replay.writer import StepWriter

reverb = load()

# What is new is put into a table of its own, too, from which the journal's share is taken.
TABLE, NEW, STEP = "transitions", "new", "step"

# Items a writer may have on their way; Reverb itself warns above 50, and a writer that is
# never flushed grows without bound (google-deepmind/reverb issue 55).
_ITEMS_IN_FLIGHT = 16  # Two a transition, one for each table; as many again come at once.
_SAMPLES_AHEAD = 64
_INFO_SECONDS = 10
_RESTORE_SECONDS = 60
_NOWHERE = "/dev/null/reverb"


def rate_limiter(config: ReplayConfig, restored: int = 0) -> Any:
    """Reverb's, for the pacing of `replay.pacing`."""
    wanted = pacing(config, restored)
    if wanted.samples_per_insert is None:
        return reverb.rate_limiters.MinSize(wanted.min_size)
    return reverb.rate_limiters.SampleToInsertRatio(
        samples_per_insert=wanted.samples_per_insert,
        min_size_to_sample=wanted.min_size,
        error_buffer=wanted.error_buffer,
    )


class ReverbTable:
    """One Reverb server: uniform sampling, the oldest removed first.

    An item holds two steps as `replay.packing` packs them: that of o[t] and that of o[t+1]. They
    are read in this process, where Reverb needs no network for it: a third of the time.

    Args:
        config: capacity, warm-up and update-to-data ratio.
        restored: transitions that `restore` will be given.
    """

    def __init__(self, config: ReplayConfig, restored: int):
        table = reverb.Table(
            name=TABLE,
            sampler=reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            max_size=config.replay_capacity,
            rate_limiter=rate_limiter(config, restored),
        )
        new = reverb.Table(
            name=NEW,
            sampler=reverb.selectors.Fifo(),
            remover=reverb.selectors.Fifo(),
            max_size=config.replay_capacity,
            max_times_sampled=1,
            rate_limiter=reverb.rate_limiters.MinSize(1),
        )
        # It checkpoints nothing, see `replay.journal`; its default is a temporary folder that it
        # never removes.
        checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(_NOWHERE)
        self._server = reverb.Server([table, new], checkpointer=checkpointer)
        self._client = reverb.Client(f"localhost:{self._server.port}")
        self._restorer = self._client.trajectory_writer(num_keep_alive_refs=2)
        # The number of samples is without end.
        self._sampler = self._client._client.NewSampler(TABLE, 2**62, _SAMPLES_AHEAD)
        self._new: collections.deque[np.ndarray] = collections.deque(maxlen=config.replay_capacity)
        self._followed = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._follow, name="replay-follow", daemon=True).start()

    @property
    def port(self) -> int:
        """At which writers find the server."""
        return int(self._server.port)

    def counts(self) -> dict[str, int]:
        """Transitions in the table now, ever inserted, and ever sampled."""
        table = self._client.server_info(timeout=_INFO_SECONDS)[TABLE]
        limiter = table.rate_limiter_info
        return {
            "size": table.current_size,
            "inserted": limiter.insert_stats.completed,
            "sampled": limiter.sample_stats.completed,
        }

    def restore(self, steps: np.ndarray) -> None:
        """Takes transitions that are in the journal already.

        Args:
            steps: (steps, packed size) float32; every two that follow each other are one.
        """
        for number, step in enumerate(steps):
            _append(self._restorer, step, into=(TABLE,) if number else ())
        self._restorer.flush(timeout_ms=1000 * _RESTORE_SECONDS)

    def take_new(self, most: int) -> np.ndarray:
        """The oldest transitions not taken yet: (at most, 2, packed size) float32.

        Raises:
            TimeoutError: Reverb does not give out what it has.
        """
        table = self._client.server_info(timeout=_INFO_SECONDS)[NEW]
        there = table.rate_limiter_info.sample_stats.completed + table.current_size
        with self._changed:
            if not self._changed.wait_for(lambda: self._followed >= there, _INFO_SECONDS):
                raise TimeoutError(f"what is new was not there within {_INFO_SECONDS} s")
            taken = [self._new.popleft() for _ in range(min(most, len(self._new)))]
        transitions = np.stack(taken) if taken else np.empty((0, 2, 0), np.float32)
        del taken
        _give_back_memory()
        return transitions

    def draw(self, batch: np.ndarray) -> None:
        """Fills (batch, 2, packed size) float32, as soon as the pacing allows.

        Raises:
            RuntimeError: the server has been stopped.
        """
        following = self._sampler.GetNextTrajectory
        for transition in batch:
            transition[:] = following()[-1]

    def stop(self) -> None:
        """Ends the server; who is blocked gets an error."""
        self._server.stop()

    def _follow(self) -> None:
        """Takes what is new as it comes.

        With a sampler for thousands at a time the process grew by hundreds of bytes for each.
        """
        following = self._client._client.NewSampler(NEW, 2**62, _SAMPLES_AHEAD).GetNextTrajectory
        with contextlib.suppress(RuntimeError):  # The server has been stopped.
            while True:
                transition = following()[-1]
                with self._changed:
                    self._new.append(transition)
                    self._followed += 1
                    self._changed.notify_all()


class ReverbWriter(StepWriter):
    """Writes the transitions of one environment, in order.

    A step is sent once, as one array; consecutive transitions share it.

    Args:
        address: of the replay server, "host:port".
    """

    def __init__(self, address: str):
        super().__init__()
        self._writer = reverb.Client(address).trajectory_writer(num_keep_alive_refs=2)

    def _send(self, seconds: float, everything: bool) -> bool:
        for step in self._unsent:
            # All but the first complete the transition that began with the one before.
            _append(self._writer, pack_step(*step[:-1]), into=() if step.first else (TABLE, NEW))
        self._unsent.clear()
        try:
            self._writer.flush(
                block_until_num_items=0 if everything else _ITEMS_IN_FLIGHT,
                timeout_ms=max(1, round(1000 * seconds)),
            )
        except reverb.errors.DeadlineExceededError:
            return False
        return True


def _give_back_memory() -> None:
    """Returns to the system what has been freed.

    Whichever of Reverb's threads receives a step puts it into a heap of its own; what leaves the
    table stays in that heap, which otherwise grows again with each thread.
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # Reverb's wheels are for glibc.


def _append(writer: Any, step: np.ndarray, into: Sequence[str]) -> None:
    """Appends a packed step, and puts the transition that it completes into tables."""
    writer.append({STEP: step})
    for table in into:
        trajectory = {STEP: writer.history[STEP][-2:]}
        writer.create_item(table, priority=1.0, trajectory=trajectory)
