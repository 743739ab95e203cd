"""The guard's rule in a fine-tuning: which candidates may replace the start.

Preferences about touch can cost correct notes, and a single deterministic performance is one draw
of a chaotic system. Candidates are therefore judged by the mean over lightly varied performances.
"""

from typing import NamedTuple

import numpy as np

from rlhf.variation import Variation

JUDGED = Variation(temperature=0.3)
"""Variation of the performances that judge a candidate: 0.3 of the policy's own deviation."""
STYLE_SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Shares of the candidates in a favored style; 2 is the full range of the renditions."""
TUNED_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the candidates on the way from the start to the average of the members."""
LAST_WORDS = 3
"""Maximum number of candidates that play fresh performances; the furthest comes first."""
NOTES_MARGIN = 0.01
"""Maximum amount by which a candidate's mean note-event F1 may be lower than the start's."""


class Candidate(NamedTuple):
    """A policy on a line from the start to a style or to the members' average."""

    share: float
    """Share of the way; 0 is the start."""
    note_f1: tuple[float, ...]
    """Note-event F1 of each performance; all candidates play with the same seeds."""

    @property
    def mean(self) -> float:
        """Mean note-event F1."""
        return float(np.mean(self.note_f1))


def holds_notes(start: Candidate, candidate: Candidate) -> bool:
    """Returns whether the candidate's mean note-event F1 is within the margin of the start's."""
    return candidate.mean >= start.mean - NOTES_MARGIN
