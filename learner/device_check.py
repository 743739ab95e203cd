"""Checks whether a device computes a learner step as the CPU does."""

from typing import Any

import jax
import numpy as np

from learner import sac
from learner.config import LearnerConfig, SACConfig
from learner.device import put_copies, use_metal
from learner.learner import Shape, learner_steps
from learner.observation import ObservationLayout
from learner.ring import Rings, Window
from replay.packing import packed_size

_LAYOUT = ObservationLayout(before=16, features=32, after=8, frames=1)
_ACTION_DIM = 8
_ROWS = 64
_UPDATES = 3
_BATCH = 64
_KEPT = 500
# Devices sum float32 numbers in different orders. The size of Adam's first steps does not depend on
# the size of the gradient, so rounding decides the sign of a step where the gradient is almost
# zero.
_METRICS_TOLERANCE = 0.01
_STEP_TOLERANCE = 0.1


def compare_with_cpu() -> dict[str, Any]:
    """Takes a few learner steps on JAX's device and the same steps on the CPU.

    Both use equal seeds, made-up transitions and small networks. The check takes a few seconds,
    mostly for compiling.

    Returns:
        A dictionary. `device` is the name of the device. `metrics` is the largest difference of a
        metric of the last step, as a share of the CPU's value. `parameters` is the norm of the
        difference between the two devices' changes of actor and critics, as a share of the norm of
        the CPU's change. `agrees` is whether both are as small as float32 allows.

    Raises:
        RuntimeError: JAX has no device, or the device cannot take a learner step.
    """
    use_metal()
    device, cpu = jax.devices()[0], jax.local_devices(backend="cpu")[0]
    begun = _problem()
    ours, ours_metrics = _learn(begun, device)
    theirs, theirs_metrics = _learn(begun, cpu)
    started = _weights(begun[0])
    metrics = max(
        abs(ours_metrics[name] - value) / max(abs(value), 1e-3)
        for name, value in theirs_metrics.items()
    )
    parameters = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - started))
    return {
        "device": str(device),
        "metrics": metrics,
        "parameters": parameters,
        "agrees": metrics <= _METRICS_TOLERANCE and parameters <= _STEP_TOLERANCE,
    }


def example_steps(updates: int = _UPDATES) -> tuple[tuple[Any, ...], Shape]:
    """Returns the arguments of `learner.learner_steps`: arrays on the host, and the shape."""
    return _problem(), _shape(updates)


def _shape(updates: int = _UPDATES) -> Shape:
    return Shape(_config(), _LAYOUT, updates, _BATCH)


def _config() -> LearnerConfig:
    return LearnerConfig(agent_config=SACConfig(hidden_dims=(64, 64), actor_ema_tau=0.1))


def _problem() -> tuple[Any, ...]:
    """Returns the array arguments of `learner_steps`, on the host, with a full replay."""
    random = np.random.default_rng(0)
    size = packed_size((_LAYOUT.frames, _LAYOUT.proprioception_dim), _ACTION_DIM)
    steps = random.uniform(-1, 1, (_KEPT + 1, size)).astype(np.float32)
    steps.view(np.int32)[..., -2] = random.integers(0, _ROWS, _KEPT + 1)
    steps.view(np.int32)[..., -1] = 0
    rings = Rings(steps, np.arange(_KEPT, dtype=np.int32))
    window = Window(np.int32(0), np.int32(_KEPT))
    table = random.integers(0, 2, (_ROWS, _LAYOUT.features)).astype(np.uint8)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        state = jax.device_get(
            sac.initial_state(_config(), _LAYOUT.observation_dim, _ACTION_DIM, seed=0)
        )
    return state, rings, window, table, np.float32(1)


def _learn(problem: tuple[Any, ...], device: jax.Device) -> tuple[np.ndarray, dict[str, float]]:
    on_device = put_copies(problem, device)  # A learner step donates the state.
    state, metrics, *_ = learner_steps(*on_device, _shape())
    return _weights(jax.device_get(state)), {name: float(value) for name, value in metrics.items()}


def _weights(state: sac.TrainingState) -> np.ndarray:
    leaves = jax.tree.leaves((state.actor, state.critic))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])
