"""Access to the values of a comparison. Invalid values are skipped and their names kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from report.charts import full_number
from report.records import Record

_LARGEST = 1e12


class Measured(NamedTuple):
    """A single number or a mean."""

    value: float | None
    half_width: float | None = None
    """Half width of the mean's 95% interval; None for a single number."""

    def parts(self, decimals: int) -> list[str]:
        """Returns the number in words and, if it has an interval, the half width of that."""
        parts = [full_number(self.value, decimals)]
        if self.value is not None and self.half_width is not None:
            parts.append(f"± {full_number(self.half_width, decimals)}")
        return parts

    def words(self, decimals: int) -> str:
        """Returns the number and the half width of its interval, in words."""
        return " ".join(self.parts(decimals))


class Values:
    """The values of a comparison.

    Args:
        values: JSON object of the comparison's file. Its contents may be invalid.
    """

    def __init__(self, values: Record):
        self._values = values
        self.damaged: list[str] = []
        """Names of unreadable values, such as before.metrics.f1. A name can occur repeatedly."""

    def get(self, *path: str) -> Any:
        """Returns a value; None if it is null, absent, or not inside an object or a list."""
        value: Any = self._values
        for depth, name in enumerate(path, start=1):
            try:
                value = _below(value, name)
            except LookupError:
                self._damage(path[:depth])
                return None
        return value

    def absent(self, *path: str) -> bool:
        """Returns whether a value is absent or null, without counting it as damaged."""
        value: Any = self._values
        for name in path:
            try:
                value = _below(value, name)
            except LookupError:
                return True
        return value is None

    def number(self, *path: str, least: float = -_LARGEST) -> float | None:
        """Returns a finite number from `least` to 1e12; None for null or anything else."""
        value = self.get(*path)
        if value is None:
            return None
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if plain and least <= value <= _LARGEST:
            return float(value)
        self._damage(path)
        return None

    def names(self, *path: str) -> list[str]:
        """Returns the names in an object or the indices of a list; otherwise an empty list."""
        value = self.get(*path)
        if isinstance(value, dict):
            return list(value)
        if isinstance(value, list):
            return [str(number) for number in range(len(value))]
        self._damage(path)
        return []

    def measured(self, *path: str) -> Measured:
        """Returns a mean, whose interval may be absent."""
        interval = None
        if "interval" in self.names(*path):
            interval = self.number(*path, "interval", least=0.0)
        return Measured(self.number(*path, "mean"), interval)

    def _damage(self, path: Sequence[str]) -> None:
        self.damaged.append(".".join(path))


def _below(value: Any, name: str) -> Any:
    """Returns the value of a name in an object, or of an index in a list.

    Raises:
        LookupError: The value has nothing of that name.
    """
    if isinstance(value, dict):
        return value[name]
    if isinstance(value, list) and name.isdecimal():
        return value[int(name)]
    raise LookupError(name)
