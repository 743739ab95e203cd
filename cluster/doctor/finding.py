"""Results of checks."""

from typing import NamedTuple

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Finding(NamedTuple):
    """Result of a check."""

    verdict: str
    """OK, WARNING (a run can work in spite of it) or WRONG."""
    what: str
    """Description of the finding."""
    fix: str = ""
    """Advice in one line; empty if nothing is to be fixed."""
