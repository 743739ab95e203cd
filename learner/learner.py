"""The learner: batches in, parameters and checkpoints out."""

import contextlib
import functools
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import ray

from learner import checkpoint, sac
from learner.config import LearnerConfig
from learner.cores import keep_to, usable
from learner.device import compile_here, device_name
from learner.health import UnhealthyStep
from learner.live_inputs import LiveInputs
from learner.observation import Array, ObservationLayout, unfold
from learner.parameters import Published
from replay.client import Replay
from replay.files import PackedFolder
from replay.packing import packed_size, unpack_batch

# Updates in one dispatch. On a CPU eight were not measurably faster than one.
_UPDATES_AT_ONCE = {"cpu": 1}
_UPDATES_AT_ONCE_ELSEWHERE = 8


class LearnReport(NamedTuple):
    """What one call of `Learner.learn` did."""

    step: int
    """Learner steps so far."""
    steps: int
    """Learner steps in this call."""
    seconds: float
    """Length of this call."""
    spent: dict[str, float]
    """Seconds of it: waiting for data, transfer to the device, arithmetic, publishing
    parameters; and, since the call before, checkpointing."""
    metrics: dict[str, float]
    """Of the last learner step; empty if there was none."""

    @property
    def waiting_seconds(self) -> float:
        """Spent waiting for data."""
        return self.spent["waiting"]


class _Dispatch(NamedTuple):
    """Learner steps that may still be under way."""

    step: int
    """After them."""
    metrics: sac.Metrics
    healthy: jax.Array
    batch: np.ndarray

    def wait(self) -> None:
        """Waits for them.

        Raises:
            UnhealthyStep: their numbers have gone bad.
        """
        if not bool(self.healthy):
            raise UnhealthyStep(self.step, self.values(), self.batch)

    def values(self) -> dict[str, float]:
        """The metrics as numbers."""
        return {name: float(value) for name, value in self.metrics.items()}


class _Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(
            ("waiting", "transfer", "arithmetic", "publishing", "checkpointing"), 0.0
        )

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - started


def unfold_batch(steps: Array, table: Array, layout: ObservationLayout) -> sac.Batch:
    """A batch as it comes from the replay, (batch, 2, packed size) float32, as `sac` wants it."""
    folded = unpack_batch(steps, layout.frames, layout.proprioception_dim)
    return sac.Batch(
        observation=unfold(layout, table, folded.observation),
        action=folded.action,
        reward=folded.reward,
        discount=folded.discount,
        next_observation=unfold(layout, table, folded.next_observation),
    )


@functools.partial(jax.jit, static_argnames=("config", "layout"), donate_argnames="state")
def learner_steps(
    state: sac.TrainingState,
    steps: jax.Array,
    table: jax.Array,
    annealing: jax.Array,
    config: LearnerConfig,
    layout: ObservationLayout,
) -> tuple[sac.TrainingState, sac.Metrics, jax.Array]:
    """Updates on batches as they come from the replay, one after the other.

    Args:
        state: given away; use the one returned.
        steps: (updates, batch, 2, packed size) float32, see `replay.packing`.
        table: (rows, features) uint8, see `learner.observation.unfold`.
        annealing: () float32, see `sac.update`.
        config: of the algorithm.
        layout: of the observations.

    Returns:
        As `sac.update` does, the metrics of the last; and whether all were healthy, () bool.
    """

    def update(state: sac.TrainingState, steps: jax.Array) -> tuple[sac.TrainingState, sac.Metrics]:
        return sac.update(state, unfold_batch(steps, table, layout), config, annealing)

    if len(steps) == 1:  # No loop.
        state, metrics = update(state, steps[0])
        return state, metrics, sac.healthy(metrics, state)
    state, metrics = jax.lax.scan(update, state, steps)
    return state, jax.tree.map(lambda values: values[-1], metrics), sac.healthy(metrics, state)


def compile_steps(
    state: sac.TrainingState,
    shape: Sequence[int],
    table: Array,
    config: LearnerConfig,
    layout: ObservationLayout,
) -> Any:
    """`learner_steps` as this process's device and cores do it fastest, for batches of a shape.

    Args:
        state: as it will be given, of which the shapes count.
        shape: (updates, batch, 2, packed size).
        table: see `learner_steps`.
        config: see `learner_steps`.
        layout: see `learner_steps`.

    Returns:
        Takes the state, the batches, the table and the annealing.
    """
    steps = jax.ShapeDtypeStruct(shape, "float32")
    lowered = learner_steps.lower(state, steps, table, np.float32(1), config, layout)
    return compile_here(lowered, len(usable()))


