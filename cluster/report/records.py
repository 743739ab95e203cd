"""Reads what a run has written so far; what a killed run left half written is passed over."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cluster.run import RunFolder
from replay.errors import BadInput
from replay.files import read_json

Record = dict[str, Any]


class Evaluation(NamedTuple):
    """One evaluation."""

    metrics: Record
    """By name, see `actors.metrics`, with step counts and, if logged, seconds; None: no value."""
    folder: pathlib.Path | None
    """With its recordings, where they are complete."""


def read_logbook(path: pathlib.Path) -> tuple[list[Record], int]:
    """Reads a logbook.

    Returns:
        Its lines, and the number of further lines that cannot be read.
    """
    records, damaged = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
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
    for path in run.evaluations.glob("*/metrics.json"):
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
