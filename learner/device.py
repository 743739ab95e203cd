"""The choice of the device that learns."""

import glob
import importlib.metadata
import os
from typing import Any

import jax
import jax.numpy as jnp

from common import memory
from common.errors import BadInput
from learner.config import Platform

_VARIABLE = "JAX_PLATFORMS"
_NAMES = {"gpu": "cuda", "metal": "metal", "cpu": "cpu"}
# Platform names of the plugins for Apple GPUs: metaljax's, then jax-mps's.
_METAL = ("metal", "mps")
# JAX's plugin for NVIDIA GPUs is `xla_cuda12` or `xla_cuda13`.
_CUDA = "xla_cuda"
_NVIDIA_DEVICES = "/dev/nvidia[0-9]*"
_NVIDIA_OF_WSL = "/dev/dxg"


def variables(platform: Platform) -> dict[str, str]:
    """Returns environment variables that make a process learn on a platform.

    There are none for `auto`, which leaves the choice to JAX.
    """
    return {} if platform == "auto" else {_VARIABLE: _NAMES[platform]}


def use_cpu() -> None:
    """Keeps this process off GPUs, which belong to the learner.

    Call it before JAX is first used.
    """
    jax.config.update("jax_platforms", "cpu")


def put_copies(arrays: Any, device: jax.Device | None = None) -> Any:
    """Copies a tree of arrays into memory of a device, which a computation may then donate.

    On a CPU, `jax.device_put` shares the memory of NumPy arrays. When this memory is donated, JAX
    0.4 frees it at once, although the computation may not have read it yet.

    Args:
        arrays: Tree of NumPy or JAX arrays.
        device: Device that gets them; by default JAX's own choice.
    """
    return jax.tree.map(jnp.copy, jax.device_put(arrays, device))


def compiler_options(cores: int) -> dict[str, Any]:
    """Returns XLA's options for compiling a learner step; none unless a CPU learns.

    Up to version 0.4, JAX had two XLA runtimes for CPUs. On one core the older runtime takes three
    quarters of the newer one's time. On two cores it takes half as long again as the newer one.
    There the newer one saves up to a tenth if its scheduler runs independent operations side by
    side.

    Args:
        cores: Number of cores that this process may use.
    """
    if jax.default_backend() != "cpu":
        return {}
    if cores == 1:
        return {"xla_cpu_use_thunk_runtime": False}
    return {"xla_cpu_enable_concurrency_optimized_scheduler": True}


def compile_here(lowered: Any, cores: int) -> Any:
    """Compiles a lowered function with those `compiler_options` that this version of JAX knows.

    Args:
        lowered: Result of `jax.jit(...).lower(...)`.
        cores: Number of cores that this process may use.
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
    """Returns whether JAX would learn on a GPU of this machine, without starting JAX.

    Args:
        platform: Platform to learn on.
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
    """Returns the bytes that are free for arrays on the device that learns in this process."""
    device = jax.devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if not statistics or "bytes_limit" not in statistics:  # Metal shares the machine's memory.
        return memory.free()[0]
    return float(statistics["bytes_limit"] - statistics["bytes_in_use"])


def use_metal() -> None:
    """Lets JAX find Apple's GPU through the installed plugin. Call it before JAX is first used.

    It does nothing if no such plugin is installed, or if JAX_PLATFORMS asks for another platform.
    JAX uses `metaljax` only on request, and `jax-mps` has another name than `--platform metal`.
    """
    if os.environ.get(_VARIABLE, "") not in ("", _NAMES["metal"]):
        return
    plugins = importlib.metadata.entry_points(group="jax_plugins").names
    name = next((name for name in _METAL if name in plugins), None)
    if name is not None:
        jax.config.update("jax_platforms", f"{name},cpu")


def device_name() -> str:
    """Returns the name of the device that learns in this process, for users.

    The name is "cpu", "gpu NVIDIA A100" or similar.

    Raises:
        BadInput: The requested platform is missing.
    """
    use_metal()
    try:
        device = jax.devices()[0]
    except (RuntimeError, AssertionError) as error:  # JAX raises either.
        raise BadInput(
            f"no device to learn on: JAX found no {os.environ.get(_VARIABLE)} here; "
            "--platform auto takes what there is"
        ) from error
    return device.platform if device.platform == "cpu" else f"{device.platform} {device}"
