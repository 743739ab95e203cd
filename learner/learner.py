"""The learner: batches in, parameters and checkpoints out."""

import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import ray

from learner import checkpoint, sac
from learner.config import LearnerConfig
from learner.live_inputs import LiveInputs
from learner.observation import ObservationLayout, unfold
from replay.client import Replay
from replay.files import PackedFolder
from replay.packing import packed_size, unpack_batch


class LearnReport(NamedTuple):
    """What one call of `Learner.learn` did."""

    step: int
    """Learner steps so far."""
    steps: int
    """Learner steps in this call."""
    seconds: float
    """Length of this call."""
    waiting_seconds: float
    """Of which spent waiting for data."""
    metrics: dict[str, float]
    """Of the last learner step; empty if there was none."""


@functools.partial(jax.jit, static_argnames=("config", "layout"), donate_argnames="state")
def learner_step(
    state: sac.TrainingState,
    steps: jax.Array,
    table: jax.Array,
    config: LearnerConfig,
    layout: ObservationLayout,
) -> tuple[sac.TrainingState, sac.Metrics]:
    """One update on a batch as it comes from the replay.

    Args:
        state: given away; use the one returned.
        steps: (batch, 2, packed size) float32, see `replay.packing`.
        table: (rows, features) uint8, see `learner.observation.unfold`.
        config: of the algorithm.
        layout: of the observations.

    Returns:
        As `sac.update` does.
    """
    batch = unpack_batch(steps, layout.frames, layout.proprioception_dim)
    unfolded = sac.Batch(
        observation=unfold(layout, table, batch.observation),
        action=batch.action,
        reward=batch.reward,
        discount=batch.discount,
        next_observation=unfold(layout, table, batch.next_observation),
    )
    return sac.update(state, unfolded, config)


def device_name() -> str:
    """The device that learns in this process, for people: "cpu", "gpu NVIDIA A100" and the like."""
    device = jax.devices()[0]
    return device.platform if device.platform == "cpu" else f"{device.platform} {device}"


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
        whole = sac.initial_state(config, layout.observation_dim, action_dim, seed)
        self._state = jax.device_put(self._live.restrict(whole))
        self._whole = jax.device_get(whole)
        self._step = 0
        self._parameter_server = parameter_server
        self._published_at = 0.0
        self._table = jax.device_put(self._live.table)
        self._compiled_step = self._compile(action_dim, batch_size)
        self._sampler = replay.sampler()

    def device(self) -> str:
        """See `device_name`."""
        return device_name()

    def learn(self, seconds: float) -> LearnReport:
        """Takes learner steps for about `seconds`, publishing parameters on the way.

        Raises:
            ray.exceptions.RayError: the replay server is gone.
        """
        started, first_step, waiting = time.monotonic(), self._step, 0.0
        metrics: dict[str, jax.Array] = {}
        while (elapsed := time.monotonic() - started) < seconds:
            wait_started = time.monotonic()
            batch = self._sampler.sample(seconds - elapsed)
            waiting += time.monotonic() - wait_started
            if batch is None:
                break
            if self._step == 0:
                self._publish()  # Ends the warm-up: actors act at random until now.
            previous = metrics
            self._state, metrics = self._compiled_step(self._state, batch, self._table)
            self._step += 1
            # At most two steps are under way: dispatch is asynchronous and would run ahead.
            jax.block_until_ready(previous)
            if time.monotonic() - self._published_at >= self._PUBLISH_SECONDS:
                self._publish()
        values = {name: float(value) for name, value in metrics.items()}
        return LearnReport(
            step=self._step,
            steps=self._step - first_step,
            seconds=time.monotonic() - started,
            waiting_seconds=waiting,
            metrics=values,
        )

    def checkpoint(self, description: dict[str, Any]) -> PackedFolder:
        """The training state as a checkpoint.

        Args:
            description: see `learner.checkpoint.pack`; the number of learner steps is added.
        """
        whole = self._live.restore(self._state, self._whole)
        return checkpoint.pack(whole, description | {"learner_steps": self._step})

    def _publish(self) -> None:
        reference = ray.put(jax.device_get(self._state.actor))
        self._parameter_server.publish.remote(self._step, [reference])
        self._published_at = time.monotonic()

    def _compile(self, action_dim: int, batch_size: int) -> Any:
        """Compiles the learner step before the first batch is there."""
        layout = self._live.layout
        size = packed_size((layout.frames, layout.proprioception_dim), action_dim)
        steps = jax.ShapeDtypeStruct((batch_size, 2, size), "float32")
        return learner_step.lower(self._state, steps, self._table, self._config, layout).compile()
