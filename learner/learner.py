"""The learner: takes chunks of replay, and makes parameters and checkpoints."""

import contextlib
import functools
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import ray

from common.cores import available_cores, pin_to
from common.errors import BadInput, require
from common.files import PackedFolder
from common.health import UnhealthyStep
from learner import checkpoint, sac
from learner.active_inputs import ActiveInputs
from learner.config import LearnerConfig
from learner.device import compile_here, device_name, free_memory, put_copies
from learner.observation import Array, ObservationLayout, assemble
from learner.parameters import Published
from learner.ring import Ring, Rings, Window, draw, gather, ring_bytes
from replay import journal
from replay.client import Replay
from replay.config import ReplayConfig
from replay.pacing import pacing, waiting_chunks
from replay.packing import packed_size, unpack_batch

# Updates in one dispatch. On a CPU eight were not measurably faster than one. A GPU is limited by
# the launch of each operation, and a dispatch is the slowest launch.
_UPDATES_AT_ONCE = {"cpu": 1}
_UPDATES_AT_ONCE_ELSEWHERE = 64
_SHARE_OF_FREE_MEMORY = 0.5
"""Share of the device's free memory that the replay takes if its capacity is `auto`."""
_MANY = 1_000_000
# Folded into the training state's key to draw batches; the updates split that key further.
_DRAWING = 1


class Started(NamedTuple):
    """The resources of a learner that has started."""

    device: str
    """Name of the device, for users."""
    capacity: int
    """Most transitions that the learner's replay holds."""


class LearnReport(NamedTuple):
    """The result of one call of `Learner.learn`."""

    step: int
    """Learner steps so far."""
    steps: int
    """Learner steps in this call."""
    seconds: float
    """Duration of this call, in seconds."""
    spent: dict[str, float]
    """Seconds of this call by activity: waiting for data, transfer to the device, arithmetic, and
    publishing parameters. They include checkpointing since the previous call."""
    metrics: dict[str, float]
    """Metrics of the last learner step; empty if there was none."""
    replay_size: int
    """Transitions in the replay."""

    @property
    def waiting_seconds(self) -> float:
        """Seconds spent waiting for data."""
        return self.spent["waiting"]


class _Dispatch(NamedTuple):
    """Learner steps that may still be under way."""

    step: int
    """Learner steps of the run after this dispatch."""
    metrics: sac.Metrics
    healthy: jax.Array
    indices: jax.Array
    """Indices of the sampled transitions, (updates, batch) int32; see `learner.ring`."""

    def wait(self, rings: Rings) -> None:
        """Waits for the learner steps.

        Args:
            rings: Current rings. In a full replay the oldest sampled transitions may be gone.

        Raises:
            UnhealthyStep: The numbers of the learner steps are unhealthy; see `sac.healthy`.
        """
        if not bool(self.healthy):
            batch = np.asarray(gather(rings, self.indices))
            raise UnhealthyStep(self.step, self.values(), batch)

    def values(self) -> dict[str, float]:
        """Returns the metrics as numbers."""
        return {name: float(value) for name, value in self.metrics.items()}


class _Stopwatch:
    """Measures the seconds spent on each activity."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(
            ("waiting", "transfer", "arithmetic", "publishing", "checkpointing"), 0.0
        )

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - started


def assemble_batch(steps: Array, table: Array, layout: ObservationLayout) -> sac.Batch:
    """Converts a batch of the replay, (batch, 2, packed size) float32, to a `sac.Batch`."""
    factored = unpack_batch(steps, layout.frames, layout.proprioception_dim)
    return sac.Batch(
        observation=assemble(layout, table, factored.observation),
        action=factored.action,
        reward=factored.reward,
        discount=factored.discount,
        next_observation=assemble(layout, table, factored.next_observation),
    )


def updates_at_once() -> int:
    """Returns how many learner steps one dispatch takes on this process's device."""
    return _UPDATES_AT_ONCE.get(jax.default_backend(), _UPDATES_AT_ONCE_ELSEWHERE)


class Shape(NamedTuple):
    """Static settings of the compiled learner steps, besides the shapes of their arguments."""

    config: LearnerConfig
    layout: ObservationLayout
    updates: int
    """Learner steps in one dispatch."""
    batch_size: int


