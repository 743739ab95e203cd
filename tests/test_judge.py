"""The guard: which candidate may take the place of the start."""

from rlhf.judge import NOTES_MARGIN, Candidate, holds_notes

START = Candidate(0.0, (0.9, 1.0, 0.95))


def candidate(share, change):
    return Candidate(share, tuple(value + change for value in START.note_f1))


def test_the_margin_is_on_the_mean_of_the_performances():
    assert holds_notes(START, Candidate(1.0, (1.0, 0.85, 0.98)))
    assert holds_notes(START, candidate(1.0, -NOTES_MARGIN + 1e-9))
    assert not holds_notes(START, candidate(1.0, -NOTES_MARGIN - 1e-9))
