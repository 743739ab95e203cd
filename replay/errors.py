"""The one exception for what a person gave and cannot be used.

It lives in the lowest room so that every room can raise it. The front door prints its
message as one line and exits with code 2; every other exception is a bug or a broken
machine and keeps its traceback.
"""


class BadInput(ValueError):
    """A file, flag or request cannot be used: the message says what, where and the mend."""


def require(condition: bool, message: str) -> None:
    """Raises `BadInput(message)` unless `condition` holds."""
    if not condition:
        raise BadInput(message)
