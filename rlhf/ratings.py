"""Ratings and comparisons, stored in SQLite with the rater's name.

People and simulated raters both use `Ratings`. Nothing is ever removed: an answer that is corrected
or taken back stays in the file and is marked.

Every answer is about an attribute, such as "even"; the empty attribute is quality as a whole. Each
query is for one attribute, so answers about different attributes are never mixed. Every answer is
either the first one to its question or a repetition. A repetition answers a question that was asked
again to measure the rater's consistency. Queries exclude repetitions by default.
"""

import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from common.errors import require
from rlhf.ratings_file import open_ratings

LOWEST_SCORE, HIGHEST_SCORE = 1, 100
LONGEST_NAME, LONGEST_ATTRIBUTE, _LONGEST_COMMENT = 60, 40, 2_000

# Selects the last answer to each rater's question about an attribute that is not taken back.
_HOLDING = """
SELECT MAX(id) FROM answers WHERE NOT withdrawn
GROUP BY rater, attribute, repetition, second IS NULL,
         MIN(first, IFNULL(second, first)), MAX(first, IFNULL(second, first))
"""

Kind = Literal["person", "simulated"]
Preferred = Literal["first", "second", "neither"]
State = Literal["holds", "replaced", "taken back"]


class Rater(NamedTuple):
    """A person or simulated rater who gives answers."""

    name: str
    kind: Kind


class Rating(NamedTuple):
    """Score of a segment, for quality as a whole or for one attribute."""

    rater: Rater
    segment: str
    score: int
    """Score from 1 to 100."""
    comment: str
    time: float
    """Time of the answer, in Unix seconds."""


class Comparison(NamedTuple):
    """Comparison of two segments, in quality as a whole or in one attribute."""

    rater: Rater
    first: str
    second: str
    preferred: Preferred
    """Preferred segment; "neither" is a tie: the rater cannot tell."""
    time: float
    """Time of the answer, in Unix seconds."""


class Answer(NamedTuple):
    """One answer as it was given; `state` says whether it still holds."""

    time: float
    """Time of the answer, in Unix seconds."""
    rater: Rater
    kind: Literal["rating", "comparison", "skip"]
    attribute: str
    repetition: bool
    """Whether the question was asked again."""
    state: State
    first: str
    """Name of the segment; in a comparison, name of the first segment."""
    second: str | None
    score: int | None
    preferred: Preferred | None
    comment: str


class TakenBack(NamedTuple):
    """Question whose answer has been taken back."""

    segments: tuple[str, ...]
    repetition: bool


