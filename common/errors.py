"""The exceptions whose message is all that a person needs, so that the CLI shows no traceback.

`BadInput` is for what a person gave and cannot be used (exit code 2), `PartFailed` for processes
that died or do not answer (exit code 1). Every other exception is a bug and keeps its traceback.
"""

import math


class BadInput(ValueError):
    """A file, flag or request cannot be used: its message says what, where and how to fix it."""


class PartFailed(RuntimeError):
    """A process of a run died or does not answer: the message says which, and what is known."""


class OutOfMemory(PartFailed):
    """Ray ended a process of a run because its machine was short of memory."""


def require(condition: bool, message: str) -> None:
    """Raises `BadInput(message)` unless `condition` holds."""
    if not condition:
        raise BadInput(message)


def require_range(
    config: object, *names: str, least: float, most: float = math.inf, unit: str = ""
) -> None:
    """Refuses settings out of range.

    Args:
        config: its attributes are named as its flags are, with underscores for hyphens.
        names: of the settings, each a number; None is in every range.
        least: the smallest that is allowed.
        most: the greatest that is allowed.
        unit: of the range, for people.

    Raises:
        BadInput: naming the flag, its value and the range.
    """
    allowed = f"at least {least}" if most == math.inf else f"{least} to {most} {unit}".rstrip()
    for name in names:
        value = getattr(config, name)
        require(
            value is None or least <= value <= most,
            f"--{name.replace('_', '-')} is {value}, must be {allowed}",
        )
