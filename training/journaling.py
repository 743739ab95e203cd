"""The journal of a training run: new transitions of the replay servers, written to disk."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ray

from common.files import PackedFolder
from common.waiting import Patience, get_result
from replay import journal

_STEPS = 20_000
"""Number of new transitions after which an entry is written."""
_MOST_IN_ENTRY = 50_000
_WAIT_SECONDS = 1.0
_SERVER, _NO_ENTRY = "ReplayServer", "the replay server does not give what is new"


class Journaling:
    """Fetches new transitions from the replay servers in turn, and writes them to the journal.

    Args:
        servers: Handles of the `ReplayServer` actors.
        folder: Folder of the journal.
        capacity: Capacity of the replay in transitions. Older entries are removed.
        journaled: Number of transitions that the run had before.
        may_be_full: Function that returns a context for writing to a disk that may be full. Its
            argument names the data that is written.
    """

    def __init__(
        self,
        servers: Sequence[Any],
        folder: pathlib.Path,
        capacity: int,
        journaled: int,
        may_be_full: Callable[[str], contextlib.AbstractContextManager[None]],
    ):
        self._servers = servers
        self._folder = folder
        self._capacity = capacity
        self._end = journaled
        self._may_be_full = may_be_full
        self._to_ask: list[Any] = []
        self._asked: ray.ObjectRef | None = None
        self._unwritten: PackedFolder | None = None

    def look(self, environment_steps: int) -> None:
        """Writes the entry that has arrived and requests the next one if due, without waiting.

        Args:
            environment_steps: Environment steps of the run so far.
        """
        self._take(0)
        # No server keeps more than the capacity.
        if environment_steps - self._end >= min(_STEPS, self._capacity // 2):
            self.begin()

    def begin(self) -> None:
        """Requests new transitions from all servers, unless a request is already pending.

        While the disk is full, the servers keep the transitions.
        """
        if self._asked is None and self._write():
            self._to_ask = list(self._servers)
            self._ask()

    def finish(self) -> None:
        """Writes all transitions that are not in the journal yet, if there is room on the disk."""
        is_new = True
        while is_new:
            self.begin()
            is_new = False
            while self._asked is not None:
                is_new |= self._take(_WAIT_SECONDS)

    def _ask(self) -> None:
        self._asked = self._to_ask.pop().take_new.remote(_MOST_IN_ENTRY, self._end)
        self._patience = Patience(_SERVER, _NO_ENTRY)

    def _take(self, seconds: float) -> bool:
        """Waits `seconds` for the requested entry and writes it; returns whether it existed."""
        if self._asked is None:
            return False
        if not ray.wait([self._asked], timeout=seconds)[0]:
            self._patience.look()
            return False
        entry: PackedFolder | None = get_result(self._asked, _SERVER, _NO_ENTRY)
        self._asked = None
        if entry is not None:
            self._end = journal.end_of(entry)
            self._unwritten = entry
        if self._write() and self._to_ask:
            self._ask()
        return entry is not None

    def _write(self) -> bool:
        """Writes the entry that has arrived, if any; returns whether none is left unwritten."""
        if self._unwritten is not None:
            with self._may_be_full("the journal of the replay"):
                self._unwritten.write(self._folder)
                self._unwritten = None
                journal.remove_older(self._folder, self._capacity)
        return self._unwritten is None
