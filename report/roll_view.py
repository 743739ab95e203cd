"""What the piano roll and the velocities below it share: their coordinates and their marks."""

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
"""Shape, to be formatted with x and y, and meaning of the mark of each status."""


class View(NamedTuple):
    """Where the keys from low to high and the seconds from start to stop lie in the drawing."""

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
        """Height of the drawing, with the lanes of the pedal and the times."""
        return self.bottom + 2 * LANE + 24.0

    def x(self, seconds: float) -> float:
        """Horizontal place of a time."""
        return (seconds - self.start) / (self.stop - self.start) * WIDTH

    def y(self, key: int) -> float:
        """Upper edge of a key."""
        return TOP + (self.high - key) * self.lane

    def width(self, bar: Bar) -> float:
        """Width of a bar."""
        return self.x(bar.offset) - self.x(bar.onset)

    def cut(self, bars: Sequence[Bar]) -> list[Bar]:
        """The parts of bars that lie in the row."""
        return [
            bar._replace(onset=max(bar.onset, self.start), offset=min(bar.offset, self.stop))
            for bar in bars
            if bar.onset < self.stop and bar.offset > self.start
        ]
