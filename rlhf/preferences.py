"""Preferences between segments, derived from ratings and comparisons."""

from collections.abc import Sequence

import numpy as np

from common.errors import require
from rlhf.ratings import Comparison, Rating

_FEWEST_PASSAGES = 3
"""Minimum number of passages for holding out whole passages."""


def preferences(
    names: Sequence[str],
    ratings: Sequence[Rating],
    comparisons: Sequence[Comparison] = (),
    passages: Sequence[object] | None = None,
) -> np.ndarray:
    """Derives all preferences from ratings and comparisons.

    The scores of each rater are standardized to mean 0 and standard deviation 1, and then averaged
    over raters. A rater with the same score for all segments is ignored. n rated segments give one
    preference per pair with different mean scores: n (n - 1) / 2 minus ties. Each direct comparison
    other than a tie adds one preference.

    Args:
        names: Names of the N segments, in the order of the rows; answers about other segments are
            ignored.
        ratings: Ratings of one or more raters, at most one per rater and segment.
        comparisons: Comparisons of one or more raters, at most one per rater and pair.
        passages: Passage of each segment; pairs are formed only within a passage. By default all
            segments belong to one passage.

    Returns:
        (N, N) float32 number of times that row is preferred over column.

    Raises:
        BadInput: There is no pair with a preference.
    """
    number = {name: i for i, name in enumerate(names)}
    ratings = [rating for rating in ratings if rating.segment in number]
    comparisons = [c for c in comparisons if c.first in number and c.second in number]
    # Comparisons with NaN are false. Rounding makes equally rated segments exactly equal.
    score = np.round(_mean_scores(number, ratings), 9)
    weight = (score[:, None] > score[None, :]).astype(np.float32)
    for comparison in comparisons:
        if comparison.preferred != "neither":
            pair = [number[comparison.first], number[comparison.second]]
            preferred, rejected = pair if comparison.preferred == "first" else reversed(pair)
            weight[preferred, rejected] += 1
    if passages is not None:
        index = {passage: i for i, passage in enumerate(passages)}
        of = np.array([index[passage] for passage in passages])
        weight *= of[:, None] == of[None, :]
    rated = len({rating.segment for rating in ratings})
    require(
        rated + len(comparisons) > 0,
        "this collection has no ratings yet: pianist rate shows it to people",
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
    # Raters without spread become NaN: zeros would pull the segments they rated to the middle.
    scores = (scores - np.nanmean(scores, axis=1, keepdims=True)) / np.where(spread, spread, np.nan)
    count = np.isfinite(scores).sum(axis=0)
    return np.where(count > 0, np.nansum(scores, axis=0) / np.maximum(count, 1), np.nan)


def pairs(weight: np.ndarray) -> np.ndarray:
    """Returns (P, 2) int: all pairs with a preference in (N, N), the preferred segment first."""
    return np.argwhere(weight > 0)


def best(weight: np.ndarray, fraction: float) -> np.ndarray:
    """Returns the segments that are preferred most often, (M,) int, best first.

    Args:
        weight: Preferences (N, N).
        fraction: Share of the segments with a preference that is returned; at least one segment.
    """
    wins, losses = weight.sum(axis=1), weight.sum(axis=0)
    seen = np.flatnonzero(wins + losses)
    share = wins[seen] / (wins + losses)[seen]
    return seen[np.argsort(-share, kind="stable")][: max(1, round(fraction * len(seen)))]


def split(
    weight: np.ndarray,
    validation_fraction: float,
    seed: int,
    passages: Sequence[object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits preferences into a training part and a validation part that share no segment.

    Whole passages are held out, so that no pair is lost. With fewer than three passages, single
    segments are held out; a pair of a training and a validation segment then belongs to no part.

    Args:
        weight: All preferences (N, N).
        validation_fraction: Share of the passages, or segments, with a preference that is held out;
            0 keeps all for training.
        seed: Random seed of the draw.
        passages: Passage of each segment, as in `preferences`; by default all segments belong to
            one passage.

    Returns:
        Preferences (N, N) for training and for validation; the latter are all 0 if there are too
        few.

    Raises:
        BadInput: No pair is left for training.
    """
    random, among = np.random.default_rng(seed), np.unique(pairs(weight))
    groups: dict[object, list[int]] = {}
    for segment in among:
        groups.setdefault(None if passages is None else passages[segment], []).append(segment)
    whole = len(groups) >= _FEWEST_PASSAGES
    units = list(groups.values()) if whole else [[segment] for segment in among]
    count = round(validation_fraction * len(units))
    if count == 1 and not whole:  # A single segment makes no pair.
        count = 0
    drawn = [units[number] for number in random.permutation(len(units))]
    training, validation = (
        _among(weight, [segment for unit in part for segment in unit])
        for part in (drawn[count:], drawn[:count])
    )
    require(
        bool(training.any()),
        f"no pair is left to learn from after {count} of {len(units)} "
        f"{'passages' if whole else 'segments'} were held out: rate more, or lower "
        "--validation-fraction",
    )
    return training, validation


def _among(weight: np.ndarray, segments: Sequence[int]) -> np.ndarray:
    inside = np.zeros(len(weight), np.float32)
    inside[list(segments)] = 1
    return weight * np.outer(inside, inside)
