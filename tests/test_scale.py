"""Another number of actors while a run runs, and a run that is kept at a URL."""

import json
import os
import signal
import subprocess
import time

import pytest
from runs_for_tests import (
    FLAGS,
    PATIENCE,
    HeldBack,
    command,
    environment_variables,
    learner_of,
    run,
    wait_until_nothing_is_left,
)

from actors.pool import ActorPool
from training.run import RunFolder
from training.scale import take_request

pytestmark = [pytest.mark.run, pytest.mark.timeout(2000)]


def wait_for(read, condition, process, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition(value := read()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, value
        time.sleep(0.2)
    return value


@pytest.mark.slow
def test_a_run_at_a_url_is_scaled_up_to_none_and_back(folder, monkeypatch):
    root = f"file://{folder}/bucket"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def ask(*arguments):
        result = run(folder, *arguments, "--root-dir", root, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def status():
        file = folder / "bucket" / "scaled" / "status.json"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):  # Not there yet, or just being written.
            return {"learner_steps": 0, "environment_steps": 0, "actors_running": 0}

    with subprocess.Popen(
        command(
            *("train", "--name", "scaled", "--root-dir", root, *FLAGS),
            *("--warmstart-steps", 200, "--max-steps", 1_000_000, "--eval-interval", 1_000_000),
        ),
        cwd=folder,
        env=environment_variables(folder) | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for(status, lambda now: now["learner_steps"] > 50, process)
        # What starts meanwhile needs the processors.
        held_back = HeldBack(learner_of(process))
        answer = ask("scale", "scaled", "--actors", 2)
        assert (answer["run"], answer["actors_wanted"]) == ("scaled", 2)
        wait_for(status, lambda now: now["actors_running"] == 2, process)
        assert ask("status", "scaled")["runs"][0]["actors_running"] == 2
        held_back.end()
        assert ask("scale", "scaled", "--actors", 0)["actors_running"] == 0
        none = wait_for(status, lambda now: now["actors_wanted"] == 0, process)
        time.sleep(8)  # The status is uploaded every five seconds.
        # What was played until the actors were gone, and what was on its way, arrives: up to 20
        # transitions of each environment. In 8 s they would play far more.
        assert status()["environment_steps"] - none["environment_steps"] <= 300
        ask("scale", "scaled", "--actors", 1)
        wait_for(
            status,
            lambda now: now["learner_steps"] > none["learner_steps"] + 200,
            process,
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    wait_until_nothing_is_left(folder)
    assert "scaling from 2 to 0 actors" in errors
    ended = status()
    assert ended["state"] == "stopped"
    # The update-to-data ratio of 1 was kept through all of it, within the buffer of either side.
    learnt_from = ended["environment_steps"] - 200
    assert abs(ended["learner_steps"] - learnt_from) < 300
    saved = sorted((folder / "bucket" / "scaled" / "checkpoints").iterdir())
    assert saved[-1].name == f"step_{ended['learner_steps']:09d}"
    lines = (folder / "bucket" / "scaled" / "logbook.jsonl").read_text().splitlines()
    steps = [json.loads(line)["environment_steps"] for line in lines]
    assert steps == sorted(steps)
    refused = run(folder, "scale", "scaled", "--actors", 2, "--root-dir", root)
    assert refused.returncode == 2
    assert "it is stopped" in refused.stderr
    assert os.listdir(folder / "bucket") == ["scaled"]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"actors": "many"}', '{"actors": -1}', '{"actors": 1e9}']
)
def test_a_damaged_request_is_put_away(tmp_path, text):
    (tmp_path / "scale.json").write_text(text)
    assert take_request(RunFolder(tmp_path)) is None
    assert not (tmp_path / "scale.json").exists()


@pytest.mark.parametrize("actors", [-1, 5000])
def test_a_number_out_of_range_is_refused(run_cli, actors):
    exit_code, _, errors = run_cli("scale", "some", "--actors", actors)
    assert exit_code == 2
    assert "--actors" in errors


def test_a_run_that_is_not_there_is_refused(run_cli):
    exit_code, _, errors = run_cli("scale", "nobody", "--actors", 1)
    assert exit_code == 2
    assert "no run at nobody" in errors


def test_a_pool_of_none_waits_for_nothing():
    pool = ActorPool(lambda _number: pytest.fail("started"), 0, 1.0, print)
    assert (pool.reports(), pool.futures, pool.placed, pool.running) == ([], [], 0, 0)
