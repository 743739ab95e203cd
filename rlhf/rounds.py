"""Rounds of preferences: rated collections that a fine-tuning learns from together.

A round begins with a policy. `pianist segments` records it, raters answer, and `pianist cpl`
fine-tunes a policy on the answers. A fine-tuning can use the collections of several rounds. Each
pair belongs to one passage of one collection, and is scored relative to the policy that its round
began with.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.errors import BadInput, require
from common.files import PackedFolder
from learner.config import SACConfig
from rlhf import preferences
from rlhf.collection import Collection, Trajectory
from rlhf.passages import Passage
from rlhf.ratings import Ratings


class Round(NamedTuple):
    """Data of a round that a fine-tuner needs in addition to the preferences."""

    trajectories: Mapping[str, Trajectory]
    """Trajectories by names of segments that are unique among all rounds."""
    base: PackedFolder | None
    """Checkpoint of the policy that the round began with. If None, segments are scored relative to
    the policy before the fine-tuning."""
    agent_config: SACConfig
    """Settings of the base's network."""


class Rated(NamedTuple):
    """Answers to the N segments of several collections, one collection after another."""

    weight: np.ndarray
    """(N, N) float32 preferences, see `rlhf.preferences.preferences`."""
    passages: list[Passage]
    """(N,) passages, one per segment."""
    answers: dict[str, int]
    """Numbers of `ratings`, `comparisons` and `ties` that count; `comparisons` excludes ties."""


def read_rated(collections: Sequence[Collection], raters: Sequence[str], attribute: str) -> Rated:
    """Reads the answers to all collections.

    Args:
        collections: One or more collections.
        raters: Names of the raters whose answers count, in each collection; empty for all people.
        attribute: Attribute of the answers; empty for quality as a whole.

    Raises:
        BadInput: A collection is empty, was not rated by these raters, or gives no preference; the
            message names it.
    """
    found = [_read_rated(collection, raters, attribute) for collection in collections]
    ends = np.cumsum([len(one.passages) for one in found])
    weight = np.zeros((ends[-1], ends[-1]), np.float32)
    for end, one in zip(ends, found, strict=True):
        own = slice(end - len(one.passages), end)
        weight[own, own] = one.weight
    return Rated(
        weight,
        [passage for one in found for passage in one.passages],
        {name: sum(one.answers[name] for one in found) for name in found[0].answers},
    )


def _read_rated(collection: Collection, raters: Sequence[str], attribute: str) -> Rated:
    segments = collection.segments()
    require(
        collection.ratings.is_file(),
        f"the collection {collection.path} has not been rated: pianist rate shows it to people",
    )
    names = [segment.name for segment in segments]
    with contextlib.closing(Ratings(collection.ratings, names)) as kept:
        known = kept.raters()
        people = [rater.name for rater in known if rater.kind == "person"]
        absent = sorted(set(raters) - {rater.name for rater in known})
        there = ", ".join(f"{rater.name!r}" for rater in known) or "no one"
        require(not absent, f"--raters: {absent} did not rate {collection.path}, but {there}")
        require(
            bool(raters or people),
            f"no person has rated {collection.path}; --raters names simulated ones: {there}",
        )
        chosen = set(raters or people)
        ratings = [one for one in kept.ratings(attribute) if one.rater.name in chosen]
        comparisons = [one for one in kept.comparisons(attribute) if one.rater.name in chosen]
    passages = [segment.planned.passage for segment in segments]
    try:
        weight = preferences.preferences(names, ratings, comparisons, passages)
    except BadInput as error:
        raise BadInput(f"{collection.path}: {error}") from error
    ties = sum(one.preferred == "neither" for one in comparisons)
    answers = {"ratings": len(ratings), "comparisons": len(comparisons) - ties, "ties": ties}
    return Rated(weight, passages, answers)
