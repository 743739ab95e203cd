"""The piano roll, which compares due and played notes, laid out for the SVG of `piano_roll.html`.

Bars show the keys frame by frame, and marks show the onset of each note. Statuses differ in both
color and shape, so that color-blind people can read the roll. A lane below the keys shows the due
and played velocity of each note, as in music editors.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from piano.performance import Performance
from report.key_statuses import Bar, Onset, find_bars, find_onsets, find_pedal_bars, key_range

_SECONDS_A_ROW = 20.0
MOST_TITLES = 7000
"""Largest number of marks that show their details on hover."""
_APART = 8.0  # Distance between the velocities of a chord.
_LOUDEST = 127.0


@dataclasses.dataclass(frozen=True)
class View:
    """The positions of the keys from low to high and the seconds from start to stop."""

    low: int
    high: int
    start: float
    stop: float

    WIDTH, KEYBOARD_WIDTH = 1000, 58
    TOP, LANE = 4, 11
    VELOCITY_TOP, VELOCITY_BOTTOM, VELOCITY_HEIGHT = 8, 98, 108

    @property
    def lane(self) -> float:
        """Height of a key."""
        return min(12.0, max(5.0, 370.0 / (self.high - self.low + 1)))

    @property
    def bottom(self) -> float:
        """Lower edge of the lowest key."""
        return self.y(self.low - 1)

    @property
    def height(self) -> float:
        """Height of the drawing, including the pedal lanes and the times."""
        return self.bottom + 2 * self.LANE + 24.0

    @property
    def ticks(self) -> list[float]:
        """Times on the horizontal axis, in seconds."""
        seconds = self.stop - self.start
        every = next((gap for gap in (0.5, 1, 2, 5, 10, 30) if seconds / gap <= 21), 60)
        first = math.ceil(self.start / every - 1e-6)
        last = math.floor(self.stop / every + 1e-6)
        return [tick * every for tick in range(first, last + 1)]

    def x(self, seconds: float) -> float:
        """Returns the horizontal position of a time."""
        return (seconds - self.start) / (self.stop - self.start) * self.WIDTH

    def y(self, key: int) -> float:
        """Returns the upper edge of a key."""
        return self.TOP + (self.high - key) * self.lane

    def velocity_y(self, velocity: float) -> float:
        """Returns the vertical position of a MIDI velocity in its lane."""
        height = self.VELOCITY_BOTTOM - self.VELOCITY_TOP
        return self.VELOCITY_BOTTOM - velocity / _LOUDEST * height

    def width(self, bar: Bar) -> float:
        """Returns the width of a bar."""
        return self.x(bar.offset) - self.x(bar.onset)

    def outline(self, bars: Sequence[Bar]) -> str:
        """Returns many bars as the data of one SVG path."""
        return "".join(
            f"M{self.x(bar.onset):.1f} {self.y(bar.key):.1f}v{self.lane:.1f}"
            f"h{max(1.0, self.width(bar)):.1f}v-{self.lane:.1f}z"
            for bar in bars
        )

    def cut(self, bars: Sequence[Bar]) -> dict[str, list[Bar]]:
        """Returns the parts of bars that lie in the view, by status."""
        within = [
            bar._replace(onset=max(bar.onset, self.start), offset=min(bar.offset, self.stop))
            for bar in bars
            if bar.onset < self.stop and bar.offset > self.start
        ]
        by_status = itertools.groupby(within, key=lambda bar: bar.status)
        return {status: list(group) for status, group in by_status}


def lay_out_roll(performance: Performance) -> dict[str, Any]:
    """Lays out the piano roll of a performance.

    Long pieces are split into rows of about 20 s, as in sheet music.

    Returns:
        `rows`, and whether they are few enough marks to be `titled`.
    """
    bars, pedal = find_bars(performance), find_pedal_bars(performance)
    onsets = find_onsets(performance)
    count = count_rows(performance.seconds)
    steps = math.ceil(len(performance.rewards) / count)
    edges = np.arange(count + 1) * steps * float(performance.control_timestep)
    rows = []
    for start, stop in itertools.pairwise(edges.tolist()):
        view = View(*key_range(performance), start, stop)
        within = [onset for onset in onsets if start <= onset.seconds < stop]
        rows.append(
            {
                "view": view,
                "bars": view.cut(bars),
                "pedal": view.cut(pedal),
                "onsets": within,
                "velocities": lay_out_velocities(view, within),
            }
        )
    return {"rows": rows, "titled": len(bars) + len(onsets) <= MOST_TITLES}


def count_rows(seconds: float) -> int:
    """Returns the number of rows of a roll."""
    return max(1, math.ceil(seconds / _SECONDS_A_ROW - 0.2))


def lay_out_velocities(view: View, onsets: Sequence[Onset]) -> list[tuple[float, Onset]]:
    """Returns the onsets with a velocity and their positions, those of a chord side by side."""
    in_order = sorted(onsets, key=lambda onset: (onset.seconds, onset.key))
    return [
        (view.x(seconds) + number * _APART, onset)
        for seconds, chord in itertools.groupby(in_order, key=lambda onset: onset.seconds)
        for number, onset in enumerate(chord)
        if onset.due is not None or onset.played is not None
    ]


def lay_out_strip(
    performance: Performance, keys: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """Lays out a whole performance as one narrow strip, for comparison with another.

    Args:
        performance: Performance to draw.
        keys: Lowest and highest key of the strip.
        seconds: Length of the strip in seconds.

    Returns:
        `view` and `bars`.
    """
    view = View(*keys, 0.0, seconds)
    return {"view": view, "bars": view.cut(find_bars(performance))}
