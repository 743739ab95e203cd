"""Takes values out of a comparison; what is not as it should be is named and passed over."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from report.charts import full_number
from report.records import Record

_LARGEST = 1e12


class Measured(NamedTuple):
    """A number, or a mean."""

    value: float | None
    half_width: float | None = None
    """Of the mean's 95% interval."""


def full_measure(measured: Measured, decimals: int) -> str:
    """A number, with the half width of its interval if it has one, as HTML."""
    words = full_number(measured.value, decimals)
    if measured.value is None or measured.half_width is None:
        return words
    return f"<span>{words}</span> <span>± {full_number(measured.half_width, decimals)}</span>"


class Values:
    """What is in a comparison.

    Args:
        values: the JSON object of its file; anything may be in it.
    """

    def __init__(self, values: Record):
        self._values = values
        self.damaged: list[str] = []
        """What could not be read, such as before.metrics.f1; some more than once."""

    def get(self, *path: str) -> Any:
        """A value; None where it is null, absent, or below something that is no object."""
        value: Any = self._values
        for depth, name in enumerate(path, start=1):
            try:
                value = _below(value, name)
            except LookupError:
                self._damage(path[:depth])
                return None
        return value

    def absent(self, *path: str) -> bool:
        """Whether there is no such value, or null; that is no damage."""
        value: Any = self._values
        for name in path:
            try:
                value = _below(value, name)
            except LookupError:
                return True
        return value is None

    def number(self, *path: str, least: float = -_LARGEST) -> float | None:
        """A finite number of a likely size; None for null, and where it is none."""
        value = self.get(*path)
        if value is None:
            return None
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if plain and least <= value <= _LARGEST:
            return float(value)
        self._damage(path)
        return None

    def names(self, *path: str) -> list[str]:
        """The names in an object, or the numbers in a list; none where it is neither."""
        value = self.get(*path)
        if isinstance(value, dict):
            return list(value)
        if isinstance(value, list):
            return [str(number) for number in range(len(value))]
        self._damage(path)
        return []

    def measured(self, *path: str) -> Measured:
        """A mean; its interval may be absent."""
        interval = None
        if "interval" in self.names(*path):
            interval = self.number(*path, "interval", least=0.0)
        return Measured(self.number(*path, "mean"), interval)

    def _damage(self, path: Sequence[str]) -> None:
        self.damaged.append(".".join(path))


def _below(value: Any, name: str) -> Any:
    """What an object has by a name, or a list by a number.

    Raises:
        LookupError: It has nothing of that name.
    """
    if isinstance(value, dict):
        return value[name]
    if isinstance(value, list) and name.isdecimal():
        return value[int(name)]
    raise LookupError(name)
