"""The guard of a fine-tuning: which candidate may take the place of the start.

Preferences about touch can cost notes, and a single deterministic performance is one draw of a
chaotic system. Candidates are therefore judged by the mean over lightly varied performances.
"""

from typing import NamedTuple

import numpy as np

from rlhf.variation import Variation

JUDGED = Variation(temperature=0.3)
"""How performances vary that judge a candidate: at a third of the policy's own deviation."""
STYLE_SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Candidates in a favored style: at 2 as far as renditions went."""
TUNED_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Candidates on the way from the start to the average of the members."""
LAST_WORDS = 3
"""Candidates at most that are heard in fresh performances, the furthest that holds first."""
NOTES_MARGIN = 0.01
"""The mean note-event F1 of a candidate may be lower than the start's by this much."""


class Candidate(NamedTuple):
    """A policy on a line that begins at the start: to a style, or to the members' average."""

    share: float
    """Share of the way; 0 is the start."""
    note_f1: tuple[float, ...]
    """Note-event F1 of each performance, seed by seed the same as the other candidates'."""

    @property
    def mean(self) -> float:
        """Mean note-event F1."""
        return float(np.mean(self.note_f1))


def holds_notes(start: Candidate, candidate: Candidate) -> bool:
    """Whether a candidate's mean note-event F1 is not below the start's by more than the margin."""
    return candidate.mean >= start.mean - NOTES_MARGIN
