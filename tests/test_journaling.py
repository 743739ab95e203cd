"""The journal of a training: asked for in time, and kept while the disk is full."""

import contextlib
import errno
import types

import numpy as np
import pytest

from common.files import PackedFolder
from replay import journal
from training import journaling
from training.journaling import Journaling


class Server:
    """Has so many transitions more at each call, and no more than it is asked for."""

    def __init__(self, *more):
        self.more = list(more)
        self.calls = 0
        self.take_new = types.SimpleNamespace(remote=self.take)

    def take(self, _most, first):
        self.calls += 1
        transitions = self.more.pop(0) if self.more else 0
        rows = np.full((transitions + 1, 5), self.calls, np.float32)
        return (journal.pack(first, [rows]) if transitions else None,)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Servers answer at once: how Ray sends is not under test."""
    monkeypatch.setattr(journaling.ray, "wait", lambda asked, **_: (asked, []))
    monkeypatch.setattr(journaling, "get_result", lambda answer, *_: answer[0])


@pytest.fixture
def disk(monkeypatch):
    """The disk to which entries are written."""
    disk, write = types.SimpleNamespace(is_full=False), PackedFolder.write

    def write_if_there_is_room(folder, parent):
        if disk.is_full:
            raise OSError(errno.ENOSPC, "full")
        return write(folder, parent)

    monkeypatch.setattr(PackedFolder, "write", write_if_there_is_room)
    return disk


@contextlib.contextmanager
def may_be_full(_what):
    with contextlib.suppress(OSError):
        yield


def held(folder):
    return [path.name.split("_")[1:] for path in journal.entries(folder)]


def numbers(*bounds):
    return [[f"{number:012d}" for number in pair] for pair in bounds]


def test_all_servers_are_asked_and_numbers_go_on_from_one_to_the_next(tmp_path):
    servers = [Server(30, 4), Server(20)]
    writing = Journaling(servers, tmp_path, 1000, 100, may_be_full)
    writing.finish()
    assert held(tmp_path) == numbers((100, 120), (120, 150), (150, 154))


def test_an_entry_is_asked_for_before_servers_drop_what_they_cannot_keep(tmp_path):
    server = Server(600)
    writing = Journaling([server], tmp_path, 1200, 0, may_be_full)
    writing.look(599)
    assert server.calls == 0
    writing.look(600)
    writing.look(601)
    assert held(tmp_path) == numbers((0, 600))


def test_what_a_full_disk_refuses_is_written_when_there_is_room(tmp_path, disk):
    server = Server(600, 600)
    writing = Journaling([server], tmp_path, 1200, 0, may_be_full)
    disk.is_full = True
    for steps in (600, 601, 1300):
        writing.look(steps)
    writing.finish()
    assert server.calls == 1  # The server keeps the rest.
    assert held(tmp_path) == []
    disk.is_full = False
    writing.finish()
    assert held(tmp_path) == numbers((0, 600), (600, 1200))
