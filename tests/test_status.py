"""What `pianist status` says of trainings and fine-tunings."""

import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from runs_for_tests import ROOT, as_ordinary_user

from training.run import Status
from training.status import StatusConfig, status, table


def write_status(run: pathlib.Path, kind: str, started: float, state: str = "training") -> None:
    run.mkdir(parents=True)
    Status(
        name=run.name,
        kind=kind,
        state=state,
        started=started,
        environment_steps=700,
        max_steps=2000,
        learner_steps=50,
        environment_steps_per_second=31.0,
        learner_steps_per_second=4.5,
        actors_wanted=3,
        actors_running=2,
        note_f1=0.25,
    ).write(run / "status.json")


def rows(root_dir: pathlib.Path) -> list[list[str]]:
    lines = table(status(StatusConfig(root_dir=str(root_dir)))).splitlines()
    return [re.split(r"  +", line) for line in lines]


def test_each_kind_counts_its_own_steps(tmp_path):
    write_status(tmp_path / "scale", "train", 1.0)
    write_status(tmp_path / "tuned", "cpl", 2.0)
    head, *runs = rows(tmp_path)
    wanted = [
        ["scale", "train", "training", "700/2000", "31", "4.5", "2/3", "0.25"],
        ["tuned", "cpl", "training", "50/2000", "-", "4.5", "-", "0.25"],
    ]
    columns = ["RUN", "KIND", "STATE", "STEPS", "STEPS/S", "LEARNER STEPS/S", "ACTORS", "NOTE F1"]
    assert head == [*columns, "SINCE"]
    assert [run[:-1] for run in runs] == wanted


def test_a_run_that_is_over_has_no_speed(tmp_path):
    write_status(tmp_path / "scale", "train", 1.0, "finished")
    write_status(tmp_path / "tuned", "cpl", 2.0, "failed")
    assert [run[2:7] for run in rows(tmp_path)[1:]] == [
        ["finished", "700/2000", "-", "-", "-"],
        ["failed", "50/2000", "-", "-", "-"],
    ]


def test_a_status_without_kind_is_of_a_training(tmp_path):
    write_status(tmp_path / "old", "train", 1.0)
    file = tmp_path / "old" / "status.json"
    values = json.loads(file.read_text())
    assert (values["process"], values["host"]) == (os.getpid(), socket.gethostname())
    del values["kind"]
    file.write_text(json.dumps(values))
    assert rows(tmp_path)[1][:4] == ["old", "train", "training", "700/2000"]
    assert status(StatusConfig(root_dir=str(tmp_path)))["runs"][0]["kind"] == "train"


def test_a_status_of_another_version_is_read(tmp_path):
    write_status(tmp_path / "old", "train", 1.0)
    file = tmp_path / "old" / "status.json"
    values = json.loads(file.read_text())
    for name in ("written_by", "actors_placed", "learner_steps_per_second"):
        del values[name]
    file.write_text(json.dumps(values | {"updates_per_second": 4.5, "started": 1}))
    (shown,) = status(StatusConfig(root_dir=str(tmp_path)))["runs"]
    assert list(shown) == [field.name for field in dataclasses.fields(Status)]
    assert shown == values | {
        "written_by": "",
        "actors_placed": 0,
        "learner_steps_per_second": 0.0,
        "started": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"state": "training"}',
        '{"name": 1, "state": "x", "started": "y"}',
        json.dumps(dataclasses.asdict(Status("bad", "train", "training", 1.0)) | {"host": None}),
        json.dumps(dataclasses.asdict(Status("bad", "train", "training", 1.0)) | {"max_steps": ""}),
    ],
)
def test_a_damaged_status_is_shown_beside_the_others(tmp_path, text):
    write_status(tmp_path / "good", "train", 1.0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "status.json").write_text(text)
    shown = {row[0]: row[2] for row in rows(tmp_path)[1:]}
    assert shown == {"bad": "damaged", "good": "training"}


def test_a_root_that_is_no_folder_is_refused(tmp_path, run_cli):
    file = tmp_path / "file"
    file.write_text("")
    code, out, error = run_cli("status", "--root-dir", file)
    assert (code, out, error) == (2, "", f"pianist: {file}: Not a directory\n")


# One process for all, since importing what the commands need takes longer than they do.
_ALL = """
import json, sys, pianist
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pianist", *arguments]
    print(pianist.main(), flush=True)
"""


def test_what_may_not_be_read_is_not_taken_for_missing(tmp_path):
    write_status(tmp_path / "good", "train", 1.0)
    for name in ("private", "collected", "trained"):
        write_status(tmp_path / name, "train", 2.0)
        (tmp_path / name / "config.json").write_text("{}")
    status_file = tmp_path / "trained" / "status.json"
    collections = tmp_path / "collected" / "collections"
    checkpoints = tmp_path / "collected" / "checkpoints"
    for closed in (status_file, collections, checkpoints, tmp_path / "private"):
        if closed != status_file:
            closed.mkdir(exist_ok=True)
        closed.chmod(0)
    refused = {
        ("train", "--resume", "private"): "private",
        ("train", "--resume", "trained"): "trained/status.json",
        ("report", "private"): "private",
        ("segments", "private"): "private",
        ("segments", "collected"): "collected/checkpoints",
        ("rate", "private"): "private",
        ("rate", "collected"): "collected/collections",
        ("cpl", "private", "--load-checkpoint", "good"): "private",
        ("scale", "private", "--actors", "1"): "private",
        ("eval", "--load-checkpoint", "private"): "private/training_state.safetensors",
        ("eval", "--load-checkpoint", "collected"): "collected/checkpoints",
        ("status", "private"): "private",
        ("status", "trained"): "trained/status.json",
    }
    commands = [[*words, "--root-dir", str(tmp_path)] for words in refused]
    commands += [["status", "--root-dir", str(tmp_path / "private")]]
    commands += [["status", "--root-dir", str(tmp_path)]]
    try:
        result = subprocess.run(
            as_ordinary_user(sys.executable, "-c", _ALL, json.dumps(commands)),
            cwd="/",
            env={name: value for name, value in os.environ.items() if name != "CI"}
            | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        for closed in (tmp_path / "private", collections, checkpoints):
            closed.chmod(0o700)
    files = [*refused.values(), "private"]
    wanted = [f"pianist: {tmp_path / file}: Permission denied" for file in files]
    assert [line for line in result.stderr.splitlines() if line] == wanted
    codes, shown = result.stdout.splitlines()[: len(wanted)], result.stdout.splitlines()
    assert codes == ["2"] * len(wanted)
    states = {line.split()[0]: line.split()[2] for line in shown[len(wanted) + 1 : -3]}
    assert states == {
        "collected": "training",
        "good": "training",
        "private": "unreadable",
        "trained": "unreadable",
    }
    assert "1970" not in "".join(line for line in shown if "unreadable" in line)
    assert shown[-3:] == [
        "private: permission denied, only its owner may read it",
        "trained: permission denied, only its owner may read it",
        "0",
    ]
