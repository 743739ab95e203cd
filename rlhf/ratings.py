"""Ratings and comparisons, kept in SQLite; whoever gave one is named with it.

People and simulated raters come through the same door, `Ratings`. Nothing is ever removed: an
answer that is corrected or taken back stays in the file, marked as such.
"""

import pathlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from replay.errors import BadInput, require

LOWEST_SCORE, HIGHEST_SCORE = 1, 100
LONGEST_NAME, _LONGEST_COMMENT = 60, 2_000

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
    CHECK ((score IS NOT NULL) = (kind = 'rating')),
    CHECK ((preferred IS NOT NULL) = (kind = 'comparison'))
);
"""

Kind = Literal["person", "simulated"]
Preferred = Literal["first", "second", "neither"]


class Rater(NamedTuple):
    """Who gives ratings."""

    name: str
    kind: Kind


class Rating(NamedTuple):
    """How good a segment is."""

    rater: Rater
    segment: str
    score: int
    """1 to 100."""
    comment: str
    time: float
    """Unix seconds."""


class Comparison(NamedTuple):
    """Which of two segments is better."""

    rater: Rater
    first: str
    second: str
    preferred: Preferred
    time: float
    """Unix seconds."""


class Ratings:
    """The ratings of a collection, safe on the disk as soon as a call returns.

    May be used from several threads, and the file from several processes.

    Args:
        path: of the SQLite file; made if missing.
        segments: names that can be rated.

    Raises:
        BadInput: the file is not of ratings.
    """

    def __init__(self, path: pathlib.Path, segments: Sequence[str]):
        self._segments = frozenset(segments)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
            # Every commit is on the disk before it returns, whatever happens to the process.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA foreign_keys = ON")
            with self._database:
                self._database.executescript(_SCHEMA)
                self._database.execute("SELECT rater, first, score FROM answers LIMIT 1")
        except sqlite3.Error as error:
            raise BadInput(f"the ratings {path} cannot be opened: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    # --- Answers ----------------------------------------------------------------------------

    def rate(self, rater: Rater, segment: str, score: int, comment: str = "") -> None:
        """Keeps a score; it replaces an earlier one of the same rater for this segment.

        Raises:
            BadInput: the score is not a whole number from 1 to 100, there is no such segment,
                or the name is taken by a rater of the other kind.
        """
        require(
            type(score) is int and LOWEST_SCORE <= score <= HIGHEST_SCORE,
            f"the score is {score!r}, must be a whole number from {LOWEST_SCORE} to "
            f"{HIGHEST_SCORE}",
        )
        require(
            len(comment) <= _LONGEST_COMMENT,
            f"the comment has {len(comment)} characters, at most {_LONGEST_COMMENT} are kept",
        )
        self._add(rater, "rating", segment, None, score, None, comment)

    def compare(self, rater: Rater, first: str, second: str, preferred: Preferred) -> None:
        """Keeps which of two is better; it replaces an earlier answer on the same two.

        Raises:
            BadInput: as `rate` does, or both are the same segment.
        """
        require(first != second, "a segment cannot be compared with itself")
        require(
            preferred in ("first", "second", "neither"),
            f"preferred is {preferred!r}, must be first, second or neither",
        )
        self._add(rater, "comparison", first, second, None, preferred)

    def skip(self, rater: Rater, segment: str) -> None:
        """Keeps that a rater would rather not rate a segment; a rating later overrides it.

        Raises:
            BadInput: there is no such segment.
        """
        self._add(rater, "skip", segment, None, None, None)

    def undo(self, rater: Rater) -> list[str]:
        """Takes back a rater's last answer.

        Returns:
            The segments that it was about; none if there was no answer.
        """
        with self._lock, self._database:
            last = self._database.execute(
                "SELECT id, first, second FROM answers JOIN raters ON raters.name = rater "
                "WHERE rater = ? AND raters.kind = ? AND NOT withdrawn ORDER BY id DESC LIMIT 1",
                rater,
            ).fetchone()
            if last is None:
                return []
            self._database.execute("UPDATE answers SET withdrawn = 1 WHERE id = ?", last[:1])
        return [name for name in last[1:] if name is not None]

    def _add(
        self,
        rater: Rater,
        kind: str,
        first: str,
        second: str | None,
        score: int | None,
        preferred: str | None,
        comment: str = "",
    ) -> None:
        for segment in (first, second):
            require(
                segment is None or segment in self._segments,
                f"there is no segment {segment!r} in this collection",
            )
        require(
            len(rater.name.strip()) > 0 and len(rater.name) <= LONGEST_NAME,
            f"a rater's name has 1 to {LONGEST_NAME} characters, not {len(rater.name)}",
        )
        with self._lock, self._database:
            self._database.execute("INSERT OR IGNORE INTO raters VALUES (?, ?)", rater)
            known = self._database.execute(
                "SELECT kind FROM raters WHERE name = ?", (rater.name,)
            ).fetchone()[0]
            require(
                known == rater.kind,
                f"{rater.name} is the name of a {known} rater in this collection: choose another",
            )
            self._database.execute(
                "INSERT INTO answers (time, rater, kind, first, second, score, preferred, comment)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (time.time(), rater.name, kind, first, second, score, preferred, comment),
            )

    # --- What has been answered -------------------------------------------------------------

    def raters(self) -> list[Rater]:
        """All who have answered, by name."""
        return [Rater(*row) for row in self._rows("SELECT name, kind FROM raters ORDER BY name")]

    def ratings(self) -> list[Rating]:
        """The ratings that hold, oldest first: of each rater and segment the last one.

        A segment skipped after it was rated counts as not rated.
        """
        return [
            Rating(Rater(name, kind), segment, score, comment, when)
            for name, kind, segment, score, comment, when, answer in self._rows(
                """
                SELECT rater, raters.kind, first, score, comment, time, answers.kind FROM answers
                JOIN raters ON raters.name = rater
                WHERE id IN (SELECT MAX(id) FROM answers WHERE second IS NULL AND NOT withdrawn
                             GROUP BY rater, first)
                ORDER BY id
                """
            )
            if answer == "rating"
        ]

    def comparisons(self) -> list[Comparison]:
        """The comparisons that hold, oldest first: of each rater and pair the last one."""
        return [
            Comparison(Rater(name, kind), first, second, preferred, when)
            for name, kind, first, second, preferred, when in self._rows(
                """
                SELECT rater, raters.kind, first, second, preferred, time FROM answers
                JOIN raters ON raters.name = rater
                WHERE id IN (SELECT MAX(id) FROM answers
                             WHERE answers.kind = 'comparison' AND NOT withdrawn
                             GROUP BY rater, MIN(first, second), MAX(first, second))
                ORDER BY id
                """
            )
        ]

    def answered(self, rater: str) -> list[str]:
        """Segments that a rater has rated or skipped, in the order of the answers."""
        return [
            row[0]
            for row in self._rows(
                "SELECT first FROM answers WHERE rater = ? AND second IS NULL AND NOT withdrawn "
                "GROUP BY first ORDER BY MAX(id)",
                (rater,),
            )
        ]

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[tuple]:
        with self._lock:
            return self._database.execute(query, values).fetchall()
