"""The status of runs, with their speed and start time."""

import dataclasses
import time
from typing import Any

import tyro

from training.run import ACTIVE, UNKNOWN, Status, find, read_status, read_statuses


@dataclasses.dataclass(frozen=True)
class StatusConfig:
    """Shows the runs with their speed and start time."""

    run: tyro.conf.Positional[str | None] = None
    """Run to show: its folder or URL, or its name below --root-dir. The default is all runs."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""


def status(config: StatusConfig) -> dict[str, Any]:
    """Returns the status of one run or of all runs.

    Returns:
        Statuses under the name "runs", oldest first, each with the fields of
        `training.run.Status`.

    Raises:
        BadInput: The run does not exist.
        OSError: The run or the folder of the runs is not readable, or `root_dir` is not a folder.
    """
    if config.run is None:
        found = read_statuses(config.root_dir)
    else:
        found = [read_status(find(config.run, config.root_dir))]
    return {"runs": [dataclasses.asdict(one) for one in found]}


def table(answer: dict[str, Any]) -> str:
    """Formats the answer of `status` for people, one line per run."""
    runs = [Status(**run) for run in answer["runs"]]
    if not runs:
        return "no runs here: pianist train begins one, --root-dir says where to look"
    head = (
        "RUN",
        "KIND",
        "STATE",
        "STEPS",
        "STEPS/S",
        "LEARNER STEPS/S",
        "ACTORS",
        "NOTE F1",
        "SINCE",
    )
    rows = [head]
    for run in runs:
        active = run.state in ACTIVE
        is_unknown = run.state in UNKNOWN
        plays = active and run.kind != "cpl"  # A fine-tuning only takes learner steps.
        steps = run.learner_steps if run.kind == "cpl" else run.environment_steps
        rows.append(
            (
                run.name,
                run.kind,
                run.state,
                "-" if is_unknown else f"{steps}/{run.max_steps}",
                f"{run.environment_steps_per_second:.0f}" if plays else "-",
                f"{run.learner_steps_per_second:.1f}" if active else "-",
                f"{run.actors_running}/{run.actors_wanted}" if plays else "-",
                "-" if run.note_f1 is None else f"{run.note_f1:.2f}",
                "-" if is_unknown else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)),
            )
        )
    waiting = [
        f"{run.name}: {run.actors_pending} of {run.actors_wanted} actors wait: "
        f"{run.actors_pending_because}"
        for run in runs
        if run.actors_pending and run.state in ("starting", "training")
    ]
    waiting += [
        f"{run.name}: permission denied, only its owner may read it"
        for run in runs
        if run.state == "unreadable"
    ]
    waiting += [
        f"{run.name} was interrupted: pianist train --resume {run.name} resumes it"
        for run in runs
        if run.state == "lost" and run.kind == "train"
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines + waiting)
