"""Two example renditions that show a rater the meaning of the scale."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf.collection import Segment
from rlhf.ratings import Rating

LEAST_RATED = 5
"""Minimum number of rated segments for choosing the examples by people's scores."""
_METRIC = "note_f1"


class Examples(NamedTuple):
    """Two segments of one passage, so that the rater hears the same music twice."""

    low: str
    """Name of a segment that stands for a score of about 20 in this collection."""
    high: str
    """Name of a segment that stands for a score of about 80 in this collection."""


def examples(
    segments: Sequence[Segment], ratings: Sequence[Rating], attribute: str
) -> Examples | None:
    """Chooses the renditions at the 20% and 80% ranks of the passage that differs most.

    People's mean scores for the attribute rank the renditions as soon as five segments have scores.
    Before that, the note-event F1 ranks them for quality as a whole, and other attributes have no
    examples.

    Args:
        segments: Segments of the collection.
        ratings: Ratings by people for the attribute.
        attribute: Attribute to be rated; empty for quality as a whole.

    Returns:
        The examples; None if the renditions cannot be ranked or are all equal.
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
