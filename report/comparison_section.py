"""The section that compares a policy before and after its fine-tuning by `pianist cpl`."""

import collections
import html
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.errors import BadInput
from common.files import read_json
from piano.performance import Performance
from report.charts import DASH, MINUS, full_number
from report.comparison_values import Measured, Values, full_measure
from report.key_statuses import key_range, note_name
from report.performance_section import (
    MOST_VIDEO_BYTES,
    caption,
    embed_video,
    find_video,
    load_recording,
)
from report.piano_roll import draw_strip, draw_strip_legend
from report.records import Evaluation, Steps
from report.tuning_section import draw_guard, draw_learning, draw_rounds
from training.run import RunFolder

STYLE = """
.wide table.compare{max-width:46rem;font-size:.95rem}.compare td,.compare th{vertical-align:top}
.compare th[scope=row]{text-align:left;color:var(--ink);font-weight:400;overflow-wrap:break-word;
max-width:16rem}.compare .group th{text-align:left;padding-top:1rem}
.compare span{white-space:nowrap}.compare .verdict{display:inline-block;min-width:4em;
margin-left:.5em;text-align:left;color:var(--muted)}
.compare .better,.compare .worse{color:var(--hit);font-weight:600}
.compare .worse{color:var(--wrong)}
@media screen and (max-width:600px){.compare span,.compare .verdict{display:block;min-width:0;
margin:0;text-align:right}.compare th[scope=row]{max-width:7rem}
.compare td,.compare th{padding:.3rem .25rem}}
.compared{margin-bottom:2.4rem}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));
gap:1rem 1.2rem;margin:1.4rem 0 .6rem}
.sides figure{margin:0;min-width:0;break-inside:avoid;display:flex;flex-direction:column;
gap:.5rem}
.sides p{margin:0;overflow-wrap:anywhere}.sides figcaption p.note{margin-left:.6em}
@media print{.sides{grid-template-columns:1fr 1fr}.wide table.compare{font-size:.85rem}}
"""

_SIDES = {"before": "Before", "after": "After"}
_MOST_NAMED = 12
_WORDS = (
    "The same policy before and after its fine-tuning on preferences. The <em>central</em> "
    "performance always takes the policy's most central action, so there is only one; evaluations "
    "play it. The <em>drawn</em> ones are sampled at a low temperature, so each is "
    "different: here are their means, &plusmn; half of a 95% interval "
    "where there are enough of them. A difference that such intervals may explain is unclear. "
    "Simulated ratings, 1 to 100, are formulas, not people; those of the raters whose answers the "
    "policy learnt from stand in the table, the others below it."
)


class _Quantity(NamedTuple):
    label: str
    name: str
    decimals: int = 3
    sign: int = 1
    """Direction of improvement: 1 if more is better, -1 if less is better, 0 if neither."""


_CENTRAL = (
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
_DRAWN = (
    _Quantity("Note F1", "note_f1"),
    _Quantity("Frame F1", "f1"),
    _Quantity("Return", "episode_return", 1),
)


class Comparison(NamedTuple):
    """The section as HTML, which is empty for a run without a comparison."""

    section: str
    has_performances: bool
    """Whether the section shows both performances, so that the page can leave them out."""


def draw_comparison(
    run: RunFolder, evaluations: Sequence[Evaluation], steps: Steps, learnt_from: Sequence[str]
) -> Comparison:
    """Draws the section. It skips values that cannot be read and lists their names.

    Args:
        run: Folder of the fine-tuning.
        evaluations: Evaluations of the fine-tuning.
        steps: Steps that the fine-tuning counts.
        learnt_from: Qualities judged by the simulated raters whose answers the policy learned
            from.
    """
    if not run.comparison.exists():
        return Comparison("", False)
    heading = '<section class="compared"><h2>Before and after</h2>'
    try:
        values = Values(read_json(run.comparison))
    except (BadInput, RecursionError):
        note = f'<p class="note">{run.comparison.name} is damaged and was passed over.</p>'
        return Comparison(f"{heading}{note}</section>", False)
    table = _draw_table(values, learnt_from) + _draw_other_raters(values, learnt_from)
    before, after = (_find(values, side, evaluations) for side in _SIDES)
    sides = _draw_sides(before, after, steps) if before and after else ""
    section = (
        f'{heading}<p class="lead">{_WORDS}</p>{table}{draw_learning(values)}'
        f"{draw_guard(values)}{draw_rounds(values, learnt_from)}{sides}"
        f"{_name_damaged(values.damaged)}</section>"
    )
    return Comparison(section, bool(sides))


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


def _name_damaged(damaged: Sequence[str]) -> str:
    names = list(dict.fromkeys(damaged))
    if not names:
        return ""
    shown = ", ".join(html.escape(name) for name in names[:_MOST_NAMED])
    rest = len(names) - _MOST_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f'<p class="small">Left out of the comparison: {shown}{more}, unreadable.</p>'


def _draw_table(values: Values, learnt_from: Sequence[str]) -> str:
    rows = [_group("The central performance")]
    known = _union(values, "metrics")
    for quantity in (*_CENTRAL, *(one for one in _TOUCH if one.name in known)):
        central = [Measured(values.number(side, "metrics", quantity.name)) for side in _SIDES]
        rows.append(_row(quantity, *central))
    rows += [_row(_rating(name), *both) for name, both in _central(values) if name in learnt_from]
    if _has_drawn(values):
        rows.append(_group(f"Performances drawn, mean{_count(values)}"))
        known = _union(values, "drawn")
        for quantity in (*_DRAWN, *(one for one in _TOUCH if one.name in known)):
            drawn = [values.measured(side, "drawn", quantity.name) for side in _SIDES]
            rows.append(_row(quantity, *drawn))
        rows += [_row(_rating(name), *both) for name, both in _drawn(values) if name in learnt_from]
    return _draw_rows(rows)


def _draw_other_raters(values: Values, learnt_from: Sequence[str]) -> str:
    """Draws the other simulated raters, from which the policy did not learn, in a closed part."""
    given, of = (_drawn, "performances drawn") if _has_drawn(values) else (_central, "performance")
    others = [(_rating(name), both) for name, both in given(values) if name not in learnt_from]
    if not others:
        return ""
    found = collections.Counter(_difference(quantity, *both)[1] for quantity, both in others)
    count = f"{len(others)} other simulated rater{' says' if len(others) == 1 else 's say'}"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.items() if verdict)
    rows = [_row(quantity, *both) for quantity, both in others]
    return (
        f"<details><summary>What {count} of the {of}"
        f"{f': {counts}' if counts else ''}</summary>{_draw_rows(rows)}</details>"
    )


