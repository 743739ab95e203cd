"""The coordinates and marks that the piano roll shares with the velocities below it."""

from collections.abc import Sequence
from typing import NamedTuple

from report.key_statuses import TOLERANCE, Bar

WIDTH, KEYBOARD_WIDTH = 1000.0, 58.0
TOP, LANE = 4.0, 11.0

_CIRCLE = '<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>'
_CROSS = '<path d="M{x:.1f} {y:.1f}m-2.5-2.5l5 5m0-5l-5 5"/>'
MARKS = {
    "hit": (_CIRCLE, f"onset within {TOLERANCE}"),
    "missed": (_CIRCLE, "onset missed"),
    "wrong": (_CROSS, "onset not due"),
}
"""Shape and meaning of each status's mark. The shape is a format string with x and y."""


class View(NamedTuple):
    """The positions of the keys from low to high and the seconds from start to stop."""

    low: int
    high: int
    start: float
    stop: float

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
        return self.bottom + 2 * LANE + 24.0

    def x(self, seconds: float) -> float:
        """Returns the horizontal position of a time."""
        return (seconds - self.start) / (self.stop - self.start) * WIDTH

    def y(self, key: int) -> float:
        """Returns the upper edge of a key."""
        return TOP + (self.high - key) * self.lane

    def width(self, bar: Bar) -> float:
        """Returns the width of a bar."""
        return self.x(bar.offset) - self.x(bar.onset)

    def cut(self, bars: Sequence[Bar]) -> list[Bar]:
        """Returns the parts of bars that lie in the row."""
        return [
            bar._replace(onset=max(bar.onset, self.start), offset=min(bar.offset, self.stop))
            for bar in bars
            if bar.onset < self.stop and bar.offset > self.start
        ]
