"""What `pianist status` says of trainings and fine-tunings."""

import json
import os
import pathlib
import re
import socket

from cluster.run import Status
from cluster.status import StatusConfig, status, table


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
        updates_per_second=4.5,
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
    columns = ["RUN", "KIND", "STATE", "STEPS", "STEPS/S", "UPDATES/S", "ACTORS", "NOTE F1"]
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