def _has_drawn(values: Values) -> bool:
    return any(values.get(side, "drawn") is not None for side in _SIDES)


def _central(values: Values) -> Iterator[tuple[str, list[Measured]]]:
    """Yields the simulated ratings of the central performance, before and after."""
    for name in _union(values, "ratings"):
        yield name, [Measured(values.number(side, "ratings", name)) for side in _SIDES]


def _drawn(values: Values) -> Iterator[tuple[str, list[Measured]]]:
    """Yields the simulated ratings of the sampled performances, before and after."""
    for name in _union(values, "drawn", "ratings"):
        yield name, [values.measured(side, "drawn", "ratings", name) for side in _SIDES]


def _draw_rows(rows: Sequence[str]) -> str:
    head = "".join(
        f'<th scope="col">{words}</th>' for words in ("", *_SIDES.values(), "Difference")
    )
    return (
        f'<div class="wide"><table class="compare"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _union(values: Values, *path: str) -> list[str]:
    """Returns the names that occur in an object of either side."""
    return list(dict.fromkeys(name for side in _SIDES for name in values.names(side, *path)))


def _rating(name: str) -> _Quantity:
    return _Quantity(f"Simulated rating: {html.escape(name)}", name, 1)


def _count(values: Values) -> str:
    counts = [values.number(side, "drawn", "performances", least=0) for side in _SIDES]
    before, after = (full_number(count, 0) for count in counts)
    return f" of {before}" if before == after else f" of {before} before, {after} after"


def _group(words: str) -> str:
    return f'<tr class="group"><th scope="colgroup" colspan="4">{words}</th></tr>'


def _row(quantity: _Quantity, before: Measured, after: Measured) -> str:
    difference, verdict = _difference(quantity, before, after)
    return (
        f'<tr><th scope="row">{quantity.label}</th>'
        f"<td>{full_measure(before, quantity.decimals)}</td>"
        f"<td>{full_measure(after, quantity.decimals)}</td><td><span>{difference}</span>"
        f'<span class="verdict {verdict}">{verdict}</span></td></tr>'
    )


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


def _draw_sides(before: Evaluation, after: Evaluation, steps: Steps) -> str:
    """Draws the videos and strips of both sides. The strips have the same axes."""
    sides = dict(zip(_SIDES, (before, after), strict=True))
    films = _draw_films(sides)
    recorded = {side: load_recording(evaluation) for side, evaluation in sides.items()}
    performances = [performance for performance in recorded.values() if performance is not None]
    keys, seconds, legend = (0, 87), 0.0, ""
    if performances:
        keys = key_range(*performances)
        seconds = max(performance.seconds for performance in performances)
        legend = (
            f'{draw_strip_legend()}<p class="note">From left to right 0 to {seconds:.1f} s, from '
            f"bottom to top {note_name(keys[0])} to {note_name(keys[1])}.</p>"
        )
    figures = "".join(
        f"<figure><figcaption><strong>{_SIDES[side]}</strong>{caption(evaluation, steps)}"
        f'</figcaption><div class="film">{films[side]}</div>'
        f"{_draw_keys(recorded[side], keys, seconds)}</figure>"
        for side, evaluation in sides.items()
    )
    return f'<div class="sides">{figures}</div>{legend}'


def _draw_films(sides: dict[str, Evaluation]) -> dict[str, str]:
    """Embeds the videos within the size limit of the page; the later video takes precedence."""
    films, room = {}, MOST_VIDEO_BYTES
    for side, evaluation in reversed(sides.items()):
        video = find_video(evaluation)
        if video is None:
            films[side] = '<p class="note">There is no video of it.</p>'
            continue
        films[side] = embed_video(video, room)
        size = video.stat().st_size
        room -= size if size <= room else 0
    return films


def _draw_keys(performance: Performance | None, keys: tuple[int, int], seconds: float) -> str:
    if performance is None:
        return '<p class="note">There is no recording of its keys.</p>'
    return draw_strip(performance, keys, seconds)
