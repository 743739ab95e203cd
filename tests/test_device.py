"""What learns, and on which cores."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs_for_tests import FLAGS, ROOT, assert_refused, run, wait_until_nothing_is_left

from common import cores
from learner import device
from learner.device import compiler_options, gpu_is_here, put_copies, variables

pytestmark = pytest.mark.run


def test_auto_leaves_the_choice_to_jax():
    assert variables("auto") == {}
    assert variables("cpu") == {"JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
def test_a_platform_that_is_not_there_is_refused_in_one_line(folder):
    result = run(
        folder,
        *("train", *FLAGS, "--platform", "gpu", "--warmstart-steps", 100, "--max-steps", 200),
    )
    assert_refused((result.returncode, result.stdout, result.stderr), "--platform auto", "cuda")
    wait_until_nothing_is_left(folder)


def test_a_gpu_compiles_as_jax_has_it(monkeypatch):
    assert compiler_options(1) != compiler_options(2) != {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options(1) == compiler_options(2) == {}


def test_donated_buffers_share_no_memory_with_arrays_of_the_host(monkeypatch):
    shared: list[int] = []

    def put(arrays, device):
        shared.extend(array.ctypes.data for array in arrays)
        return device_put(arrays, device)

    device_put = jax.device_put
    monkeypatch.setattr(jax, "device_put", put)
    array = np.arange(100_000, dtype=np.float32)
    (on_device,) = put_copies([array], jax.local_devices(backend="cpu")[0])
    assert on_device.unsafe_buffer_pointer() not in shared
    np.testing.assert_array_equal(on_device, array)


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """A machine with one of NVIDIA's GPUs, and JAX's plugin for it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "_NVIDIA_DEVICES", f"{tmp_path}/nvidia[0-9]*")
    monkeypatch.setattr(device, "_NVIDIA_OF_WSL", f"{tmp_path}/dxg")
    install(monkeypatch, "xla_cuda13")
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "nvidia0"


def install(monkeypatch, *plugins):
    names = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(plugin, "module", "jax_plugins") for plugin in plugins
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: names)


def test_a_gpu_is_found_without_starting_jax(nvidia):
    assert gpu_is_here()
    assert not gpu_is_here("cpu")
    nvidia.rename(nvidia.with_name("dxg"))  # As Windows has it, in its Linux.
    assert gpu_is_here()


def test_a_gpu_that_jax_cannot_use_does_not_count(nvidia, monkeypatch):
    for name, value in (
        ("JAX_PLATFORMS", "cpu"),
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert not gpu_is_here()
    install(monkeypatch)
    assert not gpu_is_here()
    install(monkeypatch, "metal")
    assert gpu_is_here()
    install(monkeypatch, "xla_cuda13")
    nvidia.unlink()
    assert not gpu_is_here()


@pytest.mark.parametrize(
    ("there", "on_cpu", "on_gpu"), [(1, 1, 1), (2, 1, 1), (4, 2, 2), (5, 2, 3), (16, 8, 14)]
)
def test_an_actor_for_each_core_that_the_learner_leaves(monkeypatch, there, on_cpu, on_gpu):
    monkeypatch.setattr(cores, "available_cores", lambda: list(range(there)))
    assert cores.actors_here(learns_on_cpu=True) == on_cpu
    assert cores.actors_here(learns_on_cpu=False) == on_gpu


def test_cores_are_shared_out_in_halves(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: [0, 1, 2, 5, 6])
    assert cores.split_cores() == ([0, 1, 2], [5, 6])
    monkeypatch.setattr(cores, "available_cores", lambda: [3])
    assert cores.split_cores() == ([], [])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_xla_starts_no_more_threads_than_there_are_cores_left():
    script = """
from common.cores import pin_to, available_cores
pin_to(available_cores()[:1])
import jax, os, pathlib
jax.block_until_ready(jax.numpy.ones((512, 512)) @ jax.numpy.ones((512, 512)))
print(len(available_cores()))
names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
print(sum("XLAEigen" in name for name in names))
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    usable, threads = map(int, result.stdout.split())
    assert usable == 1
    assert threads <= 1
