"""How well a performance matches its song.

Two families. Frame-wise precision, recall and F1 are robopianist's own
(wrappers/evaluation.py), by which results are published; a frame in which nothing is due and
nothing played counts as 1 there, so that an untrained policy has a precision near 1.
Note-event metrics are those of music transcription (mir_eval.transcription): a note counts as
hit when its key goes down within 50 ms of its onset. They are what a listener hears.
How hard the notes are struck is judged by mir_eval.transcription_velocity (Hawthorne et al.,
Onsets and Frames, arXiv 1710.11153).
"""

import dataclasses

import numpy as np

from piano.performance import Performance

ONSET_TOLERANCE_SECONDS = 0.05
_OFFSET_RATIO = 0.2
_VELOCITY_TOLERANCE = 0.1
_LOWEST_PITCH = 21


def metrics(performance: Performance) -> dict[str, float]:
    """All metrics by name.

    NaN where there is no value: `onset_error_ms` where no note was hit, and see
    `velocity_metrics`.
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
    """Means over frames of precision, recall and F1; a ratio 0 / 0 counts as 1.

    Args:
        due: (T, keys) bool.
        played: (T, keys) bool.
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
    """Precision, recall and F1 of note events, and what they are made of.

    Args:
        due: (N, 3) onset s, offset s, key; notes without any length do not count: they would
            begin as the performance ends.
        played: (M, 3 or more) likewise.

    Returns:
        note_precision, note_recall, note_f1 (onset within 50 ms); note_with_offset_f1 (offset
        within 50 ms or a fifth of the note, too); onset_error_ms, the mean distance from onset
        to onset over the hits; due_notes, wrong_notes (played, no hit), missed_notes.
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
    """How hard the notes were struck.

    Returns:
        velocity_f1, see the function of that name, NaN where the score has no dynamics (one
        velocity throughout, or a file that does not say); mean_velocity and velocity_spread, mean
        and standard deviation of the MIDI velocities played, NaN where none was.
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
    """Whether notes are due at different velocities."""
    due = performance.due_velocities
    return len(due) > 1 and bool(np.isfinite(due).all() and np.ptp(due) > 0)


def velocity_f1(performance: Performance) -> float:
    """F1 of notes that are hit in time, and as loud as the score has them in proportion.

    Due velocities are brought to 0 to 1, the softest note 0 and the loudest 1; those of the notes
    that hit are fitted to them by the best straight line. A hit counts if it is then less than 0.1
    away. A performance that is softer or flatter throughout therefore loses nothing, and where all
    notes are due at one velocity, this is the note-event F1.
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
    """Pairs of a due note and the played note that hits it, as many as can be.

    Args:
        due: (N, 3) onset s, offset s, key.
        played: (M, 3 or more) likewise.
        offset_ratio: if given, offsets have to agree, too, within this share of the due note's
            length or 50 ms, whichever is more.

    Returns:
        Indices into `due` and `played`; none occurs twice.
    """
    if not len(due) or not len(played):
        return []
    # Not above: it takes half a second, and only those who judge a performance need it.
    import mir_eval

    return mir_eval.transcription.match_notes(
        *_intervals_and_pitches(due),
        *_intervals_and_pitches(played),
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        offset_ratio=offset_ratio,
    )


def _intervals_and_pitches(notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Notes in mir_eval's form: (N, 2) onset and offset in seconds, (N,) pitch in Hz."""
    import mir_eval

    return notes[:, :2], mir_eval.util.midi_to_hz(notes[:, 2] + _LOWEST_PITCH)
