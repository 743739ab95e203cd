"""Renditions: the checkpoints that play each passage, and their variations."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from common.errors import require
from rlhf.collection import PlannedSegment
from rlhf.passages import Passage
from rlhf.variation import Variation, draw

DEFAULT = 7
"""Default number of renditions per passage."""
_STYLES_IN_TURN = 4
_KINDS = [
    kind
    for other in ("offset", "weights", "sampling")
    for kind in (*["style"] * _STYLES_IN_TURN, other)
]
"""Cycle of the kinds of variation: style comes most often, since it teaches most (`rlhf.style`)."""
_OTHERS_SHARE = 5
"""One in this many renditions is by a checkpoint other than the newest."""

_Rendition = tuple[str, Variation]
"""Name of the checkpoint that plays, and its variation."""


def lasting(
    checkpoints: Sequence[str], passages: int, count: int, seed: int
) -> list[list[_Rendition]]:
    """Draws renditions with lasting differences, mostly by the newest checkpoint.

    The first rendition is by the newest checkpoint without variation. One in five is by another
    checkpoint without variation; the other checkpoints take turns. The rest are variations of the
    newest: four of five in style, the others by offset, weights and sampling in turn.

    Args:
        checkpoints: Names of the checkpoints that play, the newest last.
        passages: Number of passages.
        count: Number of renditions per passage.
        seed: Random seed of the draws.

    Returns:
        The renditions of each passage.
    """
    random, kinds = np.random.default_rng((seed, 0)), itertools.cycle(_KINDS)
    *others, newest = checkpoints
    turns = itertools.cycle(reversed(others))
    by_others = (count - 1) // _OTHERS_SHARE if others else 0
    return [
        [
            (newest, Variation()),
            *((next(turns), Variation()) for _ in range(by_others)),
            *((newest, draw(next(kinds), random)) for _ in range(count - 1 - by_others)),
        ]
        for _ in range(passages)
    ]


def independent(
    checkpoints: Sequence[str],
    count: int | None,
    noise: Sequence[float],
    temperature: Sequence[float],
) -> list[_Rendition]:
    """Combines each checkpoint with each noise level and temperature.

    Args:
        checkpoints: Names of the checkpoints that play.
        count: Number of renditions; None takes each combination once. Combinations with a random
            part are repeated in turn to fill a larger number.
        noise: Noise levels, see `Variation`.
        temperature: Temperatures, see `Variation`.

    Returns:
        The renditions of a passage.

    Raises:
        BadInput: There are more combinations than renditions.
    """
    once = [
        (checkpoint, Variation(noise=level, temperature=factor))
        for checkpoint, level, factor in itertools.product(checkpoints, noise, temperature)
    ]
    count = len(once) if count is None else count
    require(
        count >= len(once),
        f"--renditions is {count}, must be at least {len(once)}: {len(checkpoints)} checkpoints "
        f"play at {len(noise) * len(temperature)} levels of noise and temperature",
    )
    again = itertools.cycle([one for one in once if one[1].is_random])
    return [*once, *itertools.islice(again, count - len(once))]


def plan(
    passages: Sequence[Passage],
    renditions: Sequence[Sequence[_Rendition]],
    lead_in: int,
    seed: int,
) -> list[PlannedSegment]:
    """Plans all segments, passage by passage; their names are in random order.

    Args:
        passages: Passages to be played.
        renditions: Renditions of each passage.
        lead_in: Number of control steps before each passage, as far as the song has them.
        seed: Random seed of the names and of the renditions' seeds, which all differ.
    """
    random = np.random.default_rng((seed, 1))
    planned = [
        PlannedSegment(
            name="",
            checkpoint=checkpoint,
            parameter_version=int(checkpoint.removeprefix("step_")),
            seed=0,
            song=passage.song,
            first_step=passage.first_step,
            last_step=passage.last_step,
            lead_in=min(lead_in, passage.first_step),
            variation=variation,
        )
        for passage, of_passage in zip(passages, renditions, strict=True)
        for checkpoint, variation in of_passage
    ]
    numbers = 1 + random.permutation(len(planned))
    seeds = random.choice(10**6, len(planned), replace=False)
    return [
        dataclasses.replace(segment, name=f"{number:04d}", seed=int(drawn))
        for segment, number, drawn in zip(planned, numbers, seeds, strict=True)
    ]
