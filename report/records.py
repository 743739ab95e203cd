"""Reads what a run has written so far; what a killed run left half written is passed over."""

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
    """One evaluation."""

    metrics: Record
    """By name, see `piano.metrics`, with step counts and, if logged, seconds; None: no value."""
    folder: pathlib.Path | None
    """With its recordings, where they are complete."""


class Steps(NamedTuple):
    """The steps by which a run's progress is told."""

    name: str
    """Of their count, in the logbook and among the metrics."""
    words: str


_TRAINING = Steps("environment_steps", "environment steps")
_FINE_TUNING = Steps("learner_steps", "fine-tuning steps")
_NEW_NAMES = {
    "learner/updates_per_second": "learner/steps_per_second",
    "cpl/behaviour_cloning_loss": "cpl/behavior_cloning_loss",
}
"""What logbooks of before version 0.1.0 have, by what it is now."""


def steps_of(config: Record) -> Steps:
    """The steps that a run with these settings counts: a fine-tuning takes none in environments.

    Only a fine-tuning's settings name a checkpoint to begin with, see
    `rlhf.fine_tune.FineTuneConfig`.
    """
    return _FINE_TUNING if "load_checkpoint" in config else _TRAINING


def learnt_from(config: Record) -> list[str]:
    """What the simulated raters listened for from whom a fine-tuning with these settings learnt."""
    raters = config.get("raters")
    names = [name for name in raters if isinstance(name, str)] if isinstance(raters, list) else []
    return [quality for name in names if (quality := listened_for(name))]


def read_logbook(path: pathlib.Path) -> tuple[list[Record], int]:
    """Reads a logbook.

    Returns:
        Its lines, and the number of further lines that cannot be read.
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
    """Gathers the evaluations of a run, oldest first, from its logbook and its folders."""
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
        except BadInput:  # Half written: an evaluation that is under way, or was killed.
            continue
        step = metrics["learner_steps"]
        logged = found[step].metrics if step in found else {}
        found[step] = Evaluation(logged | metrics, path.parent)
    return [found[step] for step in sorted(found)]


def numbers(records: Iterable[Record], name: str) -> np.ndarray:
    """The same value of R records, (R,) float64; NaN where it is absent or null."""
    return np.array([record.get(name) for record in records], np.float64)
