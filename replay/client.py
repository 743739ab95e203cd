"""The two doors to the replay server: a writer of transitions and a reader of batches."""

import queue
import threading
from typing import NamedTuple

import numpy as np
import reverb

from replay.packing import pack_step, unpack_batch
from replay.tables import STEP, TABLE
from replay.transition import Observation, Transition

# Items a writer may have on their way; Reverb itself warns above 50, and a writer that is
# never flushed grows without bound (google-deepmind/reverb issue 55).
_ITEMS_IN_FLIGHT = 20
_STEPS_AT_ONCE = 16


class _Step(NamedTuple):
    """What belongs to one time index, not yet sent."""

    observation: Observation
    action: np.ndarray
    reward: float
    discount: float
    parameter_version: int
    first: bool


class Writer:
    """Writes the transitions of one environment, in order.

    A step is sent once, as one array; consecutive transitions share it. Steps are handed to
    Reverb several at a time: between two simulator steps each call would find the processor's
    caches cold, and take five times as long.

    Args:
        address: of the replay server, "host:port".
    """

    def __init__(self, address: str):
        self._writer = reverb.Client(address).trajectory_writer(num_keep_alive_refs=2)
        self._unsent: list[_Step] = []
        self._blocked = False

    def begin(self, observation: Observation) -> None:
        """Begins an episode with its first observation."""
        self._observation, self._first = observation, True

    def add(
        self,
        action: np.ndarray,
        parameter_version: int,
        reward: float,
        discount: float,
        next_observation: Observation,
        last: bool,
    ) -> None:
        """Adds one transition; it is sent by `wait`.

        Args:
            action: (action dimension,) float32, taken at the observation given last.
            parameter_version: of the policy that chose it; -1 for random actions.
            reward: of this step.
            discount: the environment's own, 0.0 or 1.0.
            next_observation: that it led to.
            last: whether the episode ends with it.
        """
        self._unsent.append(
            _Step(self._observation, action, reward, discount, parameter_version, self._first)
        )
        self._observation, self._first = next_observation, False
        if last:
            # Holds the last observation. No transition begins with it, none spans two episodes.
            self._unsent.append(
                _Step(next_observation, np.zeros_like(action), 0.0, 0.0, -1, first=False)
            )

    def wait(self, seconds: float, everything: bool = False) -> bool:
        """Sends, and waits until the server has taken all but the newest few transitions.

        This is where back-pressure is felt: the server takes no more than the
        update-to-data ratio allows.

        Args:
            seconds: at most.
            everything: whether the newest few are sent and waited for, too.

        Returns:
            Whether there is room for more.
        """
        if not (everything or self._blocked or len(self._unsent) >= _STEPS_AT_ONCE):
            return True
        self._send()
        try:
            self._writer.flush(
                block_until_num_items=0 if everything else _ITEMS_IN_FLIGHT,
                timeout_ms=max(1, round(1000 * seconds)),
            )
        except reverb.errors.DeadlineExceededError:
            self._blocked = True
        else:
            self._blocked = False
        return not self._blocked

    def _send(self) -> None:
        for step in self._unsent:
            self._writer.append({STEP: pack_step(*step[:-1])})
            if not step.first:  # It completes the transition that began with the one before.
                trajectory = {STEP: self._writer.history[STEP][-2:]}
                self._writer.create_item(TABLE, priority=1.0, trajectory=trajectory)
        self._unsent.clear()


class Sampler:
    """Draws batches uniformly, a few ahead of their use, on a thread of its own.

    Args:
        address: of the replay server, "host:port".
        proprioception_shape: frames of an observation, and numbers in a frame.
        batch_size: transitions in a batch.
        batches_ahead: batches kept ready.
    """

    _STALL_MILLISECONDS = 5_000

    def __init__(
        self,
        address: str,
        proprioception_shape: tuple[int, int],
        batch_size: int,
        batches_ahead: int = 2,
    ):
        self._address = address
        self._proprioception_shape = proprioception_shape
        self._batch_size = batch_size
        self._ready: queue.Queue[Transition | BaseException] = queue.Queue(batches_ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="replay-sampler", daemon=True)
        self._thread.start()

    def sample(self, seconds: float) -> Transition | None:
        """The next batch, leading axis batch_size; None if there is none in `seconds`.

        Raises:
            reverb.errors.ReverbError: the server is gone.
        """
        try:
            batch = self._ready.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def close(self) -> None:
        """Ends the thread, within twice the stall time."""
        self._closed.set()
        self._thread.join(timeout=2 * self._STALL_MILLISECONDS / 1000)

    def _fill(self) -> None:
        try:
            while not self._closed.is_set():
                self._fill_until_stalled()
        except BaseException as error:  # Handed to whoever samples.
            self._put(error)

    def _fill_until_stalled(self) -> None:
        """Samples until the server had nothing to give for the stall time."""
        batches = (
            reverb.TrajectoryDataset.from_table_signature(
                self._address,
                TABLE,
                max_in_flight_samples_per_worker=2 * self._batch_size,
                rate_limiter_timeout_ms=self._STALL_MILLISECONDS,
            )
            .batch(self._batch_size, drop_remainder=True)
            .as_numpy_iterator()
        )
        for batch in batches:
            self._put(unpack_batch(batch.data[STEP], *self._proprioception_shape))
            if self._closed.is_set():
                return

    def _put(self, item: Transition | BaseException) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.5)
            except queue.Full:
                continue
            return
