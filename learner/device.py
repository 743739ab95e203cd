"""The device that learns."""

import os
from typing import Any

import jax

from learner.config import Platform
from replay.errors import BadInput

_VARIABLE = "JAX_PLATFORMS"
_NAMES = {"gpu": "cuda", "metal": "METAL", "cpu": "cpu"}


def variables(platform: Platform) -> dict[str, str]:
    """Environment variables with which a process learns on a platform; `auto` leaves it to JAX."""
    return {} if platform == "auto" else {_VARIABLE: _NAMES[platform]}


def use_cpu() -> None:
    """Leaves GPUs alone in this process, before JAX is first used: they belong to the learner."""
    jax.config.update("jax_platforms", "cpu")


def compiler_options(cores: int) -> dict[str, Any]:
    """How XLA is to compile a learner step for the device that learns; nothing, if not processors.

    XLA has two runtimes for processors. On one core the older one takes three quarters of the time
    that the newer one takes, on two cores half as long again. There the newer one takes up to a
    tenth less where its schedule does side by side what can be done so.

    Args:
        cores: that this process may use.
    """
    if jax.default_backend() != "cpu":
        return {}
    if cores == 1:
        return {"xla_cpu_use_thunk_runtime": False}
    return {"xla_cpu_enable_concurrency_optimized_scheduler": True}


def device_name() -> str:
    """The device that learns in this process, for people: "cpu", "gpu NVIDIA A100" and the like.

    Raises:
        BadInput: a platform was asked for that is not there.
    """
    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # JAX's own, by what is missing.
        raise BadInput(
            f"no device to learn on: JAX found no {os.environ.get(_VARIABLE)} here; "
            "--platform auto takes what there is"
        ) from error
    return device.platform if device.platform == "cpu" else f"{device.platform} {device}"
