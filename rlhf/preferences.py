"""From ratings to preferences: which segment is better than which."""

from collections.abc import Sequence

import numpy as np

from replay.errors import require
from rlhf.ratings import Comparison, Rating


def preferences(
    names: Sequence[str], ratings: Sequence[Rating], comparisons: Sequence[Comparison] = ()
) -> np.ndarray:
    """All preferences that ratings and comparisons hold.

    Each rater's scores are brought to mean 0 and standard deviation 1, and averaged over raters;
    who has given all segments the same score says nothing. n segments rated so then give all
    ordered pairs of different scores: n (n - 1) / 2 less ties. Each answer to a direct
    comparison adds its own.

    Args:
        names: of the N segments, in the order of the rows; what is said of others is left out.
        ratings: of one or several raters, at most one of each for a segment.
        comparisons: likewise.

    Returns:
        (N, N) float32: how often row is preferred over column; 0 where nobody says so.

    Raises:
        BadInput: there is no pair.
    """
    number = {name: i for i, name in enumerate(names)}
    ratings = [rating for rating in ratings if rating.segment in number]
    comparisons = [c for c in comparisons if c.first in number and c.second in number]
    # NaN is neither above nor below anything; rounding makes equal what was rated equal.
    score = np.round(_mean_scores(number, ratings), 9)
    weight = (score[:, None] > score[None, :]).astype(np.float32)
    for comparison in comparisons:
        if comparison.preferred != "neither":
            pair = [number[comparison.first], number[comparison.second]]
            preferred, rejected = pair if comparison.preferred == "first" else reversed(pair)
            weight[preferred, rejected] += 1
    rated = len({rating.segment for rating in ratings})
    require(
        rated + len(comparisons) > 0,
        "nobody has rated this collection yet: pianist rate shows it to people",
    )
    found = {0: "all comparisons say neither", 1: "only one segment has been rated"}.get(
        rated, f"of {rated} rated segments none is better than another"
    )
    require(bool(weight.any()), f"{found}: there is no pair to learn from; rate more segments")
    return weight


def _mean_scores(number: dict[str, int], ratings: Sequence[Rating]) -> np.ndarray:
    raters = sorted({rating.rater for rating in ratings})
    scores = np.full((len(raters), len(number)), np.nan)
    for rating in ratings:
        scores[raters.index(rating.rater), number[rating.segment]] = rating.score
    spread = np.nanstd(scores, axis=1, keepdims=True)
    # Without those who say nothing: their zeros would draw what they rated towards the middle.
    scores = (scores - np.nanmean(scores, axis=1, keepdims=True)) / np.where(spread, spread, np.nan)
    count = np.isfinite(scores).sum(axis=0)
    return np.where(count > 0, np.nansum(scores, axis=0) / np.maximum(count, 1), np.nan)


def pairs(weight: np.ndarray) -> np.ndarray:
    """(P, 2) int: all ordered pairs of preferences (N, N), the preferred segment first."""
    return np.argwhere(weight > 0)


def best(weight: np.ndarray, fraction: float) -> np.ndarray:
    """The segments that are preferred most often, (M,) int, best first.

    Args:
        weight: preferences (N, N).
        fraction: of the segments that are in any pair; at least one is taken.
    """
    wins, losses = weight.sum(axis=1), weight.sum(axis=0)
    seen = np.flatnonzero(wins + losses)
    share = wins[seen] / (wins + losses)[seen]
    return seen[np.argsort(-share, kind="stable")][: max(1, round(fraction * len(seen)))]


def split(
    weight: np.ndarray, validation_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits by segment: no segment of a validation pair is in any training pair.

    Pairs of a training and a validation segment belong to neither.

    Args:
        weight: all preferences (N, N).
        validation_fraction: of the segments that are in any pair; 0 keeps all for training.
        seed: of the draw.

    Returns:
        Preferences (N, N) for training, and for validation (without any, where there are too
        few segments).

    Raises:
        BadInput: no pair is left for training.
    """
    drawn = np.random.default_rng(seed).permutation(np.unique(pairs(weight)))
    count = round(validation_fraction * len(drawn))
    if count == 1:  # It makes no pair, and would only be lost.
        count = 0
    training, validation = _among(weight, drawn[count:]), _among(weight, drawn[:count])
    require(
        bool(training.any()),
        f"no pair is left to learn from after {count} of {len(drawn)} segments were held out: "
        "rate more, or lower --validation-fraction",
    )
    return training, validation


def _among(weight: np.ndarray, segments: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(weight), np.float32)
    inside[segments] = 1
    return weight * np.outer(inside, inside)
