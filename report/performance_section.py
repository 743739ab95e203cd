"""The section on performances: the video, the piano roll, and the first next to the last."""

import base64
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.errors import BadInput
from piano.metrics import has_dynamics, velocity_metrics
from piano.performance import Performance
from report.charts import full_number
from report.key_statuses import key_range
from report.piano_roll import lay_out_roll, lay_out_strip
from report.records import Evaluation

MOST_VIDEO_BYTES = 20_000_000
"""Largest total size of the videos on one page, in bytes."""


class Video(NamedTuple):
    """A video of an evaluation."""

    path: pathlib.Path
    size: int
    """Size in bytes."""
    data: str | None
    """The video in base64; None if it is too large for the page."""


def newest_video(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, Video] | None:
    """Returns the newest video and its evaluation; None if there is no video."""
    for evaluation in reversed(evaluations):
        video = load_video(evaluation, MOST_VIDEO_BYTES)
        if video is not None:
            return evaluation, video
    return None


def load_video(evaluation: Evaluation, most_bytes: int) -> Video | None:
    """Loads the video of an evaluation; for several songs, that of the first.

    Returns:
        Video, without its data if it is larger than `most_bytes`; None if there is no video.
    """
    path = _first_file(evaluation, "video.mp4")
    if path is None:
        return None
    size = path.stat().st_size
    fits = size <= most_bytes
    return Video(path, size, base64.b64encode(path.read_bytes()).decode("ascii") if fits else None)


def show_performances(evaluations: Sequence[Evaluation], then_and_now: bool) -> dict[str, Any]:
    """Collects the newest performance and, optionally, a strip of it next to the first.

    Args:
        evaluations: Evaluations of the run, oldest first.
        then_and_now: Whether to show the strips of the first and the last performance.

    Returns:
        `last`, an evaluation, its `roll` and its `touch` in words, and `strips`: evaluations and
        their strips by name. `last` is None if no evaluation has left a recording.
    """
    first, last = _first_recorded(evaluations), _first_recorded(reversed(evaluations))
    if first is None or last is None:
        return {"last": None}
    strips = {}
    if first[0] is not last[0] and then_and_now:
        keys = key_range(first[1], last[1])
        seconds = max(first[1].seconds, last[1].seconds)
        for name, (evaluation, performance) in {"First": first, "Last": last}.items():
            strips[name] = evaluation, lay_out_strip(performance, keys, seconds)
    roll, touch = lay_out_roll(last[1]), describe_touch(last[1])
    return {"last": last[0], "roll": roll, "touch": touch, "strips": strips}


def _first_recorded(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, Performance] | None:
    """Returns the first evaluation with a recording, and the recording."""
    for evaluation in evaluations:
        performance = load_recording(evaluation)
        if performance is not None:
            return evaluation, performance
    return None


def load_recording(evaluation: Evaluation) -> Performance | None:
    """Loads the recorded performance of an evaluation; for several songs, that of the first.

    Returns:
        Performance; None if it is missing or unreadable.
    """
    recording = _first_file(evaluation, "performance.npz")
    if recording is None:
        return None
    try:
        return Performance.load(recording)
    except BadInput:
        return None


def _first_file(evaluation: Evaluation, name: str) -> pathlib.Path | None:
    """Returns a file of an evaluation; for several songs, that of the first."""
    if evaluation.folder is None:
        return None
    return next(iter(sorted(evaluation.folder.rglob(name))), None)


def describe_touch(performance: Performance) -> str:
    """Describes the due and played velocities in one or two sentences."""
    values, due = velocity_metrics(performance), performance.due_velocities
    played = "No note was played"
    if len(performance.played_notes):
        played = (
            f"Played at a mean velocity of {values['mean_velocity']:.0f} with a spread (standard "
            f"deviation) of {values['velocity_spread']:.0f}"
        )
    if not len(due):
        return f"{played}; none is due."
    if not np.isfinite(due).all():
        return f"{played}; the recording does not say how loud its notes were due."
    if not has_dynamics(performance):
        return f"{played}; all notes are due at {due[0]:.0f}: no dynamics."
    return (
        f"{played}; due at {np.mean(due):.0f} with a spread of {np.std(due):.0f}. "
        f"Velocity F1 {full_number(values['velocity_f1'], 3)}: notes struck in time, and as loud "
        "in proportion to one another as the score has them."
    )
