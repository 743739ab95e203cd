"""The journal of a training: what the replay servers take in is written beside it."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ray

from common.files import PackedFolder
from common.waiting import Patience, get_result
from replay import journal

_STEPS = 20_000
"""Transitions between entries, at most."""
_MOST_IN_ENTRY = 50_000
_WAIT_SECONDS = 1.0
_SERVER, _NO_ENTRY = "ReplayServer", "the replay server does not give what is new"


class Journaling:
    """Asks the replay servers in turn for what is new, and writes it.

    Args:
        servers: handles of the `ReplayServer` actors.
        folder: of the journal.
        capacity: of the replay: what it has no room for is removed.
        journaled: transitions of the run before.
        may_be_full: the context in which something of that name is written to the disk.
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

    def look(self, environment_steps: int) -> None:
        """Writes what has come, and asks for more if that is due; without waiting.

        Args:
            environment_steps: of the run.
        """
        self._take(0)
        if environment_steps - self._end >= _STEPS:
            self.begin()

    def begin(self) -> None:
        """Asks for what is new, unless that is under way."""
        if self._asked is None:
            self._to_ask = list(self._servers)
            self._ask()

    def finish(self) -> None:
        """Writes all that there is."""
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
        """Writes the entry that was asked for, waiting `seconds` for it; whether there was any."""
        if self._asked is None:
            return False
        if not ray.wait([self._asked], timeout=seconds)[0]:
            self._patience.look()
            return False
        entry: PackedFolder | None = get_result(self._asked, _SERVER, _NO_ENTRY)
        self._asked = None
        if entry is not None:
            self._end = journal.end_of(entry)
            with self._may_be_full("the journal of the replay"):
                entry.write(self._folder)
            journal.remove_older(self._folder, self._capacity)
        if self._to_ask:
            self._ask()
        return entry is not None
