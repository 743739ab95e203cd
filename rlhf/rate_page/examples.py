"""Two renditions that show a rater how the scale is meant."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf.collection import Segment
from rlhf.ratings import Rating

LEAST_RATED = 5
"""Segments that people must have rated before their scores choose the examples."""
_METRIC = "note_f1"


class Examples(NamedTuple):
    """Of one passage, so that the same music is heard twice."""

    low: str
    """Name of a segment that stands for a score of about 20 in this collection."""
    high: str
    """Likewise, of about 80."""


def examples(
    segments: Sequence[Segment], ratings: Sequence[Rating], attribute: str
) -> Examples | None:
    """The renditions a fifth from below and a fifth from above, in the passage that differs most.

    They are ranked by people's mean scores for the attribute as soon as five segments have some.
    Before, quality as a whole is ranked by the note-event F1; of other attributes there are no
    examples then.

    Args:
        segments: of the collection.
        ratings: of people, for the attribute.
        attribute: empty for quality as a whole.

    Returns:
        None if nothing is known, or nothing is better than anything else.
    """
    scores: dict[str, list[int]] = {segment.name: [] for segment in segments}
    for rating in ratings:
        scores.get(rating.segment, []).append(rating.score)
    values = {name: float(np.mean(given)) for name, given in scores.items() if given}
    if len(values) < LEAST_RATED:
        measured = {segment.name: segment.metrics.get(_METRIC) for segment in segments}
        values = {name: value for name, value in measured.items() if value is not None}
        if attribute:
            return None
    return _most_different(segments, values)


def _most_different(segments: Sequence[Segment], values: Mapping[str, float]) -> Examples | None:
    passages: dict[object, list[str]] = {}
    for segment in segments:
        if segment.name in values:
            passages.setdefault(segment.planned.passage, []).append(segment.name)
    best, widest = None, 0.0
    for names in passages.values():
        ranked = sorted(names, key=lambda name: values[name])
        low, high = (ranked[round(share * (len(ranked) - 1))] for share in (0.2, 0.8))
        if values[high] - values[low] > widest:
            best, widest = Examples(low, high), values[high] - values[low]
    return best
