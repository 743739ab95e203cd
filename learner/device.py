"""The device that learns."""

import glob
import importlib.metadata
import os
from typing import Any

import jax

from common import memory
from common.errors import BadInput
from learner.config import Platform

_VARIABLE = "JAX_PLATFORMS"
_NAMES = {"gpu": "cuda", "metal": "metal", "cpu": "cpu"}
# What the plugins for Apple's GPUs call their platform: metaljax's, then jax-mps's.
_METAL = ("metal", "mps")
# JAX's plugin for NVIDIA's GPUs is `xla_cuda12` or `xla_cuda13`.
_CUDA = "xla_cuda"
_NVIDIA_DEVICES = "/dev/nvidia[0-9]*"
_NVIDIA_OF_WSL = "/dev/dxg"


def variables(platform: Platform) -> dict[str, str]:
    """Environment variables with which a process learns on a platform; `auto` leaves it to JAX."""
    return {} if platform == "auto" else {_VARIABLE: _NAMES[platform]}


def use_cpu() -> None:
    """Leaves GPUs alone in this process, before JAX is first used: they belong to the learner."""
    jax.config.update("jax_platforms", "cpu")


def compiler_options(cores: int) -> dict[str, Any]:
    """How XLA is to compile a learner step for the device that learns; nothing, if not processors.

    XLA had two runtimes for processors, up to JAX 0.4. On one core the older one takes three
    quarters of the time that the newer one takes, on two cores half as long again. There the newer
    one takes up to a tenth less where its schedule does side by side what can be done so.

    Args:
        cores: that this process may use.
    """
    if jax.default_backend() != "cpu":
        return {}
    if cores == 1:
        return {"xla_cpu_use_thunk_runtime": False}
    return {"xla_cpu_enable_concurrency_optimized_scheduler": True}


def compile_here(lowered: Any, cores: int) -> Any:
    """The executable of a lowered function, with those of the options above that this JAX knows.

    Args:
        lowered: as `jax.jit(...).lower(...)` returns it.
        cores: that this process may use.
    """
    options = compiler_options(cores)
    while True:
        try:
            return lowered.compile(options)
        except RuntimeError as error:
            unknown = [
                name for name in options if f"No such compile option: '{name}'" in str(error)
            ]
            if not unknown:
                raise
            options = {name: value for name, value in options.items() if name not in unknown}


def gpu_is_here(platform: Platform = "auto") -> bool:
    """Whether JAX would learn on a GPU of this machine; JAX is not started for it.

    Args:
        platform: that is to learn.
    """
    asked = os.environ.get(_VARIABLE, "")
    if platform == "cpu" or asked == "cpu":
        return False
    plugins = importlib.metadata.entry_points(group="jax_plugins").names
    if any(name in plugins for name in _METAL):
        return True
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    has_nvidia = bool(glob.glob(_NVIDIA_DEVICES)) or os.path.exists(_NVIDIA_OF_WSL)
    return has_nvidia and not hidden and any(name.startswith(_CUDA) for name in plugins)


def free_memory() -> float:
    """Bytes that are free for arrays on the device that learns in this process."""
    device = jax.devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if not statistics or "bytes_limit" not in statistics:  # Metal shares the machine's memory.
        return memory.free()[0]
    return float(statistics["bytes_limit"] - statistics["bytes_in_use"])


def use_metal() -> None:
    """Lets JAX find Apple's GPU, by whichever plugin is installed, before JAX is first used.

    Does nothing where no such plugin is installed, or where JAX_PLATFORMS asks for something else.
    `metaljax` waits to be asked for, and `jax-mps` has another name than `--platform metal`.
    """
    if os.environ.get(_VARIABLE, "") not in ("", _NAMES["metal"]):
        return
    plugins = importlib.metadata.entry_points(group="jax_plugins").names
    name = next((name for name in _METAL if name in plugins), None)
    if name is not None:
        jax.config.update("jax_platforms", f"{name},cpu")


def device_name() -> str:
    """The device that learns in this process, for people: "cpu", "gpu NVIDIA A100" and the like.

    Raises:
        BadInput: a platform was asked for that is not there.
    """
    use_metal()
    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # JAX's own, by what is missing.
        raise BadInput(
            f"no device to learn on: JAX found no {os.environ.get(_VARIABLE)} here; "
            "--platform auto takes what there is"
        ) from error
    return device.platform if device.platform == "cpu" else f"{device.platform} {device}"
