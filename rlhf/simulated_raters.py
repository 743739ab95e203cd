"""Raters that are formulas, for studies and tests: they use the same door as people."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlhf.collection import Segment, Trajectory
from rlhf.ratings import HIGHEST_SCORE, LOWEST_SCORE, Rater, Ratings

# The mean change of an action from one control step to the next at which smoothness is 1 / e.
_ROUGH = 0.25

Quality = Callable[[Mapping[str, float | None], Trajectory], float]


def note_f1(metrics: Mapping[str, float | None], _trajectory: Trajectory) -> float:
    """The note-event F1: right notes in time, and no others."""
    return metrics["note_f1"] or 0.0


def smoothness(_metrics: Mapping[str, float | None], trajectory: Trajectory) -> float:
    """exp(-change / 0.25), from the mean change of an action in a control step."""
    change = np.abs(np.diff(trajectory.action, axis=0))
    return float(np.exp(-np.mean(change) / _ROUGH)) if change.size else 1.0


QUALITIES: dict[str, Quality] = {"note-f1": note_f1, "smoothness": smoothness}
"""What each simulated rater listens for: a number from 0 to 1."""


def score(quality: float) -> int:
    """The score that goes with a quality: 1 for 0 and 100 for 1."""
    return _whole(_points(quality))


def rate(
    segments: Sequence[Segment],
    ratings: Ratings,
    listens_for: str,
    raters: int = 1,
    noise: float = 0.0,
    disagreement: float = 0.0,
    seed: int = 0,
) -> list[Rater]:
    """Has simulated raters rate every segment.

    Args:
        segments: to be rated.
        ratings: where the scores go.
        listens_for: a name in `QUALITIES`.
        raters: how many.
        noise: standard deviation, in points, of what a rater's score varies by from one segment
            to the next.
        disagreement: how far raters differ from one another throughout: the standard deviation,
            in points, of each one's own offset, and in per cent, of each one's own spread.
        seed: of all of that.

    Returns:
        The raters, named after what they listen for.

    Raises:
        BadInput: a person has the same name.
    """
    quality = QUALITIES[listens_for]
    points = np.array([_points(quality(s.metrics, s.trajectory())) for s in segments])
    given = []
    for number in range(raters):
        random = np.random.default_rng((seed, number))
        name = listens_for if raters == 1 else f"{listens_for} {number + 1}"
        rater = Rater(f"simulated {name}", "simulated")
        offset, spread = random.normal(0.0, disagreement, 2)
        middle = points.mean()
        personal = middle + offset + (points - middle) * np.exp(spread / 100)
        scores = personal + random.normal(0.0, noise, len(points))
        for segment, value in zip(segments, scores, strict=True):
            ratings.rate(rater, segment.name, _whole(value))
        given.append(rater)
    return given


def _points(quality: float) -> float:
    return LOWEST_SCORE + (HIGHEST_SCORE - LOWEST_SCORE) * quality


def _whole(points: float) -> int:
    return int(np.clip(round(points), LOWEST_SCORE, HIGHEST_SCORE))
