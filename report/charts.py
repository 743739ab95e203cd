"""Small line charts, laid out for the SVG of `charts.html`, and numbers in few characters."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

_MOST_POINTS, _MOST_DOTS = 400, 100


class Curve(NamedTuple):
    """One line of a chart with P points in the units of the axes. Missing points are NaN."""

    label: str
    x: np.ndarray
    """Horizontal values in any order, (P,) float64."""
    y: np.ndarray
    """Vertical values, (P,) float64."""
    color: str
    """Color variable of the page's style: hit, missed, wrong or second."""
    dots: bool
    """Whether to mark every point and show its value on hover."""


class Thinned(NamedTuple):
    """A curve short enough to draw: mean, minimum and maximum at each x, each (P,) float64."""

    x: np.ndarray
    mean: np.ndarray
    least: np.ndarray
    greatest: np.ndarray


def thin(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> Thinned:
    """Sorts a curve, drops missing points, and averages a long curve over groups of equal size.

    Args:
        x: Horizontal values, (P,) float64.
        y: Vertical values, (P,) float64.
        most: Largest number of points to keep.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if len(x) <= most:
        return Thinned(x, y, y, y)
    starts = np.linspace(0, len(x), most, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x)))
    return Thinned(
        np.add.reduceat(x, starts) / sizes,
        np.add.reduceat(y, starts) / sizes,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def short_number(value: float) -> str:
    """Formats a number in few characters: 1.2M, 35k, 0.25, 3e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def full_number(value: float | None, decimals: int) -> str:
    """Formats a number with a fixed number of decimals; None becomes a dash."""
    return DASH if value is None else f"{value:,.{decimals}f}".replace("-", MINUS)


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers from `low` to `high` with at most `most` intervals between them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * size for size in (1, 2, 5, 10) if power * size >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def lay_out_chart(
    title: str,
    words: str,
    curves: Iterable[Curve],
    x_label: str,
    limits: tuple[float, float] | None = None,
    logarithmic: bool = False,
    whole: bool = False,
) -> dict[str, Any] | None:
    """Lays out a chart.

    Args:
        title: Heading of the chart.
        words: Sentence below the heading.
        curves: Curves to draw. Curves without points are left out.
        x_label: Label of the horizontal axis, with the unit.
        limits: Ends of the vertical axis; None to derive them from the curves.
        logarithmic: Whether the vertical axis is logarithmic if all values are positive and span
            at least a decade.
        whole: Whether the horizontal axis only shows whole numbers.

    Returns:
        What `draw_chart` of `charts.html` draws; None if there is nothing to draw.
    """
    drawn = [(curve, thinned) for curve in curves if len((thinned := thin(curve.x, curve.y)).x)]
    if not drawn:
        return None
    axes = _Axes([thinned for _, thinned in drawn], limits, logarithmic)
    lines = [_lay_out_line(axes, curve, thinned) for curve, thinned in drawn]
    chart = {"title": title, "words": words, "x_label": x_label, "lines": lines}
    return chart | {"axes": axes, "levels": axes.levels(), "ticks": axes.ticks(whole)}


class _Axes:
    """Linear or logarithmic axes around some curves."""

    WIDTH, HEIGHT = 420, 224
    LEFT, RIGHT, TOP, BOTTOM = 48, 403, 10, 188

    def __init__(
        self, curves: Sequence[Thinned], limits: tuple[float, float] | None, logarithmic: bool
    ):
        x = np.concatenate([curve.x for curve in curves])
        means = np.concatenate([curve.mean for curve in curves])
        self.logarithmic = logarithmic and 0 < 10 * means.min() <= means.max()
        self.left, self.right = min(0.0, x.min()), x.max()
        if self.right <= self.left:
            self.right = self.left + 1.0
        # The ends of a band may lie outside the axes, so that an outlier does not flatten the rest.
        low = min(means.min(), *(np.quantile(curve.least, 0.02) for curve in curves))
        high = max(means.max(), *(np.quantile(curve.greatest, 0.98) for curve in curves))
        if limits:
            self.low, self.high = limits
        elif self.logarithmic:
            self.low, self.high = math.log10(max(low, means.min())) - 0.1, math.log10(high) + 0.1
        else:
            if 0 < low < 0.7 * high:
                low = 0.0
            room = (high - low) * 0.06 or max(abs(high), 1e-6) * 0.1
            self.low, self.high = (low - room if low else 0.0), high + room

    def x(self, values: np.ndarray) -> np.ndarray:
        """Converts values to horizontal positions in the drawing."""
        share = (values - self.left) / (self.right - self.left)
        return self.LEFT + share * (self.RIGHT - self.LEFT)

    def y(self, values: np.ndarray) -> np.ndarray:
        """Converts values to vertical positions in the drawing, clipped at its edges."""
        if self.logarithmic:
            values = np.log10(np.maximum(values, 1e-300))
        share = np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        return self.BOTTOM - share * (self.BOTTOM - self.TOP)

    def levels(self) -> list[tuple[float, float]]:
        """Returns values of the vertical axis to show, with their positions."""
        if self.logarithmic:
            decades = range(math.ceil(self.low), math.floor(self.high) + 1)
            levels = [10.0**decade for decade in decades[:: 1 + len(decades) // 6]]
        else:
            levels = round_ticks(self.low, self.high)
        return list(zip(levels, self.y(np.array(levels)), strict=True))

    def ticks(self, whole: bool) -> list[tuple[float, float]]:
        """Returns values of the horizontal axis to show, with their positions."""
        ticks = round_ticks(self.left, self.right, 6)
        if whole:
            ticks = [tick for tick in ticks if math.isclose(tick, round(tick), abs_tol=1e-6)]
        return list(zip(ticks, self.x(np.array(ticks)), strict=True))


def _lay_out_line(axes: _Axes, curve: Curve, thinned: Thinned) -> dict[str, Any]:
    x, y, band, dots = axes.x(thinned.x), axes.y(thinned.mean), "", []
    if thinned.greatest is not thinned.mean:
        above, below = axes.y(thinned.greatest), axes.y(thinned.least)
        band = _points(np.append(x, x[::-1]), np.append(above, below[::-1]))
    if len(x) == 1 or (curve.dots and len(x) <= _MOST_DOTS):
        dots = list(zip(x, y, thinned.mean, thinned.x, strict=True))
    line = {"label": curve.label, "color": curve.color, "last": thinned.mean[-1]}
    return line | {"points": _points(x, y), "band": band, "dots": dots}


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
