"""Ticks of a MIDI file as seconds and as bars."""

import bisect
import math
from collections.abc import Mapping
from typing import NamedTuple

from piano.midi_reader import MidiContents

DEFAULT_TEMPO = 500_000  # Microseconds per quarter note.
_DEFAULT_METER = (4, 4)
_ROUNDING = 1e-9


class Place(NamedTuple):
    """A moment in a piece, for messages."""

    bar: int | None
    """Bar, from 1; None if the piece has no bars."""
    seconds: float

    def __str__(self) -> str:
        """Describes the place, such as "bar 3, 4.50 s"."""
        bar = "" if self.bar is None else f"bar {self.bar}, "
        return f"{bar}{self.seconds:.2f} s"


class ScoreTime:
    """The relation of ticks, seconds and bars in one file.

    Args:
        contents: Contents of the file.
    """

    def __init__(self, contents: MidiContents):
        if contents.ticks_per_beat is None:
            assert contents.ticks_per_second is not None
            self._seconds = _Rates({0: 1.0}, 1 / contents.ticks_per_second)
            self._bars: _Bars | None = None
        else:
            tempi = {0: DEFAULT_TEMPO} | contents.tempi
            self._seconds = _Rates(tempi, 1e-6 / contents.ticks_per_beat)
            self._bars = _Bars({0: _DEFAULT_METER} | contents.meters, contents.ticks_per_beat)

    def seconds(self, tick: float) -> float:
        """Returns the time of a tick in seconds."""
        return self._seconds.total(tick)

    def place(self, tick: float) -> Place:
        """Returns the place of a tick."""
        return Place(self.bar(tick), self.seconds(tick))

    def place_of_seconds(self, seconds: float) -> Place:
        """Returns the place of a time in seconds."""
        return Place(self.bar(self._seconds.position(seconds)), seconds)

    def bar(self, tick: float) -> int | None:
        """Returns the bar that a tick lies in, from 1; None if the file has no bars."""
        return None if self._bars is None else self._bars.bar(tick)

    def start_of_bar(self, bar: int) -> float:
        """Returns the time at which a bar begins, in seconds.

        Args:
            bar: Number of the bar, from 1. Bars after the end of the piece go on.
        """
        assert self._bars is not None
        return self.seconds(self._bars.start(bar))


class _Rates:
    """The integral over ticks of a rate above 0 that changes at some of them."""

    def __init__(self, rates: Mapping[int, float], scale: float):
        self._begins = sorted(rates)
        self._rates = [rates[begin] * scale for begin in self._begins]
        self._totals = [0.0]
        for i in range(1, len(self._begins)):
            length = self._begins[i] - self._begins[i - 1]
            self._totals.append(self._totals[-1] + length * self._rates[i - 1])

    def total(self, tick: float) -> float:
        i = bisect.bisect_right(self._begins, tick) - 1
        return self._totals[i] + (tick - self._begins[i]) * self._rates[i]

    def position(self, total: float) -> float:
        """Returns the tick at which the integral has a value of 0 or more."""
        i = bisect.bisect_right(self._totals, total) - 1
        return self._begins[i] + (total - self._totals[i]) / self._rates[i]


class _Bars:
    """The bars of a file. A time signature begins a bar, also where the last bar is not full."""

    def __init__(self, meters: Mapping[int, tuple[int, int]], ticks_per_beat: int):
        self._begins = sorted(meters)
        self._lengths = [
            ticks_per_beat * 4 * numerator / denominator
            for numerator, denominator in (meters[begin] for begin in self._begins)
        ]
        self._firsts = [1]
        for i in range(1, len(self._begins)):
            full = (self._begins[i] - self._begins[i - 1]) / self._lengths[i - 1]
            self._firsts.append(self._firsts[-1] + math.ceil(full - _ROUNDING))

    def bar(self, tick: float) -> int:
        i = bisect.bisect_right(self._begins, tick) - 1
        return self._firsts[i] + int((tick - self._begins[i]) / self._lengths[i] + _ROUNDING)

    def start(self, bar: int) -> float:
        i = bisect.bisect_right(self._firsts, bar) - 1
        return self._begins[i] + (bar - self._firsts[i]) * self._lengths[i]
