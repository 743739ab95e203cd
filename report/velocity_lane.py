"""The due and played velocity of each note, below the piano roll as in music editors."""

import itertools
from collections.abc import Sequence

import numpy as np

from piano.metrics import has_dynamics, velocity_metrics
from piano.performance import Performance
from report.charts import full_number
from report.key_statuses import Onset
from report.roll_view import KEYBOARD_WIDTH, MARKS, WIDTH, View

_LOUDEST = 127.0
_TOP, _BOTTOM, _HEIGHT = 8.0, 98.0, 108.0
_LEVELS = (0, 64, 127)
_APART = 8.0  # Distance between the notes of a chord.
_DASH = '<path class="due-velocity" d="M{x:.1f} {y:.1f}m-4 0h8"/>'

STYLE = """
.roll .stem{stroke:currentColor;stroke-width:1.6;opacity:.55}
.roll .velocities .missed,.roll .velocities .wrong{stroke-width:1.5;stroke:var(--missed)}
.roll .velocities .missed{fill:var(--paper)}
.roll .velocities .wrong{fill:none;stroke:var(--wrong)}
.roll .due-velocity,.legend .due-velocity{fill:none;stroke:var(--ink);stroke-width:2.2}
.legend .stem{stroke:var(--hit);stroke-width:1.6;opacity:.55}
"""
VELOCITY_SIGNS = (
    (
        '<path class="stem" d="M11 5V12"/><g class="hit"><circle cx="11" cy="4" r="2.4"/></g>',
        "velocity played",
    ),
    (_DASH.format(x=11.0, y=6.0), "velocity due"),
)
"""Drawing and words of each entry in the legend."""


def draw_velocity_lane(view: View, onsets: Sequence[Onset], titled: bool) -> str:
    """Draws the row of velocities below a row of the roll.

    Args:
        view: View of the row above.
        onsets: Onsets in the row.
        titled: Whether to show details of each onset on hover.
    """
    in_order = sorted(onsets, key=lambda onset: (onset.seconds, onset.key))
    drawn = "".join(
        _draw_onset(view.x(seconds) + number * _APART, onset, titled)
        for seconds, chord in itertools.groupby(in_order, key=lambda onset: onset.seconds)
        for number, onset in enumerate(chord)
    )
    levels = "".join(
        f'<path class="second" d="M0 {_y(level):.1f}H{WIDTH:g}"/>' for level in _LEVELS
    )
    names = "".join(
        f'<text x="{KEYBOARD_WIDTH - 4:g}" y="{_y(level) + 3.5:.1f}" text-anchor="end">{level}'
        "</text>"
        for level in _LEVELS
    )
    names += (
        f'<text x="{KEYBOARD_WIDTH - 4:g}" y="{_y(96) + 3.5:.1f}" text-anchor="end">velocity</text>'
    )
    return (
        '<div class="row touch">'
        f'<svg class="keyboard" viewBox="0 0 {KEYBOARD_WIDTH:g} {_HEIGHT:g}" '
        f'aria-hidden="true">{names}</svg>'
        f'<svg class="time" viewBox="0 0 {WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="Velocities from {view.start:.1f} s">{levels}'
        f'<g class="velocities">{drawn}</g></svg></div>'
    )


def _y(velocity: float) -> float:
    return _BOTTOM - velocity / _LOUDEST * (_BOTTOM - _TOP)


def _draw_onset(x: float, onset: Onset, titled: bool) -> str:
    parts = []
    if onset.played is not None:
        parts.append(f'<path class="stem" d="M{x:.1f} {_BOTTOM:g}V{_y(onset.played):.1f}"/>')
    if onset.due is not None and onset.played is not None:
        parts.append(_DASH.format(x=x, y=_y(onset.due)))
    height = onset.due if onset.played is None else onset.played
    if height is not None:
        shape = MARKS[onset.status][0].format(x=x, y=_y(height))
        parts.append(f'<g class="{onset.status}">{shape}</g>')
    title = f"<title>{onset.words}</title>" if titled and parts else ""
    return f'<g class="in-{onset.status}">{title}{"".join(parts)}</g>' if parts else ""


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
