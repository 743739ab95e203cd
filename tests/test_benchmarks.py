"""The benchmarks run and say what the README quotes; how fast anything is, is not tested."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from runs_for_tests import wait_until_nothing_is_left

from benchmarks.learner import _product_shapes
from benchmarks.saturation import saturation
from benchmarks.saturation_plot import draw
from learner.config import LearnerConfig

pytestmark = pytest.mark.bench

ROOT = pathlib.Path(__file__).parent.parent


def bench(folder, *arguments):
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "pianist.py"), "bench"),
            *(*map(str, arguments), "--rounds", "1", "--seconds", "0.3", "--json"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    wait_until_nothing_is_left(folder)
    return json.loads(result.stdout)


def test_bench_environment_measures_every_side(folder):
    answer = bench(folder, "environment")
    steps = answer["control_steps_per_second"]
    assert set(steps) == {
        "reference",
        "fast",
        "physics",
        "fast_all_cores",
        "physics_all_cores",
        "actor",
    }
    assert all(value > 1 for value in steps.values())
    assert answer["fast_over_reference"] == pytest.approx(steps["fast"] / steps["reference"])
    # 63 of 64 rows begin one, and the place of each is kept.
    assert answer["bytes_per_transition"] == round(4 * (175 + 39 + 4) * 64 / 63 + 4)


def test_bench_learner_measures_every_side(folder):
    answer = bench(folder, "learner")
    milliseconds = answer["milliseconds"]
    assert {"ours", "baseline", "products", "products_of_active_inputs"} <= set(milliseconds)
    assert all(value > 0 for value in milliseconds.values())
    assert answer["baseline_over_ours"] == pytest.approx(
        milliseconds["baseline"] / milliseconds["ours"]
    )
    assert answer["share_of_floor"] == pytest.approx(
        milliseconds["products"] / milliseconds["ours"]
    )
    assert answer["active_inputs"] < answer["inputs"] == 1164


def test_the_products_of_an_update_are_those_of_the_layers():
    shapes = _product_shapes(LearnerConfig(), observation_dim=1164, action_dim=39)
    # By hand: 2.84 GFLOP, with 2 for a multiplication and an addition.
    assert sum(2 * m * k * n for m, k, n in shapes) == pytest.approx(2.84e9, rel=0.01)


def test_bench_replay_measures_both_kinds(folder):
    answer = bench(folder, "replay")
    for kind in ("reverb", "memory"):
        assert answer[kind]["transitions_per_second"] > 1
        for what in ("writer_microseconds", "server_microseconds", "reader_microseconds", "bytes"):
            assert answer[kind][what] > 0


def test_bench_end_to_end_measures_a_training_beside_the_plain_loop(folder):
    answer = bench(folder, "end-to-end", "--replay-size", 2000)
    for side in ("ours", "baseline"):
        assert answer[side]["environment_steps_per_second"] > 0.1
        assert answer[side]["learner_steps_per_second"] > 0.1
    assert 0 <= answer["learner_waiting"] <= 1
    assert 300 < answer["megabytes"] < 8000


def test_bench_scale_measures_every_part_and_its_plot_is_drawn(folder, tmp_path):
    answer = bench(folder, "scale", "--actors", "1", "2", "--step-milliseconds", "5")
    replay, parameters = answer["replay"], answer["parameters"]
    assert (replay["actors_run"], parameters["actors_run"]) == (2, 2)
    assert [row["actors"] for row in replay["by_actors"]] == [1, 2]
    for row in replay["by_actors"]:
        # A stand-in sleeps as long as its steps are to take, so it never makes more.
        assert 1 < row["transitions_per_second"] <= row["offered_per_second"]
        assert row["bytes"] > 100
    for row in parameters["by_actors"]:
        assert 0 < row["seconds_until_half_have_them"] <= row["seconds_until_all_have_them"]
    # One layer of the actor, at least.
    assert parameters["bytes"] > 4 * 256 * 256
    assert answer["learner"]["steps_per_second"] > 0
    (tmp_path / "figures.json").write_text(json.dumps(answer))
    draw(tmp_path / "figures.json", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_saturation_follows_from_what_was_measured():
    figures = {
        "step_seconds": 0.0015,
        "replay": {
            "by_actors": [
                dict.fromkeys(
                    ("server_microseconds", "writer_microseconds", "reader_microseconds", "bytes"),
                    1,
                ),
                {
                    "server_microseconds": 20,
                    "writer_microseconds": 500,
                    "reader_microseconds": 10,
                    "bytes": 1000,
                },
            ],
        },
        "parameters": {"bytes": 1_000_000},
        "learner": {"steps_per_second": 700},
    }
    rows = {
        (row["cores"], row["update_to_data_ratio"]): row for row in saturation(figures, (16, 1024))
    }
    few = rows[16, 0.1]
    assert few["limits"] == pytest.approx(
        {
            "actors": 16 / 0.002,
            "replay": 1 / 20e-6,
            "reader": 1 / 10e-6,
            "network": (1.25e9 - 1e6) / 1000,
            "learner": 7000,
        }
    )
    assert (few["limited_by"], few["environment_steps_per_second"]) == ("learner", 7000)
    assert few["learner_steps_per_second_wanted"] == pytest.approx(800)
    many = rows[1024, 0.01]
    assert many["limited_by"] == "replay"
    assert many["environment_steps_per_second"] == pytest.approx(50_000)
    assert many["limits"]["network"] == pytest.approx((1.25e9 - 64e6) / 1000)
    assert rows[1024, 1.0]["learner_steps_per_second_wanted"] == pytest.approx(1 / 20e-6)
