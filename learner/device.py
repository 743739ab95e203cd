"""The device that learns."""

import os

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
