"""Turns errors of Ray into one-line exceptions."""

import re

import ray

from common.errors import OutOfMemory, PartFailed

_COLOR = re.compile(r"\x1b\[\d+m")
_USED = re.compile(r"was (\S+) used / (\S+) limit")


def part_failed(what: str, error: ray.exceptions.RayError) -> PartFailed:
    """Returns the exception for a part whose call ended in an error of Ray.

    Args:
        what: Description of what is wrong.
        error: Error of Ray.

    Returns:
        `OutOfMemory` if Ray ended the process for lack of memory, otherwise `PartFailed`.
    """
    text = _COLOR.sub("", str(error)).strip()
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        used = _USED.search(text)
        amount = f" ({used[1]} of {used[2]} used)" if used else ""
        return OutOfMemory(f"{what}: its machine is short of memory{amount}")
    first, *_, last = *text.splitlines(), text.splitlines()[-1]
    if isinstance(error, ray.exceptions.ActorDiedError):
        # An exception in the actor's constructor comes with its traceback.
        first = last if "creation task" in first else "its process died"
    return PartFailed(f"{what}: {first}")