class Ratings:
    """The ratings of a collection; each answer is safe on the disk when the call returns.

    Several threads may share an instance, and several processes may share the file.

    Args:
        path: Path of the SQLite file; created if missing.
        segments: Names of the segments that can be rated.

    Raises:
        BadInput: The file is not a ratings file.
    """

    def __init__(self, path: pathlib.Path, segments: Sequence[str]):
        self._segments = frozenset(segments)
        self._lock = threading.Lock()
        self._database = open_ratings(path)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    # --- Answers ----------------------------------------------------------------------------

    def rate(
        self,
        rater: Rater,
        segment: str,
        score: int,
        comment: str = "",
        attribute: str = "",
        repetition: bool = False,
    ) -> None:
        """Stores a score, which replaces an earlier one for the same segment and attribute.

        Args:
            rater: Rater who gives the score.
            segment: Name of the segment.
            score: Score from 1 to 100.
            comment: Comment of at most 2,000 characters.
            attribute: Attribute that is scored; empty for quality as a whole.
            repetition: Whether the question was asked again. The first score then stays as it is.

        Raises:
            BadInput: The score is not a whole number from 1 to 100, the segment does not exist, the
                name or comment or attribute has a wrong length, a rater of the other kind has the
                same name, or there is no answer to repeat.
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
        self._add(
            _Entry(rater, "rating", segment, None, score, None, comment), attribute, repetition
        )

    def compare(
        self,
        rater: Rater,
        first: str,
        second: str,
        preferred: Preferred,
        attribute: str = "",
        repetition: bool = False,
    ) -> None:
        """Stores a comparison, which replaces an earlier one of the same two segments.

        Args:
            rater: Rater who compares.
            first: Name of the first segment.
            second: Name of the second segment.
            preferred: Preferred segment; "neither" if the rater cannot tell.
            attribute: Attribute that is compared; empty for quality as a whole.
            repetition: Whether the question was asked again. The first answer then stays as it is.

        Raises:
            BadInput: Both are the same segment, or `rate` would reject segment, rater, attribute or
                repetition.
        """
        require(first != second, "a segment cannot be compared with itself")
        require(
            preferred in ("first", "second", "neither"),
            f"preferred is {preferred!r}, must be first, second or neither",
        )
        self._add(
            _Entry(rater, "comparison", first, second, None, preferred), attribute, repetition
        )

    def skip(
        self, rater: Rater, segment: str, attribute: str = "", repetition: bool = False
    ) -> None:
        """Stores that a rater skips a segment; a later rating overrides it.

        Raises:
            BadInput: `rate` would reject segment, rater, attribute or repetition.
        """
        self._add(_Entry(rater, "skip", segment, None, None, None), attribute, repetition)

    def undo(self, rater: Rater, attribute: str = "") -> TakenBack | None:
        """Takes back a rater's last answer about an attribute.

        Returns:
            The question; None if there was no answer.
        """
        with self._lock, self._database:
            last = self._database.execute(
                "SELECT id, repetition, first, second FROM answers "
                "JOIN raters ON raters.name = rater "
                "WHERE rater = ? AND raters.kind = ? AND attribute = ? AND NOT withdrawn "
                "ORDER BY id DESC LIMIT 1",
                (*rater, attribute),
            ).fetchone()
            if last is None:
                return None
            self._database.execute("UPDATE answers SET withdrawn = 1 WHERE id = ?", last[:1])
        return TakenBack(tuple(name for name in last[2:] if name is not None), bool(last[1]))

    def _add(self, entry: "_Entry", attribute: str, repetition: bool) -> None:
        rater = entry.rater
        for segment in (entry.first, entry.second):
            require(
                segment is None or segment in self._segments,
                f"there is no segment {segment!r} in this collection",
            )
        require(
            len(rater.name.strip()) > 0 and len(rater.name) <= LONGEST_NAME,
            f"a rater's name has 1 to {LONGEST_NAME} characters, not {len(rater.name)}",
        )
        require(
            len(attribute) <= LONGEST_ATTRIBUTE,
            f"the attribute has {len(attribute)} characters, at most {LONGEST_ATTRIBUTE} are kept",
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
            if repetition:
                self._require_answered(entry, attribute)
            self._database.execute(
                "INSERT INTO answers (time, rater, kind, first, second, score, preferred, comment,"
                " attribute, repetition) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (time.time(), rater.name, *entry[1:], attribute, repetition),
            )

    def _require_answered(self, entry: "_Entry", attribute: str) -> None:
        pair = sorted((entry.first, entry.second or entry.first))
        found = self._database.execute(
            "SELECT 1 FROM answers WHERE rater = ? AND attribute = ? AND NOT repetition "
            "AND NOT withdrawn AND (second IS NULL) = ? AND MIN(first, IFNULL(second, first)) = ? "
            "AND MAX(first, IFNULL(second, first)) = ?",
            (entry.rater.name, attribute, entry.second is None, *pair),
        ).fetchone()
        require(found is not None, "there is no answer of yours that this could repeat")

    # --- Queries ----------------------------------------------------------------------------

    def raters(self) -> list[Rater]:
        """Returns all raters who have answered, by name."""
        return [Rater(*row) for row in self._rows("SELECT name, kind FROM raters ORDER BY name")]

    def attributes(self) -> list[str]:
        """Returns all attributes with answers that hold; the empty attribute comes first."""
        query = "SELECT DISTINCT attribute FROM answers WHERE NOT withdrawn ORDER BY attribute"
        return [row[0] for row in self._rows(query)]

    def ratings(self, attribute: str = "", repetition: bool = False) -> list[Rating]:
        """Returns the ratings that hold, oldest first: the last one per rater and segment.

        A segment that was skipped after its rating counts as not rated.

        Args:
            attribute: Attribute of the ratings; empty for quality as a whole.
            repetition: Whether answers to repeated questions are returned instead.
        """
        return [
            Rating(one.rater, one.first, one.score, one.comment, one.time)
            for one in self._holding(attribute, repetition)
            if one.score is not None
        ]

    def comparisons(self, attribute: str = "", repetition: bool = False) -> list[Comparison]:
        """Returns the comparisons that hold, oldest first: the last one per rater and pair.

        Ties are included. The arguments are those of `ratings`.
        """
        return [
            Comparison(one.rater, one.first, one.second, one.preferred, one.time)
            for one in self._holding(attribute, repetition)
            if one.second is not None and one.preferred is not None
        ]

    def answered(self, rater: str, attribute: str = "", repetition: bool = False) -> list[str]:
        """Returns the segments that a rater has rated or skipped, in the order of the answers."""
        return [
            one.first
            for one in self._holding(attribute, repetition)
            if one.rater.name == rater and one.second is None
        ]

    def answers(self) -> list[Answer]:
        """Returns all answers ever given, about all attributes, oldest first."""
        return self._answers("")

    def _holding(self, attribute: str, repetition: bool) -> list[Answer]:
        chosen = "WHERE state = 'holds' AND attribute = ? AND repetition = ?"
        return self._answers(chosen, (attribute, repetition))

    def _answers(self, chosen: str, values: Sequence[str | bool] = ()) -> list[Answer]:
        query = f"""
            SELECT * FROM (
                SELECT id, rater, raters.kind, time, answers.kind, attribute, repetition,
                       CASE WHEN withdrawn THEN 'taken back'
                            WHEN id IN ({_HOLDING}) THEN 'holds' ELSE 'replaced' END AS state,
                       first, second, score, preferred, comment
                FROM answers JOIN raters ON raters.name = rater
            ) {chosen} ORDER BY id
        """
        return [
            Answer(when, Rater(name, of), kind, attribute, bool(repetition), *rest)
            for _, name, of, when, kind, attribute, repetition, *rest in self._rows(query, values)
        ]

    def _rows(self, query: str, values: Sequence[str | bool] = ()) -> list[tuple]:
        with self._lock:
            return self._database.execute(query, values).fetchall()


class _Entry(NamedTuple):
    """One answer to be stored."""

    rater: Rater
    kind: str
    first: str
    second: str | None
    score: int | None
    preferred: str | None
    comment: str = ""
