"""The SQLite file of ratings: its tables, and upgrades of files from earlier versions."""

import pathlib
import sqlite3
import time

from common.errors import BadInput

_SCHEMA = """
CREATE TABLE IF NOT EXISTS raters (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('person', 'simulated'))
);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    rater TEXT NOT NULL REFERENCES raters (name),
    kind TEXT NOT NULL CHECK (kind IN ('rating', 'comparison', 'skip')),
    first TEXT NOT NULL,
    second TEXT CHECK ((second IS NOT NULL) = (kind = 'comparison')),
    score INTEGER CHECK (score BETWEEN 1 AND 100),
    preferred TEXT CHECK (preferred IN ('first', 'second', 'neither')),
    comment TEXT NOT NULL DEFAULT '',
    withdrawn INTEGER NOT NULL DEFAULT 0,
    attribute TEXT NOT NULL DEFAULT '',
    repetition INTEGER NOT NULL DEFAULT 0,
    CHECK ((score IS NOT NULL) = (kind = 'rating')),
    CHECK ((preferred IS NOT NULL) = (kind = 'comparison'))
);
"""

_ADDED = {
    "attribute": "TEXT NOT NULL DEFAULT ''",
    "repetition": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns that files from earlier versions lack."""

_LOCK_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


def open_ratings(path: pathlib.Path) -> sqlite3.Connection:
    """Opens the file, or creates it if missing; several processes may do so at the same time.

    Raises:
        BadInput: The file is not a ratings file.
    """
    try:
        database = sqlite3.connect(path, timeout=_LOCK_SECONDS, check_same_thread=False)
        # Every commit is on the disk before it returns, so a crash loses no answer.
        _write_ahead(database)
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.executescript(_SCHEMA)
        database.execute("SELECT rater, first, score FROM answers LIMIT 1")
        if _missing(database):
            _add_columns(database)
    except sqlite3.Error as error:
        raise BadInput(f"the ratings {path} cannot be opened: {error}") from error
    return database


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switches to the write-ahead log, and waits for its lock, which SQLite itself does not."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _missing(database: sqlite3.Connection) -> list[str]:
    known = {row[1] for row in database.execute("PRAGMA table_info(answers)")}
    return [name for name in _ADDED if name not in known]


def _add_columns(database: sqlite3.Connection) -> None:
    with database:
        # Another process may be adding the columns: check again once the lock is held.
        database.execute("BEGIN IMMEDIATE")
        for name in _missing(database):
            database.execute(f"ALTER TABLE answers ADD COLUMN {name} {_ADDED[name]}")
