"""How well a performance matches its song.

Two families. Frame-wise precision, recall and F1 are robopianist's own
(wrappers/evaluation.py), by which results are published; a frame in which nothing is due and
nothing played counts as 1 there, so that an untrained policy has a precision near 1.
Note-event metrics are those of music transcription (mir_eval.transcription): a note counts as
hit when its key goes down within 50 ms of its onset. They are what a listener hears.
"""

import numpy as np

from actors.performance import Performance

ONSET_TOLERANCE_SECONDS = 0.05
_OFFSET_RATIO = 0.2
_LOWEST_PITCH = 21


def metrics(performance: Performance) -> dict[str, float]:
    """All metrics by name; `onset_error_ms` is NaN where no note was hit."""
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
        due: (N, 3) onset s, offset s, key.
        played: (M, 3 or more) likewise.

    Returns:
        note_precision, note_recall, note_f1 (onset within 50 ms); note_with_offset_f1 (offset
        within 50 ms or a fifth of the note, too); onset_error_ms, the mean distance from onset
        to onset over the hits; due_notes, wrong_notes (played, no hit), missed_notes.
    """
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
        due[:, :2],
        mir_eval.util.midi_to_hz(due[:, 2] + _LOWEST_PITCH),
        played[:, :2],
        mir_eval.util.midi_to_hz(played[:, 2] + _LOWEST_PITCH),
        onset_tolerance=ONSET_TOLERANCE_SECONDS,
        offset_ratio=offset_ratio,
    )
