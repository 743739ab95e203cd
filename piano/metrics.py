"""Metrics of how well a performance matches its song.

Frame-wise precision, recall and F1 come from robopianist (wrappers/evaluation.py). Published
results use them. A frame in which nothing is due and nothing is played counts as 1, so even an
untrained policy has a precision near 1.

Note-event metrics come from music transcription (mir_eval.transcription). A note is a hit if its
key goes down within 50 ms of its onset. These metrics match what a listener hears.

Velocity metrics come from mir_eval.transcription_velocity (Hawthorne et al., Onsets and Frames,
arXiv 1710.11153). They measure how hard the notes are struck.
"""

import dataclasses

import numpy as np

from piano.keyboard import LOWEST_PITCH
from piano.performance import Performance

ONSET_TOLERANCE_SECONDS = 0.05
_OFFSET_RATIO = 0.2
_VELOCITY_TOLERANCE = 0.1


def metrics(performance: Performance) -> dict[str, float]:
    """Computes all metrics of a performance.

    Args:
        performance: Performance to measure.

    Returns:
        Values by name. A value that does not exist is NaN: `onset_error_ms` if there was no hit,
        and some of `velocity_metrics`.
    """
    return {
        "episode_return": float(performance.rewards.sum()),
        "episode_length": float(len(performance.rewards)),
        **frame_metrics(performance.due_keys, performance.played_keys),
        **{
            f"sustain_{name}": value
            for name, value in frame_metrics(
                performance.due_pedal[:, None], performance.played_pedal[:, None]
            ).items()
        },
        **note_metrics(performance.due_notes, performance.played_notes),
        **velocity_metrics(performance),
    }


def frame_metrics(due: np.ndarray, played: np.ndarray) -> dict[str, float]:
    """Computes precision, recall and F1 as means over frames. A ratio 0 / 0 counts as 1.

    Args:
        due: Keys due in each frame, (T, keys) bool.
        played: Keys played in each frame, (T, keys) bool.

    Returns:
        Values by name: precision, recall and f1.
    """
    hits = np.sum(due & played, axis=1)
    due_count, played_count = np.sum(due, axis=1), np.sum(played, axis=1)

    def mean_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
        ratio = np.ones(len(numerator))
        np.divide(numerator, denominator, out=ratio, where=denominator > 0)
        return float(ratio.mean())

    return {
        "precision": mean_ratio(hits, played_count),
        "recall": mean_ratio(hits, due_count),
        "f1": mean_ratio(2 * hits, due_count + played_count),
    }


def note_metrics(due: np.ndarray, played: np.ndarray) -> dict[str, float]:
    """Computes precision, recall and F1 of note events, and the counts behind them.

    Args:
        due: Notes due, (N, 3 or more) float64: onset and offset in seconds, key. Notes of zero
            length do not count, because they begin as the performance ends.
        played: Notes played, (M, 3 or more) float64, in the same form.

    Returns:
        Values by name: note_precision, note_recall and note_f1 (onset within 50 ms);
        note_with_offset_f1 (offset also within 50 ms or a fifth of the note); onset_error_ms, the
        mean distance between onsets over the hits; and the counts due_notes, wrong_notes (played
        notes that hit none) and missed_notes.
    """
    due, played = _with_length(due), _with_length(played)
    pairs = match_notes(due, played)
    pairs_with_offset = match_notes(due, played, offset_ratio=_OFFSET_RATIO)
    hits = len(pairs)
    errors = [abs(due[i, 0] - played[j, 0]) for i, j in pairs]
    return {
        "note_precision": hits / len(played) if len(played) else float(len(due) == 0),
        "note_recall": hits / len(due) if len(due) else 1.0,
        "note_f1": _f1(hits, due, played),
        "note_with_offset_f1": _f1(len(pairs_with_offset), due, played),
        "onset_error_ms": 1000 * float(np.mean(errors)) if errors else float("nan"),
        "due_notes": float(len(due)),
        "wrong_notes": float(len(played) - hits),
        "missed_notes": float(len(due) - hits),
    }


def velocity_metrics(performance: Performance) -> dict[str, float]:
    """Measures how hard the notes were struck.

    Args:
        performance: Performance to measure.

    Returns:
        Values by name. velocity_f1 is the result of the function of that name; it is NaN if the
        score has no dynamics (a single velocity, or none given). mean_velocity and
        velocity_spread are the mean and the standard deviation of the MIDI velocities played;
        they are NaN if no note was played.
    """
    performance = dataclasses.replace(
        performance,
        due_notes=_with_length(performance.due_notes),
        played_notes=_with_length(performance.played_notes),
    )
    played = performance.played_notes[:, 3]
    return {
        "velocity_f1": velocity_f1(performance) if has_dynamics(performance) else float("nan"),
        "mean_velocity": float(np.mean(played)) if len(played) else float("nan"),
        "velocity_spread": float(np.std(played)) if len(played) else float("nan"),
    }


def _with_length(notes: np.ndarray) -> np.ndarray:
    return notes[notes[:, 1] > notes[:, 0]]


def has_dynamics(performance: Performance) -> bool:
    """Returns whether the notes are due at different velocities."""
    due = performance.due_velocities
    return len(due) > 1 and bool(np.isfinite(due).all() and np.ptp(due) > 0)


def velocity_f1(performance: Performance) -> float:
    """Computes the F1 of notes that are hit in time and with the right relative velocity.

    The due velocities are scaled so that the softest note is 0 and the loudest is 1. A straight
    line is fitted from the velocities of the hits to the scaled due velocities. A hit counts if
    its fitted velocity is less than 0.1 away. A performance that is softer or flatter throughout
    therefore loses nothing. If all notes are due at one velocity, the result is the note-event F1.

    Args:
        performance: Performance to measure.
    """
    due, played = performance.due_notes, performance.played_notes
    if not len(due) or not len(played):
        return _f1(0, due, played)
    import mir_eval

    hits = mir_eval.transcription_velocity.match_notes(
        *_intervals_and_pitches(due),
        performance.due_velocities,
        *_intervals_and_pitches(played),
        played[:, 3],
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        offset_ratio=None,
        velocity_tolerance=_VELOCITY_TOLERANCE,
    )
    return _f1(len(hits), due, played)


def _f1(hits: int, due: np.ndarray, played: np.ndarray) -> float:
    return 2 * hits / (len(due) + len(played)) if len(due) + len(played) else 1.0


def match_notes(
    due: np.ndarray, played: np.ndarray, offset_ratio: float | None = None
) -> list[tuple[int, int]]:
    """Pairs due notes with the played notes that hit them, in the largest possible number.

    Args:
        due: Notes due, (N, 3 or more) float64: onset and offset in seconds, key.
        played: Notes played, (M, 3 or more) float64, in the same form.
        offset_ratio: Tolerance for offsets as a share of the due note's length, but at least
            50 ms; None to ignore offsets.

    Returns:
        Pairs of indices into `due` and `played`. Each index occurs at most once.
    """
    if not len(due) or not len(played):
        return []
    # This import takes half a second, and only the judging of performances needs it.
    import mir_eval

    return mir_eval.transcription.match_notes(
        *_intervals_and_pitches(due),
        *_intervals_and_pitches(played),
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        offset_ratio=offset_ratio,
    )


def _intervals_and_pitches(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Converts notes for mir_eval: (N, 2) onset and offset in seconds, (N,) pitch in Hz."""
    import mir_eval

    return notes[:, :2], mir_eval.util.midi_to_hz(notes[:, 2] + LOWEST_PITCH)
