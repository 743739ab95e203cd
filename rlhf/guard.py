"""The guard of a fine-tuning: it has candidates play, and chooses the one that is returned.

`rlhf.judge` defines the rule.
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
# Seeds of the performances that choose candidates, and of the fresh ones that confirm them.
_GUARD_SEED, _LAST_SEED = 1_000_000, 2_000_000


class Line(NamedTuple):
    """Candidates on a line that begins at the start."""

    name: str
    """Name of the line: "style" or "cpl"."""
    shares: Sequence[float]
    """Positions of the candidates along the line, increasing; the start is at 0."""
    candidate: Callable[[float], tuple[PackedFolder, Variation]]
    """Function from a share to a checkpoint and the variation with which it plays as candidate."""
    result: Callable[[float], PackedFolder]
    """Function from a share to the candidate as a checkpoint."""


class Settled(NamedTuple):
    """The candidate that is returned."""

    line: str
    """Name of the line on which the candidate lies; empty for the start."""
    share: float
    """Position of the candidate along the line; 0 for the start."""
    packed: PackedFolder
    heard: dict[str, Any]
    """Summary of fresh performances of the candidate, see `Guard.hear`."""


class Guard:
    """Judges candidates by performances.

    Args:
        players: Ray actors of `rlhf.player.Player`.
        raters: Qualities by which simulated raters score performances.
        fresh: Number of fresh performances that confirm a candidate.
        performances: Number of performances by which each candidate is judged; 0 judges none.
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
        """Rates the deterministic performance, and averages over lightly varied performances.

        The varied performances have seeds that candidates are not judged by.
        """
        shared = ray.put(packed)
        futures = [self._players[0].audition.remote(shared, Variation(), 0, self._raters)] + [
            self._player(number).audition.remote(
                shared, judge.JUDGED, _LAST_SEED + number, self._raters
            )
            for number in range(self._fresh)
        ]
        with said_if_long("performances to be rated"):
            deterministic, *stochastic = (
                get_result(future, "Player", "an audition failed", _SECONDS) for future in futures
            )
        performances = [performance for played in stochastic for performance in played]
        return {
            "ratings": {
                name: float(np.mean([performance.ratings[name] for performance in deterministic]))
                for name in deterministic[0].ratings
            },
            "drawn": _summary(performances) if performances else None,
        }

    def settle(self, start: PackedFolder, heard: dict[str, Any], line: Line) -> Settled | None:
        """Chooses the furthest candidate on a line that keeps the notes, as all before it do.

        A few performances judge each candidate, and many fresh ones confirm the furthest that keeps
        the notes. If the fresh ones reject it, the candidate before it is tried, and so on.

        Args:
            start: Policy before the fine-tuning.
            heard: Summary of fresh performances of the start.
            line: Candidates.

        Returns:
            The chosen candidate; None if no candidate keeps the notes.
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
                # Try once more, halfway to this candidate.
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
        """Returns all judgments in chronological order; None without a guard."""
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
    """Returns a variation as it is played when it is judged."""
    return dataclasses.replace(variation, temperature=judge.JUDGED.temperature)


def _holds(start: dict[str, Any], result: dict[str, Any]) -> bool:
    """Returns whether the fresh performances keep the notes."""
    if start["drawn"] is None:
        return True
    before, after = (heard["drawn"]["note_f1"]["mean"] for heard in (start, result))
    return bool(after >= before - judge.NOTES_MARGIN)


def _summary(performances: Sequence[Audition]) -> dict[str, Any]:
    """Computes means over performances, with intervals."""
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
    """Computes the mean and, from three values on, half of its 95% interval (Student's t)."""
    numbers = np.array([value for value in values if value is not None], np.float64)
    if not len(numbers):  # A silent performance has no velocities.
        return {"mean": None}
    found: dict[str, float | None] = {"mean": float(np.mean(numbers))}
    if len(numbers) > 2:
        width = scipy.stats.sem(numbers) * scipy.stats.t.ppf(0.975, len(numbers) - 1)
        found["interval"] = float(width)
    return found