@functools.partial(jax.jit, static_argnames="shape", donate_argnames="state")
def learner_steps(
    state: sac.TrainingState,
    rings: Rings,
    window: Window,
    table: jax.Array,
    annealing: jax.Array,
    shape: Shape,
) -> tuple[sac.TrainingState, sac.Metrics, jax.Array, jax.Array]:
    """Takes learner steps in turn, each on a batch drawn uniformly from the replay.

    Args:
        state: Training state, which is donated; use the returned one.
        rings: Rings of the replay; see `learner.ring`.
        window: Range of complete transitions in the rings.
        table: Table of goals, (rows, features) uint8; see `learner.observation.assemble`.
        annealing: Factor of the learning rates, () float32; see `sac.update`.
        shape: Number and kind of updates.

    Returns:
        The next training state; the metrics of the last update, as in `sac.update`; whether all
        updates were healthy, () bool; and the indices of the sampled transitions, (updates, batch)
        int32.
    """
    key = jax.random.fold_in(state.key, _DRAWING)
    indices = draw(window, len(rings.starts), (shape.updates, shape.batch_size), key)

    def update(state: sac.TrainingState, drawn: jax.Array) -> tuple[sac.TrainingState, sac.Metrics]:
        batch = assemble_batch(gather(rings, drawn), table, shape.layout)
        return sac.update(state, batch, shape.config, annealing)

    if shape.updates == 1:  # One update needs no loop.
        state, metrics = update(state, indices[0])
        return state, metrics, sac.healthy(metrics, state), indices
    state, metrics = jax.lax.scan(update, state, indices)
    last = jax.tree.map(lambda values: values[-1], metrics)
    return state, last, sac.healthy(metrics, state), indices


def compile_steps(state: sac.TrainingState, rings: Rings, table: Array, shape: Shape) -> Any:
    """Compiles `learner_steps` in the fastest way for this process's device and cores.

    Args:
        state: Training state, of which only the shapes matter.
        rings: Rings of the replay, of which only the shapes matter.
        table: Table of goals, of which only the shape matters.
        shape: Static argument; see `learner_steps`.

    Returns:
        Function of the state, the rings, the window, the table and the annealing.
    """
    window = Window(np.int32(0), np.int32(1))
    lowered = learner_steps.lower(state, rings, window, table, np.float32(1), shape)
    return compile_here(lowered, len(available_cores()))


