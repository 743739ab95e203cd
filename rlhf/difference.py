"""Audible differences between renditions of a passage."""

from collections.abc import Sequence

import numpy as np
import scipy.spatial.distance

from piano.performance import Performance

_BIN_SECONDS = 0.02
"""Width of a bin. About this time between two onsets lets a listener hear which one comes first
(Hirsh 1959)."""


def differences(performances: Sequence[Performance]) -> np.ndarray:
    """Computes the Bray-Curtis dissimilarity of the renditions' piano rolls.

        d(a, b) = Σ |a - b| / Σ (a + b)

    The sums run over keys and bins of 20 ms. A roll holds, for each key and bin, the share of the
    bin for which the key is down, times the velocity of the note (0 to 127). It thus captures
    pitch, time, length and loudness.

    Args:
        performances: N performances of one passage.

    Returns:
        (N, N) float64 from 0, for equal renditions, to 1, for renditions that have nothing in
        common. Two silent renditions are equal.
    """
    seconds = max((one.seconds for one in performances), default=0.0)
    bins = max(1, int(np.ceil(seconds / _BIN_SECONDS)))
    notes = [one.played_notes for one in performances]
    keys = np.unique(np.concatenate([np.empty(0), *(one[:, 2] for one in notes)]).astype(int))
    column = {key: at for at, key in enumerate(keys)}
    cells = bins * max(1, len(keys))
    rolls = np.zeros((len(notes), bins, cells // bins), np.float32)
    for roll, played in zip(rolls, notes, strict=True):
        for onset, offset, key, velocity in played:
            roll[:, column[int(key)]] += velocity * _covered(bins, onset, offset)
    flat = scipy.spatial.distance.pdist(rolls.reshape(len(notes), cells), "braycurtis")
    return np.nan_to_num(scipy.spatial.distance.squareform(flat), nan=0.0)


def _covered(bins: int, onset: float, offset: float) -> np.ndarray:
    """Returns (bins,) float64: the share of each bin between two times in seconds."""
    edges = np.clip(np.arange(bins + 1) * _BIN_SECONDS, onset, offset)
    return np.diff(edges) / _BIN_SECONDS
