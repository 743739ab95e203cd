"""What learns, and on which cores."""

import os
import subprocess
import sys

import jax
import pytest
from runs_for_tests import FLAGS, ROOT, assert_refused, run, wait_until_nothing_is_left

from learner import cores
from learner.device import compiler_options, variables


def test_auto_leaves_the_choice_to_jax():
    assert variables("auto") == {}
    assert variables("cpu") == {"JAX_PLATFORMS": "cpu"}


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


def test_cores_are_shared_out_in_halves(monkeypatch):
    monkeypatch.setattr(cores, "usable", lambda: [0, 1, 2, 5, 6])
    assert cores.shared_out() == ([0, 1, 2], [5, 6])
    monkeypatch.setattr(cores, "usable", lambda: [3])
    assert cores.shared_out() == ([], [])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_xla_starts_no_more_threads_than_there_are_cores_left():
    script = """
from learner.cores import keep_to, usable
keep_to(usable()[:1])
import jax, os, pathlib
jax.block_until_ready(jax.numpy.ones((512, 512)) @ jax.numpy.ones((512, 512)))
print(len(usable()))
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
