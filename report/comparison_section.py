"""The section that compares a policy before and after its fine-tuning by `pianist cpl`."""

import collections
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common.errors import BadInput
from common.files import read_json
from report.charts import DASH, MINUS, full_number
from report.comparison_values import Measured, Values
from report.key_statuses import key_range, note_name
from report.performance_section import MOST_VIDEO_BYTES, Video, load_recording, load_video
from report.piano_roll import lay_out_strip
from report.records import Evaluation
from report.tuning_section import show_guard, show_learning, show_rounds
from training.run import RunFolder

_SIDES = ("before", "after")


class _Quantity(NamedTuple):
    label: str
    name: str
    decimals: int = 3
    sign: int = 1
    """Direction of improvement: 1 if more is better, -1 if less is better, 0 if neither."""


_DETERMINISTIC = (
    _Quantity("Note F1", "note_f1"),
    _Quantity("Frame F1", "f1"),
    _Quantity("Frame precision", "precision"),
    _Quantity("Frame recall", "recall"),
    _Quantity("Return", "episode_return", 1),
    _Quantity("Onset error, ms", "onset_error_ms", 1, -1),
    _Quantity("Wrong notes", "wrong_notes", 0, -1),
    _Quantity("Missed notes", "missed_notes", 0, -1),
)
# Evaluations of earlier versions lack these values.
_TOUCH = (
    _Quantity("Velocity F1", "velocity_f1"),
    _Quantity("Mean velocity", "mean_velocity", 1, 0),
    _Quantity("Velocity spread", "velocity_spread", 1, 0),
)
_STOCHASTIC = (
    _Quantity("Note F1", "note_f1"),
    _Quantity("Frame F1", "f1"),
    _Quantity("Return", "episode_return", 1),
)


class _Row(NamedTuple):
    label: str
    decimals: int
    before: Measured
    after: Measured
    difference: str
    verdict: str


def compare(
    run: RunFolder, evaluations: Sequence[Evaluation], learnt_from: Sequence[str]
) -> dict[str, Any] | None:
    """Collects the section. It skips values that cannot be read and lists their names.

    Args:
        run: Folder of the fine-tuning.
        evaluations: Evaluations of the fine-tuning.
        learnt_from: Qualities judged by the simulated raters whose answers the policy learned
            from.

    Returns:
        Values of `comparison_section.html`; None for a run without a comparison. Without `sides`
        the section does not show both performances.
    """
    if not run.comparison.exists():
        return None
    try:
        values = Values(read_json(run.comparison))
    except (BadInput, RecursionError):
        return {"unreadable": run.comparison.name, "sides": None}
    groups, others = _tables(values, learnt_from)
    before, after = (_find(values, side, evaluations) for side in _SIDES)
    return {
        "unreadable": None,
        "groups": groups,
        "others": others,
        "sides": _sides(before, after) if before and after else None,
        "learning": show_learning(values),
        "guard": show_guard(values),
        "rounds": show_rounds(values, learnt_from),
        "damaged": list(dict.fromkeys(values.damaged)),
    }