class Learner:
    """Owns the training state, as a Ray actor on a GPU if there is one.

    The learner works in slices: the caller calls `learn` repeatedly and decides when training ends.
    The caller hears of an error after one slice at the latest.

    Args:
        config: Settings of the algorithm.
        layout: Layout of the observations.
        table: Table of goals, (rows, features) uint8: the part of observations that depends on time
            alone.
        action_dim: Numbers in an action.
        seed: Random seed of the initial parameters and of all sampling in the updates.
        replay: Replay servers that carry transitions to the learner.
        replay_config: Capacity, batch size, warm-up and ratio of the replay.
        parameter_server: Handle of the `ParameterServer` actor.
    """

    _PUBLISH_SECONDS = 1.0

    def __init__(
        self,
        config: LearnerConfig,
        layout: ObservationLayout,
        table: np.ndarray,
        action_dim: int,
        seed: int,
        replay: Replay,
        replay_config: ReplayConfig,
        parameter_server: Any,
    ):
        self._config = config
        self._active = ActiveInputs(layout, table)
        self._dimensions = (layout.observation_dim, action_dim)
        self._seed = seed
        self._replay = replay
        self._replay_config = replay_config
        self._parameter_server = parameter_server
        self._step = 0
        self._published_at = 0.0
        self._watch = _Stopwatch()

    def start(
        self,
        cores: Collection[int] = (),
        saved: PackedFolder | None = None,
        restored: int = 0,
    ) -> Started:
        """Makes the training state and compiles the update. Call it before all other methods.

        The constructor does not do this, because Ray passes on only the text of a constructor's
        errors.

        Args:
            cores: Cores to learn on, see `common.cores`; empty means all.
            saved: Checkpoint to resume from, if any.
            restored: Number of transitions that `restore` will get before the first call of
                `learn`.

        Returns:
            Device and replay capacity of the learner.

        Raises:
            BadInput: The requested platform has no device, the device lacks the memory for the
                replay, or the checkpoint is damaged or of another network.
        """
        pin_to(cores)
        device = device_name()
        whole = sac.initial_state(self._config, *self._dimensions, self._seed)
        if saved is not None:
            whole = checkpoint.load_state(saved, whole)
        self._step = int(whole.step)
        self._state = put_copies(self._active.prune(whole))  # Learner steps donate it.
        self._whole = jax.device_get(whole)
        self._table = jax.device_put(self._active.table)
        self._updates_at_once = updates_at_once()
        config, layout = self._replay_config, self._active.layout
        self._packed_size = packed_size(
            (layout.frames, layout.proprioception_dim), self._dimensions[1]
        )
        capacity = self._capacity(device)
        self._ring = self._make_ring(capacity, device)
        self._pacing = pacing(config, self._updates_at_once, restored)
        self._started_at = self._step
        shape = Shape(self._config, layout, self._updates_at_once, config.batch_size)
        self._compiled = compile_steps(self._state, self._ring.rings, self._table, shape)
        self._reader = self._replay.reader(waiting_chunks(config))
        if self._step:
            self._publish()
        return Started(device, capacity)

    def _capacity(self, device: str) -> int:
        config = self._replay_config
        if config.replay_capacity != "auto":
            return config.replay_capacity
        room = _SHARE_OF_FREE_MEMORY * free_memory()
        transitions = int(room / ring_bytes(_MANY, self._packed_size) * _MANY)
        require(
            transitions >= config.least_kept,
            f"{device} has room for {transitions} transitions, and --warmstart-steps is "
            f"{config.warmstart_steps}: free some of its memory, or lower --warmstart-steps",
        )
        return min(transitions, config.most_kept)

    def _make_ring(self, capacity: int, device: str) -> Ring:
        try:
            return Ring(capacity, self._packed_size)
        except RuntimeError as error:  # JAX raises it.
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            needed = ring_bytes(capacity, self._packed_size) / 1e9
            raise BadInput(
                f"--replay-capacity {capacity} takes {needed:.3g} GB, for which {device} has no "
                "room: lower it"
            ) from error

    def restore(self, entry: PackedFolder) -> None:
        """Puts the transitions of a journal entry into the replay.

        Raises:
            BadInput: The entry is damaged or of another piano.
        """
        for chunk in journal.chunks(entry, self._packed_size):
            self._ring.put(chunk)
        self._ring.flush()

    def learn(self, seconds: float, annealing: float = 1.0) -> LearnReport:
        """Takes learner steps for about `seconds`, and publishes parameters on the way.

        Args:
            seconds: Duration of this call.
            annealing: Factor of the learning rates of the actor and the critics.

        Raises:
            UnhealthyStep: The numbers of a learner step are unhealthy. Do not use this learner any
                more.
            PartFailed: A replay server is gone.
        """
        started, first_step, watch = time.monotonic(), self._step, self._watch
        under_way: _Dispatch | None = None
        while (elapsed := time.monotonic() - started) < seconds:
            self._take_in()
            if not self._pacing.may_step(self._ring.taken_in, self._step - self._started_at):
                with watch.on("waiting"):
                    chunk = self._reader.take(seconds - elapsed)
                if chunk is not None:
                    self._ring.put(chunk)
                continue
            if self._step == 0:
                self._publish()  # Ends the warm-up: actors act at random until now.
            previous = under_way
            with watch.on("transfer"):
                self._ring.flush()
            with watch.on("arithmetic"):
                self._state, metrics, healthy, indices = self._compiled(
                    self._state,
                    self._ring.rings,
                    self._ring.window,
                    self._table,
                    np.float32(annealing),
                )
                self._step += self._updates_at_once
                under_way = _Dispatch(self._step, metrics, healthy, indices)
                # Dispatches are asynchronous and would run ahead, so at most two are under way.
                if previous is not None:
                    previous.wait(self._ring.rings)
            if time.monotonic() - self._published_at >= self._PUBLISH_SECONDS:
                with watch.on("arithmetic"):
                    under_way.wait(self._ring.rings)
                self._publish()
        values: dict[str, float] = {}
        if under_way is not None:
            with watch.on("arithmetic"):
                under_way.wait(self._ring.rings)
                values = under_way.values()
        self._watch = _Stopwatch()
        return LearnReport(
            step=self._step,
            steps=self._step - first_step,
            seconds=time.monotonic() - started,
            spent=watch.seconds,
            metrics=values,
            replay_size=self._ring.size,
        )

    def checkpoint(self, description: dict[str, Any]) -> PackedFolder:
        """Returns the training state as a checkpoint.

        Args:
            description: Description of the checkpoint, see `learner.checkpoint.pack`. The number of
                learner steps is added.
        """
        with self._watch.on("checkpointing"):
            whole = self._active.unprune(self._state, self._whole)
            return checkpoint.pack(whole, description | {"learner_steps": self._step})

    def _take_in(self) -> None:
        """Puts chunks that have been read ahead into the ring, as far as the ratio allows."""
        for _ in range(self._reader.ready()):
            steps = self._step - self._started_at
            if not self._pacing.may_read(self._ring.taken_in, steps):
                break
            chunk = self._reader.take()
            if chunk is not None:
                self._ring.put(chunk)

    def _publish(self) -> None:
        with self._watch.on("publishing"):
            reference = ray.put(jax.device_get(self._state.actor))
            self._parameter_server.publish.remote(Published(self._step, time.time(), [reference]))
            self._published_at = time.monotonic()
