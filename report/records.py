"""Reading of a run's files. Parts that a killed run left incomplete are skipped."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from common.errors import BadInput
from common.files import matching, read_json
from rlhf.simulated_raters import listened_for
from training.run import RunFolder

Record = dict[str, Any]


class Evaluation(NamedTuple):
    """One evaluation of a run."""

    metrics: Record
    """Metrics by name (see `piano.metrics`), step counts and, if logged, seconds. None stands for
    no value."""
    folder: pathlib.Path | None
    """Folder with the recordings; None without a complete metrics file."""


class Steps(NamedTuple):
    """The kind of steps that measure a run's progress."""

    name: str
    """Name of the step count in the logbook and the metrics."""
    words: str


_TRAINING = Steps("environment_steps", "environment steps")
_FINE_TUNING = Steps("learner_steps", "fine-tuning steps")
_NEW_NAMES = {
    "learner/updates_per_second": "learner/steps_per_second",
    "cpl/behaviour_cloning_loss": "cpl/behavior_cloning_loss",
}
"""Current names of values, by their names in logbooks from before version 0.1.0."""


def steps_of(config: Record) -> Steps:
    """Returns the kind of steps of a run: a fine-tuning takes no environment steps.

    Only the settings of a fine-tuning name a checkpoint to start from, see
    `rlhf.fine_tune.FineTuneConfig`.

    Args:
        config: Settings of the run.
    """
    return _FINE_TUNING if "load_checkpoint" in config else _TRAINING


def learnt_from(config: Record) -> list[str]:
    """Returns the qualities judged by the simulated raters that a fine-tuning learned from.

    Args:
        config: Settings of the fine-tuning.
    """
    raters = config.get("raters")
    names = [name for name in raters if isinstance(name, str)] if isinstance(raters, list) else []
    return [quality for name in names if (quality := listened_for(name))]


def read_logbook(path: pathlib.Path) -> tuple[list[Record], int]:
    """Reads a logbook.

    Returns:
        Lines that can be read, and the number of other lines.
    """
    records: list[Record] = []
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append({_NEW_NAMES.get(name) or name: value for name, value in record.items()})
        else:
            damaged += 1
    return records, damaged


def read_evaluations(run: RunFolder, records: Iterable[Record]) -> list[Evaluation]:
    """Collects the evaluations of a run from its logbook and its folders, oldest first."""
    found = {
        record["learner_steps"]: Evaluation(
            {name.removeprefix("eval/"): value for name, value in record.items()}, None
        )
        for record in records
        if "eval/note_f1" in record
    }
    for path in matching(run.evaluations, "*/metrics.json"):
        try:
            metrics = read_json(path)
        except BadInput:  # Incomplete: the evaluation is under way or was killed.
            continue
        step = metrics["learner_steps"]
        logged = found[step].metrics if step in found else {}
        found[step] = Evaluation(logged | metrics, path.parent)
    return [found[step] for step in sorted(found)]


def numbers(records: Iterable[Record], name: str) -> np.ndarray:
    """Returns one value from each of R records, (R,) float64; NaN if it is absent or null."""
    return np.array([record.get(name) for record in records], np.float64)