def _find(values: Values, side: str, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Finds the evaluation of a side by folder name, because the run may have moved."""
    path = values.get(side, "evaluation")
    if isinstance(path, str):
        name = pathlib.PurePath(path).name
        for evaluation in evaluations:
            if evaluation.folder is not None and evaluation.folder.name == name:
                return evaluation
    values.damaged.append(f"{side}.evaluation")
    return None


def _tables(
    values: Values, learnt_from: Sequence[str]
) -> tuple[dict[str, list[_Row]], dict[str, Any]]:
    """Returns the rows of the table by heading, and the simulated raters that are not in there.

    Of the latter these are the `rows`, `of` which performances, and the `verdicts` counted.
    """
    deterministic = _rows(
        values, _DETERMINISTIC, "metrics", lambda *path: Measured(values.number(*path))
    )
    parts, of = {"The deterministic performance": deterministic}, "performance"
    if any(values.get(side, "drawn") is not None for side in _SIDES):
        heading, of = f"Stochastic performances, mean{_count(values)}", "stochastic performances"
        parts[heading] = _rows(values, _STOCHASTIC, "drawn", values.measured)
    groups, others = {}, []
    for heading, (rows, ratings) in parts.items():
        groups[heading] = rows + [row for name, row in ratings.items() if name in learnt_from]
        others = [row for name, row in ratings.items() if name not in learnt_from]
    counts = collections.Counter(row.verdict for row in others if row.verdict)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return groups, {"rows": others, "of": of, "verdicts": verdicts}


def _rows(
    values: Values, quantities: Sequence[_Quantity], part: str, read: Callable[..., Measured]
) -> tuple[list[_Row], dict[str, _Row]]:
    """Returns the rows of a part of both sides, and its simulated ratings by name."""
    touch = [one for one in _TOUCH if one.name in _union(values, part)]
    rows = [
        _row(one, *(read(side, part, one.name) for side in _SIDES)) for one in (*quantities, *touch)
    ]
    path = ("drawn", "ratings") if part == "drawn" else ("ratings",)
    ratings = {
        name: _row(
            _Quantity(f"Simulated rating: {name}", name, 1),
            *(read(side, *path, name) for side in _SIDES),
        )
        for name in _union(values, *path)
    }
    return rows, ratings


def _union(values: Values, *path: str) -> list[str]:
    """Returns the names that occur in an object of either side."""
    return list(dict.fromkeys(name for side in _SIDES for name in values.names(side, *path)))


def _count(values: Values) -> str:
    counts = [values.number(side, "drawn", "performances", least=0) for side in _SIDES]
    before, after = (full_number(count, 0) for count in counts)
    return f" of {before}" if before == after else f" of {before} before, {after} after"


def _row(quantity: _Quantity, before: Measured, after: Measured) -> _Row:
    difference, verdict = _difference(quantity, before, after)
    return _Row(quantity.label, quantity.decimals, before, after, difference, verdict)


def _difference(quantity: _Quantity, before: Measured, after: Measured) -> tuple[str, str]:
    """Returns the difference as text, and a verdict on it."""
    if before.value is None or after.value is None:
        return DASH, ""
    difference = round(after.value - before.value, quantity.decimals)
    if not difference:
        return full_number(0.0, quantity.decimals), "equal"
    figures = f"{difference:+,.{quantity.decimals}f}".replace("-", MINUS)
    if before.half_width is not None and after.half_width is not None:
        # The performances before and after are independent, so their variances add up.
        half_width = math.hypot(before.half_width, after.half_width)
        if abs(difference) <= half_width:
            return figures, "unclear"
    if not quantity.sign:
        return figures, ""
    return figures, "better" if difference * quantity.sign > 0 else "worse"


def _sides(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Collects the videos and strips of both sides. The strips have the same axes.

    Returns:
        `figures`, with `side`, `evaluation`, `video` and `strip` of each side, and `axes`: the
        seconds and the lowest and highest note of the strips, None if there is no strip.
    """
    sides = dict(zip(_SIDES, (before, after), strict=True))
    videos = _load_videos(sides)
    recorded = {side: load_recording(evaluation) for side, evaluation in sides.items()}
    performances = [performance for performance in recorded.values() if performance is not None]
    keys, seconds, axes = (0, 87), 0.0, None
    if performances:
        keys = key_range(*performances)
        seconds = max(performance.seconds for performance in performances)
        axes = seconds, note_name(keys[0]), note_name(keys[1])
    figures = [
        {
            "side": side,
            "evaluation": sides[side],
            "video": videos[side],
            "strip": lay_out_strip(performance, keys, seconds) if performance else None,
        }
        for side, performance in recorded.items()
    ]
    return {"figures": figures, "axes": axes}


def _load_videos(sides: dict[str, Evaluation]) -> dict[str, Video | None]:
    """Loads the videos within the size limit of the page; the later video takes precedence."""
    videos, room = {}, MOST_VIDEO_BYTES
    for side, evaluation in reversed(sides.items()):
        video = videos[side] = load_video(evaluation, room)
        if video is not None and video.data is not None:
            room -= video.size
    return videos
