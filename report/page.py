"""The report on a run as one HTML file without scripts, network access or other files.

Each section is a function that collects plain values, and a template beside it that shows them.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import tyro

from common.errors import require
from common.files import read_json
from report.charts import full_number, short_number
from report.comparison_section import compare
from report.key_statuses import TOLERANCE, note_name
from report.learning_curves import lay_out_curves
from report.performance_section import newest_video, show_performances
from report.records import (
    Evaluation,
    Record,
    learnt_from,
    read_evaluations,
    read_logbook,
    steps_of,
)
from training.run import RunFolder, find

_WHOLE = (
    *("environment_steps", "learner_steps", "wrong_notes", "missed_notes"),
    *("mean_velocity", "velocity_spread"),
)
_DECIMALS = dict.fromkeys(_WHOLE, 0) | {"onset_error_ms": 1, "episode_return": 1}

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("report", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    # Numbers that no filter formats are positions in a drawing.
    finalize=lambda value: f"{value:.1f}" if isinstance(value, float) else value,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
"""The templates of this folder. They escape text, and give positions one decimal."""


def write_report(run: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` to a run's folder in one atomic step, and returns its path.

    Args:
        run: Folder of the run.

    Raises:
        BadInput: The folder contains no run, or the run has not started to train.
    """
    folder = RunFolder(run)
    partial = folder.report.with_name(f".{folder.report.name}.{os.getpid()}.partial")
    partial.write_text(_page(folder), encoding="utf-8", errors="replace")
    partial.replace(folder.report)
    return folder.report


def _page(run: RunFolder) -> str:
    config, song = read_json(run.path / "config.json"), read_json(run.path / "songs.json")
    require(run.logbook.is_file(), f"{run.path} has no {run.logbook.name}: nothing to report yet")
    records, damaged = read_logbook(run.logbook)
    evaluations, steps = read_evaluations(run, records), steps_of(config)
    main = {steps.name: steps.words}
    counted = main | {"learner_steps": "learner steps"} | main
    comparison = compare(run, evaluations, learnt_from(config))
    sides = comparison is not None and comparison["sides"] is not None
    return TEMPLATES.get_template("page.html").render(
        name=config["name"],
        title=song["title"],
        steps=steps,
        evaluations=evaluations,
        counts={words: _greatest(records, name) for name, words in counted.items()},
        minutes=round(_greatest(records, "seconds") / 60),
        comparison=comparison,
        newest_video=None if sides else newest_video(evaluations),
        performances=show_performances(evaluations, then_and_now=not sides),
        curves=lay_out_curves(records, evaluations, steps),
        settings=_flatten(config, ""),
        damaged=damaged,
    )


def _greatest(records: Sequence[Record], name: str) -> float:
    return max((record[name] for record in records), default=0)


def _value(evaluation: Evaluation, name: str) -> str:
    # Evaluations of earlier versions lack some values.
    return full_number(evaluation.metrics.get(name), _DECIMALS.get(name, 3))


def _flatten(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            row
            for key, below in value.items()
            for row in _flatten(below, f"{name}.{key}" if name else key)
        ]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


TEMPLATES.globals["TOLERANCE"] = TOLERANCE
TEMPLATES.filters |= {"number": full_number, "short": short_number}
TEMPLATES.filters |= {"note_name": note_name, "value": _value}


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Writes a run's learning curves and piano roll into one HTML file."""

    run: tyro.conf.Positional[str]
    """Run to report on: its folder or URL, or its name below --root-dir."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""


def report(config: ReportConfig) -> dict[str, str]:
    """Writes the report of a run.

    Returns:
        Name of the run and path of the report.

    Raises:
        BadInput: The run does not exist or has not started to train.
    """
    run = find(config.run, config.root_dir)
    with run.location.uploaded():
        return {"run": run.name, "report": str(write_report(run.path))}
