"""The piano roll, which compares due and played notes, as inline SVG.

Bars show the keys frame by frame, and marks show the onset of each note. Statuses differ in both
color and shape, so that color-blind people can read the roll.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from piano.performance import Performance
from report.key_statuses import (
    Bar,
    Onset,
    find_bars,
    find_onsets,
    find_pedal_bars,
    key_range,
    note_name,
)
from report.roll_view import KEYBOARD_WIDTH, LANE, MARKS, TOP, WIDTH, View
from report.velocity_lane import VELOCITY_SIGNS, draw_velocity_lane

_SECONDS_A_ROW = 20.0
_ROWS_SHOWN = 4
_MOST_TITLES = 7000
_BARS = {
    "hit": "hit: due and played",
    "missed": "missed: due, not played",
    "wrong": "wrong: played, not due",
}
_PEDAL_BARS = {"due": (0, "due"), "hit": (1, "played, due"), "wrong": (1, "played, not due")}

STYLE = """
.hit{fill:var(--hit)}.missed{fill:var(--missed)}.wrong{fill:var(--wrong)}
.roll .bars .missed{fill-opacity:.22;stroke:var(--missed);stroke-width:1.2}
.roll .marks>*{stroke:var(--paper);stroke-width:.8}
.roll .marks .hit{fill:var(--ink)}
.roll .marks .missed{fill:var(--paper);stroke:var(--missed);stroke-width:1.5}
.roll .marks .wrong{fill:none;stroke:var(--ink);stroke-width:1.3}
.roll .black{fill:var(--stripe)}
.roll .second{stroke:var(--line);stroke-width:.6}.roll .lane{fill:var(--stripe)}
.roll .due{fill:var(--muted)}
.roll text,.legend{fill:var(--muted);font-size:11.5px;font-family:inherit}
.roll .row{display:flex;min-width:780px;margin-bottom:.6rem;break-inside:avoid}
.roll .scroll{overflow-x:auto}.roll svg{display:block;height:auto;min-width:0}
.roll svg.keyboard{flex:58 1 0;position:sticky;left:0;background:var(--paper)}
.roll svg.time{flex:1000 1 0}
.keyboard .white{fill:#fff;stroke:#777;stroke-width:.6}.keyboard .ebony{fill:#222}
.roll .keyboard text{font-size:10px}.roll .keyboard .octave-name{fill:#555}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.85rem;margin:.2rem 0 .7rem}
.legend span{display:inline-flex;align-items:center;gap:.4rem;color:var(--muted)}
.legend svg{width:22px;height:12px;overflow:visible}
.strip{display:block;width:100%;height:150px;background:var(--stripe);border-radius:4px}
@media print{.roll .row{min-width:0}.roll .scroll{overflow:visible}}
"""


class _Sign(NamedTuple):
    """One entry of a legend."""

    kind: str
    drawing: str
    words: str


def draw_roll(performance: Performance) -> str:
    """Draws the piano roll with keyboard, onsets, pedal lanes, velocities and legend.

    Long pieces are split into rows of about 20 s, as in sheet music.
    """
    bars, pedal = find_bars(performance), find_pedal_bars(performance)
    onsets = find_onsets(performance)
    titled = len(bars) + len(onsets) <= _MOST_TITLES
    draw_bars = _draw_titled_bars if titled else _draw_bars
    count = max(1, math.ceil(performance.seconds / _SECONDS_A_ROW - 0.2))
    steps = math.ceil(len(performance.rewards) / count)
    edges = np.arange(count + 1) * steps * float(performance.control_timestep)
    keys = key_range(performance)
    rows = []
    for start, stop in itertools.pairwise(edges.tolist()):
        view = View(*keys, start, stop)
        within = [onset for onset in onsets if start <= onset.seconds < stop]
        marks = "".join(_draw_mark(view, onset, titled) for onset in within)
        rows.append(
            f'<div class="scroll"><div class="row">{_draw_keyboard(view)}'
            f'<svg class="time" viewBox="0 0 {WIDTH:g} {view.height:.1f}" role="img" '
            f'aria-label="Piano roll from {view.start:.1f} s">{_draw_grid(view)}'
            f'<g class="bars">{draw_bars(view, view.cut(bars))}</g>'
            f'<g class="pedal">{_draw_pedal(view, view.cut(pedal))}</g>'
            f'<g class="marks">{marks}</g></svg></div>'
            f"{draw_velocity_lane(view, within, titled)}</div>"
        )
    signs = _bar_signs() + _mark_signs() + _velocity_signs()
    shown, rest = "".join(rows[:_ROWS_SHOWN]), "".join(rows[_ROWS_SHOWN:])
    if rest:
        rest = f"<details><summary>The rest of the piece</summary>{rest}</details>"
    return f'<div class="roll">{_draw_legend(signs)}{shown}{rest}</div>'


def draw_strip(performance: Performance, keys: tuple[int, int], seconds: float) -> str:
    """Draws a whole performance in one narrow strip, for comparison with another.

    Args:
        performance: Performance to draw.
        keys: Lowest and highest key of the strip.
        seconds: Length of the strip in seconds.
    """
    view = View(*keys, 0.0, seconds)
    return (
        f'<svg class="strip" viewBox="0 {TOP:g} {WIDTH:g} {view.bottom - TOP:.1f}" '
        f'preserveAspectRatio="none" role="img" aria-label="Overview">'
        f"{_draw_bars(view, find_bars(performance))}</svg>"
    )


def draw_strip_legend() -> str:
    """Draws the legend for the colors of a strip."""
    return _draw_legend(_bar_signs())


def _draw_titled_bars(view: View, bars: Sequence[Bar]) -> str:
    groups = []
    for status, group in itertools.groupby(bars, key=lambda bar: bar.status):
        margin = view.lane * (0.22 if status == "wrong" else 0.08)
        rectangles = "".join(
            f'<rect x="{view.x(bar.onset):.1f}" y="{view.y(bar.key) + margin:.1f}" rx="1" '
            f'width="{view.width(bar):.1f}" height="{view.lane - 2 * margin:.1f}"><title>'
            f"{note_name(bar.key)}, {bar.onset:.2f} to {bar.offset:.2f} s: {_BARS[status]}"
            "</title></rect>"
            for bar in group
        )
        groups.append(f'<g class="{status}">{rectangles}</g>')
    return "".join(groups)


def _draw_bars(view: View, bars: Sequence[Bar]) -> str:
    """Draws many bars as one path per status, without titles."""
    paths = []
    for status, group in itertools.groupby(bars, key=lambda bar: bar.status):
        outline = "".join(
            f"M{view.x(bar.onset):.1f} {view.y(bar.key):.1f}v{view.lane:.1f}"
            f"h{max(1.0, view.width(bar)):.1f}v-{view.lane:.1f}z"
            for bar in group
        )
        paths.append(f'<path class="{status}" d="{outline}"/>')
    return "".join(paths)


def _draw_mark(view: View, onset: Onset, titled: bool) -> str:
    shape, _ = MARKS[onset.status]
    mark = shape.format(x=view.x(onset.seconds), y=view.y(onset.key) + view.lane / 2)
    title = f"<title>{onset.words}</title>" if titled else ""
    return f'<g class="{onset.status}">{title}{mark}</g>'


def _draw_pedal(view: View, bars: Sequence[Bar]) -> str:
    tops = [view.bottom + 4, view.bottom + 4 + LANE]
    drawn = [
        f'<rect class="lane" y="{top:.1f}" width="{WIDTH:g}" height="{LANE - 2:g}"/>'
        for top in tops
    ]
    for bar in bars:
        lane, words = _PEDAL_BARS[bar.status]
        drawn.append(
            f'<rect class="{bar.status}" x="{view.x(bar.onset):.1f}" rx="1" y="{tops[lane]:.1f}" '
            f'width="{view.width(bar):.1f}" height="{LANE - 2:g}"><title>Pedal {words}, '
            f"{bar.onset:.2f} to {bar.offset:.2f} s</title></rect>"
        )
    return "".join(drawn)


def _draw_grid(view: View) -> str:
    drawn = [
        f'<rect class="black" y="{view.y(key):.1f}" width="{WIDTH:g}" height="{view.lane:.1f}"/>'
        for key in range(view.low, view.high + 1)
        if "#" in note_name(key)
    ]
    seconds = view.stop - view.start
    every = next((gap for gap in (0.5, 1, 2, 5, 10, 30) if seconds / gap <= 21), 60)
    first = math.ceil(view.start / every - 1e-6)
    last = math.floor(view.stop / every + 1e-6)
    for tick in range(first, last + 1):
        x = view.x(tick * every)
        anchor = "start" if x < 15 else "end" if x > WIDTH - 15 else "middle"
        drawn.append(
            f'<path class="second" d="M{x:.1f} {TOP:g}V{view.height - 16:.1f}"/>'
            f'<text x="{x:.1f}" y="{view.height - 4:.1f}" text-anchor="{anchor}">'
            f"{tick * every:g} s</text>"
        )
    return "".join(drawn)


def _draw_keyboard(view: View) -> str:
    left, right = 2.0, KEYBOARD_WIDTH - 2
    drawn = [
        f'<rect class="white" x="{left:g}" y="{TOP:g}" width="{right - left:g}" '
        f'height="{view.bottom - TOP:.1f}"/>'
    ]
    for key in range(view.low, view.high + 1):
        y, name = view.y(key), note_name(key)
        if "#" in name:
            drawn.append(
                f'<path class="white" d="M{left:g} {y + view.lane / 2:.1f}H{right:g}"/>'
                f'<rect class="ebony" x="{left:g}" y="{y:.1f}" width="{(right - left) * 0.6:.1f}" '
                f'height="{view.lane:.1f}"/>'
            )
        elif name[0] in "CF":
            drawn.append(f'<path class="white" d="M{left:g} {y + view.lane:.1f}H{right:g}"/>')
        if name[0] == "C" and "#" not in name:
            drawn.append(
                f'<text class="octave-name" x="{right - 2:g}" y="{y + view.lane / 4 + 3:.1f}" '
                f'text-anchor="end">{name}</text>'
            )
    for lane, words in enumerate(("pedal due", "played")):
        drawn.append(
            f'<text x="{right:g}" y="{view.bottom + 12.2 + lane * LANE:.1f}" '
            f'text-anchor="end">{words}</text>'
        )
    return (
        f'<svg class="keyboard" viewBox="0 0 {KEYBOARD_WIDTH:g} {view.height:.1f}" '
        f'aria-hidden="true">{"".join(drawn)}</svg>'
    )


def _bar_signs() -> list[_Sign]:
    return [
        _Sign("bars", f'<rect class="{status}" y="1" width="22" height="10" rx="1"/>', words)
        for status, words in _BARS.items()
    ]


def _mark_signs() -> list[_Sign]:
    return [
        _Sign("marks", f'<g class="{status}">{shape.format(x=11, y=6)}</g>', words)
        for status, (shape, words) in MARKS.items()
    ]


def _velocity_signs() -> list[_Sign]:
    return [_Sign("velocities", drawing, words) for drawing, words in VELOCITY_SIGNS]


def _draw_legend(signs: Sequence[_Sign]) -> str:
    items = "".join(
        f'<span><svg viewBox="0 0 22 12" class="{kind}">{sign}</svg>{words}</span>'
        for kind, sign, words in signs
    )
    return f'<div class="legend">{items}</div>'
