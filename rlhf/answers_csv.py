"""Export of all answers of a collection as a CSV table for other programs."""

import csv
import datetime
import pathlib
from collections.abc import Sequence

from common.errors import BadInput
from rlhf.collection import PlannedSegment
from rlhf.ratings import Answer

COLUMNS = (
    "time", "rater", "rater_kind", "kind", "attribute", "repetition", "state", "score",
    "preferred", "comment", "song", "first_step", "last_step",
    "first", "first_checkpoint", "first_variation", "second", "second_checkpoint",
    "second_variation",
)  # fmt: skip
"""Column names in the first line. Times are ISO 8601 in UTC. first_step and last_step bound the
passage of the first segment, which is also the passage of the second."""


def write_csv(
    file: pathlib.Path, answers: Sequence[Answer], segments: Sequence[PlannedSegment]
) -> None:
    """Writes one line per answer, oldest first; an existing file is overwritten.

    Args:
        file: File to be written, in UTF-8.
        answers: Answers as `rlhf.ratings.Ratings.answers` returns them.
        segments: Segments of the collection. Answers about other segments get no passage and no
            checkpoint.

    Raises:
        BadInput: The file cannot be written.
    """
    planned = {segment.name: segment for segment in segments}
    try:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows(_row(answer, planned) for answer in answers)
    except OSError as error:
        raise BadInput(f"--export {file} cannot be written: {error.strerror}") from error


def _row(answer: Answer, planned: dict[str, PlannedSegment]) -> list[object]:
    first = planned.get(answer.first)
    passage = [None] * 3 if first is None else [first.song, first.first_step, first.last_step]
    time = datetime.datetime.fromtimestamp(answer.time, datetime.timezone.utc)
    return [
        time.isoformat(timespec="milliseconds"), answer.rater.name, answer.rater.kind, answer.kind,
        answer.attribute, int(answer.repetition), answer.state, answer.score, answer.preferred,
        answer.comment, *passage, *_made(answer.first, planned), *_made(answer.second, planned),
    ]  # fmt: skip


def _made(name: str | None, planned: dict[str, PlannedSegment]) -> list[str | None]:
    """Returns name, checkpoint and variation of a segment."""
    segment = planned.get(name or "")
    if segment is None:
        return [name, None, None]
    return [name, segment.checkpoint, segment.variation.describe()]
