"""Exceptions whose message is all that a user needs, so that the CLI shows no traceback.

`BadInput` is for user input that cannot be used (exit code 2). `PartFailed` is for processes that
died or do not answer (exit code 1). Every other exception is a bug and keeps its traceback.
"""

import math


class BadInput(ValueError):
    """A file, flag or request cannot be used; the message says what, where and how to fix it."""


class PartFailed(RuntimeError):
    """A process of a run died or does not answer; the message says which one, and what is known."""


class OutOfMemory(PartFailed):
    """Ray ended a process of a run because its machine was short of memory."""


def require(condition: bool, message: str) -> None:
    """Raises `BadInput(message)` unless `condition` holds."""
    if not condition:
        raise BadInput(message)


def require_range(
    config: object, *names: str, least: float, most: float = math.inf, unit: str = ""
) -> None:
    """Checks that settings are in range.

    Args:
        config: Settings. Their attributes are named like their flags, with underscores for hyphens.
        names: Names of the settings to check. Each value is a number, or None, which is in every
            range.
        least: Smallest allowed value.
        most: Greatest allowed value.
        unit: Unit of the range, for users.

    Raises:
        BadInput: A value is out of range; the message names the flag, its value and the range.
    """
    allowed = f"at least {least}" if most == math.inf else f"{least} to {most} {unit}".rstrip()
    for name in names:
        value = getattr(config, name)
        require(
            value is None or least <= value <= most,
            f"--{name.replace('_', '-')} is {value}, must be {allowed}",
        )


def summarize_error(error: object) -> str:
    """Returns the most informative line of an error: the last of a traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1 if "Traceback" in str(error) else 0]
