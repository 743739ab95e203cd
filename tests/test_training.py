"""The whole loop, small and real: Ray, Reverb, MuJoCo, two actors, one learner, an evaluator."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import mido
import numpy as np
import psutil
import pytest
from runs_for_tests import (
    FLAGS,
    ROOT,
    WARM_UP,
    assert_refused,
    environment_variables,
    run,
    running,
    wait_until_nothing_is_left,
)

from piano.performance import Performance

pytestmark = pytest.mark.run


def logbook(path):
    return [json.loads(line) for line in (path / "logbook.jsonl").read_text().splitlines()]


def test_run_ends_with_an_evaluation(trained):
    answer, path = trained
    assert answer["state"] == "finished"
    assert answer["metrics"]["due_notes"] == 9
    for name in ("metrics.json", "performance.npz", "played.mid", "video.mp4"):
        assert pathlib.Path(path.parent.parent / answer["files"][name]).stat().st_size > 0
    assert (path / "report.html").stat().st_size > 10_000


def test_the_first_and_the_last_evaluation_are_recorded(trained):
    _, path = trained
    played = sorted(file.parent for file in (path / "eval").glob("*/performance.npz"))
    assert [(place / "video.mp4").is_file() for place in played] == [
        place in (played[0], played[-1]) for place in played
    ]


def test_update_to_data_ratio_of_one_is_held(trained):
    answer, _ = trained
    steps = answer["environment_steps"]
    assert 1500 <= steps < 2500  # It ends with the slice in which the last step is reached.
    # The error buffer is a tenth of the warm-up, and the two sides stop within a slice.
    assert answer["learner_steps"] == pytest.approx(steps - WARM_UP, abs=0.1 * WARM_UP + 150)


def test_logbook_has_what_people_plot(trained):
    _, path = trained
    lines = logbook(path)
    names = set().union(*lines)
    for name in (
        "train/episode_return",
        "train/episode_length",
        "train/environment_steps_per_second",
        "learner/steps_per_second",
        "learner/q",
        "learner/entropy",
        "learner/temperature",
        "learner/critic_loss",
        "learner/actor_loss",
        "learner/waiting_fraction",
        "replay/size",
        "actors/policy_lag",
        "eval/note_f1",
        "eval/f1",
        "eval/precision",
        "eval/recall",
        "eval/sustain_f1",
        "eval/onset_error_ms",
        "eval/episode_return",
    ):
        assert name in names, name
    steps = [line["environment_steps"] for line in lines if "replay/size" in line]
    assert steps == sorted(steps)
    lags = [line["actors/policy_lag"] for line in lines if "actors/policy_lag" in line]
    assert 0 <= np.mean(lags) < 500


def test_evaluations_are_of_saved_checkpoints(trained):
    _, path = trained
    evaluated = sorted(folder.name for folder in (path / "eval").iterdir())
    saved = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    assert evaluated == saved
    assert len(evaluated) >= 2


def test_performance_covers_the_song(trained):
    _, path = trained
    performance = Performance.load(max((path / "eval").iterdir()) / "performance.npz")
    assert performance.rewards.shape == performance.due_pedal.shape
    assert performance.seconds == pytest.approx(5.5, abs=0.1)


@pytest.mark.usefixtures("trained")
def test_status_and_report(folder):
    status = json.loads(run(folder, "status", "--json").stdout)["runs"]
    assert [(entry["name"], entry["state"]) for entry in status] == [("scale", "finished")]
    assert "scale" in run(folder, "status").stdout
    result = run(folder, "report", "scale", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["report"].endswith("report.html")


@pytest.mark.usefixtures("trained")
def test_a_name_that_is_taken_is_refused(run_cli):
    assert_refused(run_cli("train", "--name", "scale", *FLAGS), "there is a run scale")


# --- pianist eval -----------------------------------------------------------------------


def test_eval_plays_the_newest_checkpoint_as_training_did(trained, folder):
    answer, _ = trained
    result = run(folder, "eval", "--load_checkpoint", "runs/scale", "--json")
    assert result.returncode == 0, result.stderr
    again = json.loads(result.stdout)
    assert again["metrics"] == answer["metrics"]
    mido.MidiFile(folder / again["files"]["played.mid"])
    assert (folder / again["files"]["video.mp4"]).stat().st_size > 0


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--midi-file", ROOT / "example_midis" / "ode_to_joy.mid"],
            ["ode to joy", "five finger scale", "control steps"],
        ),
        (["--n-steps-lookahead", 5], ["--n-steps-lookahead is 5", "with 10"]),
        (["--no-gravity-compensation"], ["--gravity-compensation is False", "with True"]),
        (["--eval-episodes", 0], ["--eval-episodes is 0"]),
    ],
)
def test_eval_refuses_what_does_not_belong_together(run_cli, flags, words):
    assert_refused(run_cli("eval", "--load-checkpoint", "runs/scale", *flags), *words)


def test_eval_of_the_same_song_from_its_file(trained, run_cli):
    trained_answer, _ = trained
    exit_code, answer, errors = run_cli(
        "eval", "--load-checkpoint", "runs/scale", *FLAGS[:6], "--json"
    )
    assert exit_code == 0, errors
    assert json.loads(answer)["metrics"] == trained_answer["metrics"]


# --- Priority ---------------------------------------------------------------------------

EVALUATOR_GIVES_WAY_BY = 10


@pytest.mark.slow
@pytest.mark.parametrize("own", [0, 5])
def test_all_parts_have_the_priority_of_the_command_and_the_evaluator_gives_way(folder, own):
    name, flags = f"nice{own}", [*FLAGS, "--max-steps", 1_000_000]
    before = ("nice", "-n", str(own))
    with running(folder, folder / "runs" / name, "--name", name, *flags, before=before) as started:
        started.wait_until(lambda run: run.status()["state"] == "training")
        niceness = {
            child.name().removeprefix("ray::").partition(".")[0]: child.nice()
            for child in psutil.Process(started.process.pid).children(recursive=True)
        }
        started.end(signal.SIGTERM, 60)
    own += os.nice(0)
    for part in ("ReplayServer", "ParameterServer", "Learner", "Actor", "raylet", "gcs_server"):
        assert niceness[part] == own, niceness
    assert niceness["Evaluator"] == min(own + EVALUATOR_GIVES_WAY_BY, 19)
    wait_until_nothing_is_left(folder)


# --- Ray --------------------------------------------------------------------------------

CONNECT = """
import pathlib, subprocess, sys
import ray
from common import ray_session
with ray_session.connect(ray_session.cluster_address(), pathlib.Path("logs")):
    print(ray.get_runtime_context().gcs_address, flush=True)
    if sys.argv[1] == "outer":
        subprocess.run([sys.executable, "-c", sys.argv[2], "inner"], check=True, timeout=600)
"""


@pytest.mark.slow
def test_two_runs_on_one_machine_do_not_share_a_private_ray(folder):
    result = subprocess.run(
        [sys.executable, "-c", CONNECT, "outer", CONNECT],
        cwd=folder,
        env=environment_variables(folder),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    addresses = result.stdout.split()
    assert len(addresses) == 2
    assert addresses[0] != addresses[1]


def test_a_cluster_that_does_not_answer_is_named(run_cli, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert_refused(run_cli("train", *FLAGS), "no Ray cluster answers at 127.0.0.1:1")
