"""Writing to a disk that may be full."""

import contextlib
import errno
from collections.abc import Callable, Iterator


class Disk:
    """Writes that may fail because the disk is full, without stopping the training.

    Args:
        say: Function that prints a line for people.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._full: set[str] = set()

    @contextlib.contextmanager
    def may_be_full(self, what: str) -> Iterator[None]:
        """Prints one message when the disk has no space for `what`, and one when it has again.

        Args:
            what: Name of the data that the block writes.

        Raises:
            OSError: The block failed for another reason than a full disk.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if what not in self._full:
                self._full.add(what)
                self._say(f"the disk is full: {what} cannot be written; training continues")
        else:
            if what in self._full:
                self._full.remove(what)
                self._say(f"there is room on the disk again for {what}")
