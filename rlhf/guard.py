"""The guard of a fine-tuning at work: it has candidates played, and settles which one is returned.

See `rlhf.judge` for the rule.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
import scipy.stats
import tqdm
from ray.actor import ActorHandle

from common.files import PackedFolder
from common.waiting import get_result, said_if_long
from rlhf import judge
from rlhf.player import Audition
from rlhf.variation import Variation

_SECONDS = 3600.0
# Of the performances by which candidates are chosen, and of those that have the last word.
_GUARD_SEED, _LAST_SEED = 1_000_000, 2_000_000


class Line(NamedTuple):
    """Candidates on a line that begins at the start."""

    name: str
    """"style" or "cpl"."""
    shares: Sequence[float]
    """How far along the line each lies; increasing, the start at 0."""
    candidate: Callable[[float], tuple[PackedFolder, Variation]]
    """By share: a checkpoint, and how it plays as that candidate."""
    result: Callable[[float], PackedFolder]
    """By share: the candidate as a checkpoint."""


class Settled(NamedTuple):
    """What is returned."""

    line: str
    """On which it lies; empty for the start."""
    share: float
    """How far along; 0 for the start."""
    packed: PackedFolder
    heard: dict[str, Any]
    """What fresh performances of it are like, see `Guard.hear`."""


class Guard:
    """Judges candidates by performances.

    Args:
        players: Ray actors of `rlhf.player.Player`.
        raters: What simulated raters listen for, to tell what performances are like.
        fresh: Number of fresh performances, which have the last word.
        performances: Number by which each candidate is judged; 0 judges none.
    """

    def __init__(
        self,
        players: Sequence[ActorHandle],
        raters: Sequence[str],
        fresh: int,
        performances: int,
    ):
        self._players = players
        self._raters = tuple(raters)
        self._fresh = fresh
        self._performances = performances
        self._begun: judge.Candidate | None = None
        self._candidates: list[dict[str, Any]] = []
        self._last_words: list[dict[str, Any]] = []

    def hear(self, packed: PackedFolder) -> dict[str, Any]:
        """Ratings of the deterministic performance, and means over lightly varied ones.

        The latter have seeds that take no part in any choice.
        """
        shared = ray.put(packed)
        futures = [self._players[0].audition.remote(shared, Variation(), 0, self._raters)] + [
            self._player(number).audition.remote(
                shared, judge.JUDGED, _LAST_SEED + number, self._raters
            )
            for number in range(self._fresh)
        ]
        with said_if_long("performances to be rated"):
            central, *drawn = (
                get_result(future, "Player", "an audition failed", _SECONDS) for future in futures
            )
        performances = [performance for played in drawn for performance in played]
        return {
            "ratings": {
                name: float(np.mean([performance.ratings[name] for performance in central]))
                for name in central[0].ratings
            },
            "drawn": _summary(performances) if performances else None,
        }

    def settle(self, start: PackedFolder, heard: dict[str, Any], line: Line) -> Settled | None:
        """The candidate furthest along a line that holds the notes, as do those before it.

        Candidates are judged by few performances, and the furthest that holds by many fresh ones;
        if these refuse it, the one before it is heard, and so on.

        Args:
            start: The policy that is fine-tuned.
            heard: What fresh performances of it are like.
            line: The candidates.

        Returns:
            None if no candidate holds the notes.
        """
        if not self._performances:
            packed = line.result(1.0)
            return Settled(line.name, 1.0, packed, self.hear(packed))
        if self._begun is None:
            self._begun = self._judge("start", 0.0, start, judge.JUDGED)
        held: list[judge.Candidate] = []
        shares = tqdm.tqdm(
            line.shares, unit="candidate", desc=f"guard: {line.name}", dynamic_ncols=True
        )
        for share in shares:
            candidate = self._judge(line.name, share, *line.candidate(share))
            if not judge.holds_notes(self._begun, candidate):
                # Once more, half way to it.
                middle = (share + (held[-1].share if held else 0.0)) / 2
                candidate = self._judge(line.name, middle, *line.candidate(middle))
                if judge.holds_notes(self._begun, candidate):
                    held.append(candidate)
                break
            held.append(candidate)
        for candidate in reversed(held[-judge.LAST_WORDS :]):
            packed = line.result(candidate.share)
            result = self.hear(packed)
            holds = _holds(heard, result)
            self._last_words.append(
                {
                    "line": line.name,
                    "share": candidate.share,
                    "drawn": result["drawn"],
                    "holds": holds,
                }
            )
            if holds:
                return Settled(line.name, candidate.share, packed, result)
        return None

    def told(self) -> dict[str, Any] | None:
        """All that was judged, in the order in which it was; None without a guard."""
        if not self._performances:
            return None
        return {
            "performances": self._performances,
            "margin": judge.NOTES_MARGIN,
            "candidates": self._candidates,
            "last_words": self._last_words,
        }

    def _judge(
        self, line: str, share: float, packed: PackedFolder, variation: Variation
    ) -> judge.Candidate:
        shared = ray.put(packed)
        futures = [
            self._player(number).audition.remote(shared, variation, _GUARD_SEED + number, ())
            for number in range(self._performances)
        ]
        played = [
            get_result(future, "Player", "a performance failed", _SECONDS) for future in futures
        ]
        note_f1 = [[one.metrics["note_f1"] or 0.0 for one in songs] for songs in played]
        candidate = judge.Candidate(share, tuple(float(np.mean(songs)) for songs in note_f1))
        self._candidates.append(
            {
                "line": line,
                "share": share,
                "note_f1": _mean(candidate.note_f1),
                "holds": self._begun is None or judge.holds_notes(self._begun, candidate),
            }
        )
        return candidate

    def _player(self, number: int) -> ActorHandle:
        return self._players[number % len(self._players)]


def judged(variation: Variation) -> Variation:
    """A variation as it is played to be judged."""
    return dataclasses.replace(variation, temperature=judge.JUDGED.temperature)


def _holds(start: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether the notes hold in performances that took no part in the choice."""
    if start["drawn"] is None:
        return True
    before, after = (heard["drawn"]["note_f1"]["mean"] for heard in (start, result))
    return bool(after >= before - judge.NOTES_MARGIN)


def _summary(performances: Sequence[Audition]) -> dict[str, Any]:
    """Means over performances, with intervals."""
    return {
        "performances": len(performances),
        **{
            name: _mean([performance.metrics[name] for performance in performances])
            for name in ("note_f1", "f1", "episode_return", "mean_velocity", "velocity_spread")
        },
        "ratings": {
            name: _mean([performance.ratings[name] for performance in performances])
            for name in performances[0].ratings
        },
    }


def _mean(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and, from three values on, the half width of its 95% interval (Student's t)."""
    numbers = np.array([value for value in values if value is not None], np.float64)
    if not len(numbers):  # A silent performance has no velocities.
        return {"mean": None}
    found: dict[str, float | None] = {"mean": float(np.mean(numbers))}
    if len(numbers) > 2:
        width = scipy.stats.sem(numbers) * scipy.stats.t.ppf(0.975, len(numbers) - 1)
        found["interval"] = float(width)
    return found
