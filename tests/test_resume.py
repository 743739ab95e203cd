"""Runs that are interrupted in every way, and resumed."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
import safetensors.numpy
from runs_for_tests import (
    FLAGS,
    SCALE,
    assert_refused,
    run,
    running,
    wait_until_nothing_is_left,
)

from common import storage
from common.files import PackedFolder, write_json
from piano.config import SongConfig
from piano.repertoire import Repertoire
from piano.song import load_songs
from replay import journal
from training import resume
from training import run as runs
from training.config import TrainConfig, WandbConfig
from training.logbook import Logbook

pytestmark = [pytest.mark.run, pytest.mark.slow]

SMALL = [
    *FLAGS,
    *("--environments-per-actor", 2, "--warmstart-steps", 100, "--eval-interval", 400),
    *("--log-interval", 100),
]

JOY = SCALE.with_name("ode_to_joy.mid")
TWO_SONGS = ["--midi-file", SCALE, JOY, "--stretch-factor", 0.4, *SMALL[2:]]


# --- Which settings can be changed ------------------------------------------------------------


@pytest.fixture
def broken_off(folder, tmp_path):
    """A run that says it is under way, but whose process is gone."""
    config = TrainConfig(
        root_dir=str(tmp_path / "runs"), name="one", song=SongConfig(midi_file=(SCALE,))
    )
    place = runs.create(config, "SAC", Repertoire(load_songs(config.song), config.environment))
    status = runs.Status("one", "train", "training", time.time(), environment_steps=700)
    dataclasses.replace(status, process=2**22).write(place.status)
    del folder
    return place


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n-steps-lookahead", 5], ["--n-steps-lookahead is 5", "the run has 10"]),
        (["--midi-file", JOY], ["--midi-file is"]),
        (["--agent-config.hidden-dims", 8], ["--agent-config.hidden-dims is (8,)"]),
        (["--seed", 7], ["--seed is 7", "42", "cannot be changed"]),
        (["--name", "two"], ["--name is two"]),
        (["--preset", "few-cores"], ["--preset is few-cores"]),
        (["--max-steps", 700, "--warmstart-steps", 50], ["has had 700", "--max-steps"]),
        (["--batch-size", 0], ["--batch-size is 0"]),
    ],
)
def test_what_cannot_be_changed_is_named_and_nothing_is(broken_off, run_cli, flags, words):
    before = (broken_off.path / "config.json").read_bytes()
    assert_refused(run_cli("train", "--resume", broken_off.path, *flags), *words)
    assert (broken_off.path / "config.json").read_bytes() == before


def test_the_run_is_looked_up_once(broken_off, run_cli, monkeypatch):
    looked_up, find = [], storage.find

    def count_and_find(*which):
        looked_up.append(which)
        return find(*which)

    monkeypatch.setattr(storage, "find", count_and_find)
    refused = run_cli("train", "--resume", broken_off.path, "--seed", 7)
    assert_refused(refused, "--seed is 7")
    assert len(looked_up) == 1


def test_what_can_be_changed_is_and_the_rest_stays(broken_off):
    saved = resume.settings_of(broken_off)
    assert (saved.song.midi_file, saved.seed, saved.name) == ((SCALE,), 42, "one")
    changed = dataclasses.replace(
        saved,
        max_steps=5_000_000,
        eval_interval=7,
        actor=dataclasses.replace(saved.actor, actors=9),
        replay=dataclasses.replace(saved.replay, update_to_data_ratio="free", replay="memory"),
    )
    repertoire = resume.reopen(changed, broken_off)
    resume.keep_settings(changed, broken_off)
    assert repertoire.title == "five finger scale"
    settings = json.loads((broken_off.path / "config.json").read_text())
    assert settings["actor"]["actors"] == 9
    assert settings["replay"]["replay"] == "memory"
    assert settings["resume"] == ""
    assert resume.settings_of(broken_off) == changed


def test_settings_for_which_there_is_no_room_do_not_become_those_of_the_run(broken_off, run_cli):
    file = broken_off.path / "config.json"
    before = file.read_text()
    more = ("--replay-capacity", 10**9)
    refused = run_cli("train", "--resume", broken_off.path, *more)
    assert_refused(refused, "lower --replay-capacity")
    assert file.read_text() == before


def test_a_run_that_is_not_there_or_under_way_or_no_training_is_refused(broken_off, run_cli):
    assert_refused(run_cli("train", "--resume", "nothing"), "no run at nothing")
    status = json.loads(broken_off.status.read_text())
    write_json(broken_off.status, status | {"process": os.getpid()})
    refused = run_cli("train", "--resume", broken_off.path)
    assert_refused(refused, "the run one is under way", str(os.getpid()))
    write_json(broken_off.status, status | {"kind": "cpl"})
    assert_refused(run_cli("train", "--resume", broken_off.path), "is a fine-tuning")
    write_json(broken_off.status, status)
    (broken_off.path / "config.json").write_text("{")
    assert_refused(run_cli("train", "--resume", broken_off.path), "config.json is damaged")


def test_status_says_how_to_go_on(broken_off, run_cli):
    _, answer, _ = run_cli("status", "--root-dir", broken_off.path.parent)
    assert "one was interrupted: pianist train --resume one resumes it" in answer


# --- The logbook --------------------------------------------------------------------------------


def test_the_logbook_goes_on_after_its_last_whole_line(broken_off):
    config = TrainConfig(wandb=WandbConfig(mode="disabled"))
    with contextlib.closing(Logbook(broken_off, config)) as logbook:
        logbook.write(10, 1, {"a": 1.0})
    whole = broken_off.logbook.read_bytes()
    line = json.loads(whole)
    torn = json.dumps(line | {"seconds": 50.0}).encode()
    broken_off.logbook.write_bytes(whole + torn + b"\n" + torn[:20])
    with contextlib.closing(Logbook(broken_off, config)) as logbook:
        assert 50 <= logbook.seconds < 60
        logbook.write(20, 2, {"a": 2.0})
    lines = [json.loads(line) for line in broken_off.logbook.read_text().splitlines()]
    assert [line["environment_steps"] for line in lines] == [10, 10, 20]


def test_weights_and_biases_goes_on_with_the_same_run(broken_off, monkeypatch):
    wandb = pytest.importorskip("wandb")
    calls = []
    monkeypatch.setattr(wandb, "init", lambda **options: calls.append(options))
    config = TrainConfig(wandb=WandbConfig(mode="offline"))
    for _ in range(2):
        Logbook(broken_off, config)._file.close()
    assert calls[0]["id"] == calls[1]["id"]
    assert {call["resume"] for call in calls} == {"allow"}


# --- Real runs ----------------------------------------------------------------------------------


def logbook(path):
    return [json.loads(line) for line in (path / "logbook.jsonl").read_text().splitlines()]


def saved(path):
    return sorted((path / "checkpoints").glob("step_*"))


@pytest.fixture(scope="module")
def survived(folder):
    """A run that was stopped by SIGTERM, resumed, killed, resumed, and came to its end.

    It learns two songs.
    """
    path = folder / "runs" / "long"
    facts = {}
    with running(folder, path, "--name", "long", *TWO_SONGS) as first:
        first.wait_until(lambda run: run.status()["learner_steps"] > 50)
        started = time.monotonic()
        facts["answer"] = first.end(signal.SIGTERM, 60)
        facts["stopping_seconds"] = time.monotonic() - started
        facts["code"] = first.process.returncode
    wait_until_nothing_is_left(folder)
    facts["stopped"] = json.loads((path / "status.json").read_text())
    facts["journal"] = journal.count(journal.entries(path / "replay"))

    with running(folder, path, "--resume", "long", "--actors", 2) as second:
        enough = facts["stopped"]["environment_steps"] + 500
        second.wait_until(
            lambda run: (
                run.status()["environment_steps"] > enough
                and json.loads((saved(path)[-1] / "checkpoint.json").read_text())[
                    "environment_steps"
                ]
                > facts["stopped"]["environment_steps"]
                and journal.end(path / "replay") > facts["stopped"]["environment_steps"]
            )
        )
        second.end(signal.SIGKILL, 60)
    facts["killed"] = json.loads((path / "status.json").read_text())
    facts["killed_journal"] = journal.count(journal.entries(path / "replay"))
    # A watchdog ends what the killed run has left, and removes its folder.
    wait_until_nothing_is_left(folder)

    most = facts["killed"]["environment_steps"] + 500
    result = run(folder, "train", "--resume", "long", "--max-steps", most, "--json")
    assert result.returncode == 0, result.stderr
    facts["end"], facts["errors"] = json.loads(result.stdout), result.stderr
    wait_until_nothing_is_left(folder)
    return path, facts


def test_sigterm_saves_within_half_a_minute_and_says_how_to_go_on(survived):
    _, facts = survived
    assert facts["stopping_seconds"] < 30
    assert facts["code"] == 130
    assert facts["stopped"]["state"] == "stopped"
    assert facts["answer"].splitlines()[-1].endswith("pianist train --resume runs/long")
    # All that was played is kept, but for what was on its way.
    assert facts["stopped"]["environment_steps"] - facts["journal"] <= 50


def test_what_was_killed_loses_no_more_than_what_came_after_its_checkpoint(survived):
    _, facts = survived
    assert facts["end"]["state"] == "finished"
    killed = facts["killed"]
    assert killed["actors_wanted"] == 2
    assert facts["end"]["environment_steps"] >= killed["environment_steps"] + 500
    # An evaluation interval, and what was played until the driver had written it.
    assert killed["environment_steps"] - facts["killed_journal"] <= 400 + 300
    in_replay = f"{facts['killed_journal']} transitions in replay"
    assert in_replay in facts["errors"]
    assert f"{killed['environment_steps']} environment steps so far" in facts["errors"]


def test_curves_go_on_without_a_gap_and_nothing_begins_anew(survived):
    path, facts = survived
    lines = logbook(path)
    for name in ("environment_steps", "seconds"):
        values = [line[name] for line in lines if "replay/size" in line]
        assert values == sorted(values), name
    learner_steps = [line["learner_steps"] for line in lines if "replay/size" in line]
    for before, after in itertools.pairwise(learner_steps):
        assert after >= before - 800  # Back to the last checkpoint, at most.
    resumed = [
        line
        for line in lines
        if line["environment_steps"] > facts["stopped"]["environment_steps"]
        and "replay/size" in line
    ]
    # No second warm-up: the learner goes on at once, with what was in the replay.
    assert resumed[0]["learner_steps"] >= facts["stopped"]["learner_steps"]
    assert resumed[0]["replay/size"] >= facts["journal"]
    assert any("learner/q" in line for line in resumed[:3])


def test_one_policy_has_learnt_two_songs(survived, folder, run_cli):
    _, facts = survived
    answer = facts["end"]
    assert answer["metrics"]["due_notes"] == pytest.approx((9 + 55) / 2)
    for name in ("five finger scale/video.mp4", "ode to joy/video.mp4", "ode to joy/played.mid"):
        assert (folder / answer["files"][name]).stat().st_size > 0
    exit_code, one, errors = run_cli(
        "eval", "--load-checkpoint", "runs/long", "--midi-file", JOY, "--json"
    )
    assert exit_code == 0, errors
    assert json.loads(one)["metrics"]["due_notes"] == 55


def test_a_replay_whose_numbers_are_bad_stops_the_run_after_the_third_time(survived, folder):
    path, _ = survived
    bad = path.with_name("bad")
    shutil.copytree(path, bad)
    write_json(bad / "config.json", json.loads((bad / "config.json").read_text()) | {"name": "bad"})
    for entry in journal.entries(bad / "replay"):
        arrays = safetensors.numpy.load((entry / "transitions.safetensors").read_bytes())
        arrays["steps"][:, 0] = np.nan
        content = {"transitions.safetensors": safetensors.numpy.save(arrays)}
        PackedFolder.sealed(entry.name, content).write(bad / "replay")
    steps = json.loads((bad / "status.json").read_text())["environment_steps"]
    result = run(folder, "train", "--resume", "bad", "--max-steps", steps + 5000)
    assert result.returncode == 1
    assert result.stderr.count("not finite; its batch is in") == 2
    last = result.stderr.strip().splitlines()[-1]
    assert "UnhealthyStep" in last
    assert "not finite" in last
    assert json.loads((bad / "status.json").read_text())["state"] == "failed"
    kept = sorted((bad / "unhealthy").iterdir())
    assert kept
    batch = safetensors.numpy.load(kept[0].read_bytes())["batch"]
    assert np.isnan(batch[..., 0]).any()
    wait_until_nothing_is_left(folder)
    shutil.rmtree(bad)


# --- A full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder):
    """A file system that a few checkpoints fill; `grow` makes it large."""
    path = folder / "small"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True, check=False
    )
    if made.returncode:
        path.rmdir()
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(made.stderr.decode())
        pytest.skip("a file system can be mounted by root only")

    def grow():
        subprocess.run(["mount", "-o", "remount,size=400m", path], check=True)

    yield path, grow
    subprocess.run(["umount", path], check=True)
    path.rmdir()


def test_a_full_disk_stops_checkpoints_but_not_the_training(small_disk, folder):
    disk, grow = small_disk
    path = disk / "full"
    with running(folder, path, "--root-dir", disk, "--name", "full", *SMALL) as full:
        full.wait_until(lambda run: "the disk is full: checkpoints cannot be written" in run.said())
        before = full.status()
        assert not list((path / "checkpoints").glob(".*"))  # Halves take no room.
        pathlib.Path(disk / "ballast").write_bytes(b"x" * (psutil.disk_usage(str(disk)).free))
        time.sleep(3)
        grow()
        (disk / "ballast").unlink()
        full.wait_until(lambda run: "room on the disk again for checkpoints" in run.said())
        # Not the status, which had no room either and may come after the checkpoint.
        after = json.loads((saved(path)[-1] / "checkpoint.json").read_text())
        assert after["learner_steps"] > before["learner_steps"]
        assert full.said().count("checkpoints cannot be written") == 1
        full.end(signal.SIGTERM, 60)
        assert full.process.returncode == 130
    for line in logbook(path):  # None is torn.
        assert "environment_steps" in line
    (newest, *_), damaged = resume.find(runs.RunFolder(path), 1_000_000)
    assert newest is not None
    assert damaged == []
    wait_until_nothing_is_left(folder)