class Learner:
    """Owns the training state (a Ray actor, on a GPU where there is one).

    It works in slices: whoever calls `learn` again and again decides when training ends,
    and learns at the latest after one slice that something is wrong.

    Args:
        config: of the algorithm.
        layout: of the observations.
        table: (rows, features) uint8, what of them is a function of time.
        action_dim: numbers in an action.
        seed: of the initial parameters and of all sampling in the updates.
        replay: where transitions are.
        batch_size: transitions in a learner step.
        parameter_server: handle of the `ParameterServer` actor.
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
        batch_size: int,
        parameter_server: Any,
    ):
        self._config = config
        self._live = LiveInputs(layout, table)
        self._dimensions = (layout.observation_dim, action_dim)
        self._seed = seed
        self._replay = replay
        self._batch_size = batch_size
        self._parameter_server = parameter_server
        self._step = 0
        self._published_at = 0.0
        self._watch = _Stopwatch()
        self._batches: list[np.ndarray] = []

    def start(self, cores: Collection[int] = (), saved: PackedFolder | None = None) -> str:
        """Makes the training state and compiles the update; comes before everything else.

        It is no part of the constructor, of whose errors Ray passes on the text alone.

        Args:
            cores: to learn on, see `learner.cores`; none means all.
            saved: the checkpoint to go on from, if any.

        Returns:
            The device that learns, for people.

        Raises:
            BadInput: there is no device of the platform that was asked for, or the checkpoint is
                damaged or of another network.
        """
        keep_to(cores)
        device = device_name()
        whole = sac.initial_state(self._config, *self._dimensions, self._seed)
        if saved is not None:
            whole = checkpoint.load_state(saved, whole)
        self._step = int(whole.step)
        self._state = jax.device_put(self._live.restrict(whole))
        self._whole = jax.device_get(whole)
        self._table = jax.device_put(self._live.table)
        self._updates_at_once = _UPDATES_AT_ONCE.get(
            jax.default_backend(), _UPDATES_AT_ONCE_ELSEWHERE
        )
        self._compiled = self._compile()
        self._sampler = self._replay.sampler()
        if self._step:
            self._publish()
        return device

    def learn(self, seconds: float, annealing: float = 1.0) -> LearnReport:
        """Takes learner steps for about `seconds`, publishing parameters on the way.

        Args:
            seconds: that this takes.
            annealing: what the learning rates of actor and critics are multiplied by.

        Raises:
            UnhealthyStep: numbers have gone bad; nothing of this learner is to be used any more.
            ray.exceptions.RayError: the replay server is gone.
        """
        started, first_step, watch = time.monotonic(), self._step, self._watch
        under_way: _Dispatch | None = None
        while (elapsed := time.monotonic() - started) < seconds:
            with watch.on("waiting"):
                steps = self._next_batches(seconds - elapsed)
            if steps is None:
                break
            if self._step == 0:
                self._publish()  # Ends the warm-up: actors act at random until now.
            with watch.on("transfer"):
                on_device = jax.device_put(steps)
            previous = under_way
            with watch.on("arithmetic"):
                self._state, metrics, healthy = self._compiled(
                    self._state, on_device, self._table, np.float32(annealing)
                )
                self._step += len(steps)
                under_way = _Dispatch(self._step, metrics, healthy, steps)
                # At most two dispatches are under way: they are asynchronous, and would run ahead.
                if previous is not None:
                    previous.wait()
            if time.monotonic() - self._published_at >= self._PUBLISH_SECONDS:
                with watch.on("arithmetic"):
                    under_way.wait()
                self._publish()
        values: dict[str, float] = {}
        if under_way is not None:
            with watch.on("arithmetic"):
                under_way.wait()
                values = under_way.values()
        self._watch = _Stopwatch()
        return LearnReport(
            step=self._step,
            steps=self._step - first_step,
            seconds=time.monotonic() - started,
            spent=watch.seconds,
            metrics=values,
        )

    def checkpoint(self, description: dict[str, Any]) -> PackedFolder:
        """The training state as a checkpoint.

        Args:
            description: see `learner.checkpoint.pack`; the number of learner steps is added.
        """
        with self._watch.on("checkpointing"):
            whole = self._live.restore(self._state, self._whole)
            return checkpoint.pack(whole, description | {"learner_steps": self._step})

    def _next_batches(self, seconds: float) -> np.ndarray | None:
        """As many as one dispatch takes, (updates, batch, 2, packed size); None if not in time."""
        deadline = time.monotonic() + seconds
        while len(self._batches) < self._updates_at_once:
            batch = self._sampler.sample(deadline - time.monotonic())
            if batch is None:
                return None
            self._batches.append(batch)
        steps = self._batches[0][None] if len(self._batches) == 1 else np.stack(self._batches)
        self._batches.clear()
        return steps

    def _publish(self) -> None:
        with self._watch.on("publishing"):
            reference = ray.put(jax.device_get(self._state.actor))
            self._parameter_server.publish.remote(Published(self._step, time.time(), [reference]))
            self._published_at = time.monotonic()

    def _compile(self) -> Any:
        """Compiles the learner steps before the first batch is there."""
        layout = self._live.layout
        size = packed_size((layout.frames, layout.proprioception_dim), self._dimensions[1])
        shape = (self._updates_at_once, self._batch_size, 2, size)
        return compile_steps(self._state, shape, self._table, self._config, layout)
