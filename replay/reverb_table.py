"""The table of transitions in Reverb, and the writer to it."""

import pathlib
from typing import Any

import numpy as np

from replay.config import ReplayConfig
from replay.light_reverb import load
from replay.pacing import pacing
from replay.packing import pack_step
from replay.writer import StepWriter

reverb = load()

TABLE, STEP = "transitions", "step"

# Items a writer may have on their way; Reverb itself warns above 50, and a writer that is
# never flushed grows without bound (google-deepmind/reverb issue 55).
_ITEMS_IN_FLIGHT = 20
_SAMPLES_AHEAD = 64
_INFO_SECONDS = 10


def rate_limiter(config: ReplayConfig) -> Any:
    """Reverb's, for the pacing of `replay.pacing`."""
    wanted = pacing(config)
    if wanted.samples_per_insert is None:
        return reverb.rate_limiters.MinSize(wanted.min_size)
    return reverb.rate_limiters.SampleToInsertRatio(
        samples_per_insert=wanted.samples_per_insert,
        min_size_to_sample=wanted.min_size,
        error_buffer=wanted.error_buffer,
    )


class ReverbTable:
    """One Reverb server with one table: uniform sampling, the oldest removed first.

    An item holds two steps as `replay.packing` packs them: that of o[t] and that of o[t+1]. They
    are read in this process, where Reverb needs no network for it: a third of the time.

    Args:
        config: capacity, warm-up and update-to-data ratio.
        folder: for Reverb's own files; made if missing.
    """

    def __init__(self, config: ReplayConfig, folder: pathlib.Path):
        folder.mkdir(parents=True, exist_ok=True)
        table = reverb.Table(
            name=TABLE,
            sampler=reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            max_size=config.replay_capacity,
            rate_limiter=rate_limiter(config),
        )
        # Reverb's default is a temporary folder that it never removes.
        checkpointer = reverb.platform.checkpointers_lib.DefaultCheckpointer(str(folder))
        self._server = reverb.Server([table], checkpointer=checkpointer)
        self._client = reverb.Client(f"localhost:{self._server.port}")
        # The number of samples is without end.
        self._sampler = self._client._client.NewSampler(TABLE, 2**62, _SAMPLES_AHEAD)

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
            self._writer.append({STEP: pack_step(*step[:-1])})
            if not step.first:  # It completes the transition that began with the one before.
                trajectory = {STEP: self._writer.history[STEP][-2:]}
                self._writer.create_item(TABLE, priority=1.0, trajectory=trajectory)
        self._unsent.clear()
        try:
            self._writer.flush(
                block_until_num_items=0 if everything else _ITEMS_IN_FLIGHT,
                timeout_ms=max(1, round(1000 * seconds)),
            )
        except reverb.errors.DeadlineExceededError:
            return False
        return True
