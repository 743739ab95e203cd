"""The benchmarks run and say what the README quotes; how fast anything is, is not tested."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def test_bench_environment_measures_every_side():
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "pianist.py"), "bench", "environment"),
            *("--rounds", "1", "--seconds", "0.3", "--json"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    steps = answer["control_steps_per_second"]
    assert set(steps) == {
        "stock",
        "fast",
        "physics",
        "fast_all_cores",
        "physics_all_cores",
        "actor",
    }
    assert all(value > 1 for value in steps.values())
    assert answer["fast_over_stock"] == pytest.approx(steps["fast"] / steps["stock"])
    assert answer["bytes_per_transition"] == 4 * (175 + 39 + 4)
