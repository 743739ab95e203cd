"""A performance: what one episode leaves, for metrics, sound, MIDI and pictures."""

import dataclasses
import pathlib

import numpy as np

from common.errors import require
from common.files import read_arrays

_KEYS = 88
_NOTE_COLUMNS = {"due_notes": (3, 4), "played_notes": (4,)}
_SAME_MOMENT = 1e-6
"""Seconds: far above what sums of time steps are rounded by, far below a physics step."""


@dataclasses.dataclass(frozen=True)
class Performance:
    """T control steps of play, N notes due and M played, P changes of the pedal.

    Attributes:
        control_timestep: () float64, seconds.
        due_keys: (T, 88) bool.
        due_pedal: (T,) bool.
        played_keys: (T, 88) bool, at the end of each control step.
        played_pedal: (T,) bool, likewise.
        rewards: (T,) float64.
        due_notes: (N, 4) float64: onset and offset in seconds, key 0 to 87, MIDI velocity; by
            onset. A note is due at the end of the control step in which it is first due: then the
            task looks. Those that would begin as the performance ends are not part of it. Files of
            earlier versions hold (N, 3), without velocities.
        played_notes: (M, 4) float64: onset, offset, key and MIDI velocity; by onset. Times are
            those of the physics, finer than a control step.
        pedal_changes: (P, 2) float64: seconds, 1.0 for down and 0.0 for up.
        positions: (T + 1, number of joints) float32, joint positions from the first state on.
    """

    control_timestep: np.ndarray
    due_keys: np.ndarray
    due_pedal: np.ndarray
    played_keys: np.ndarray
    played_pedal: np.ndarray
    rewards: np.ndarray
    due_notes: np.ndarray
    played_notes: np.ndarray
    pedal_changes: np.ndarray
    positions: np.ndarray

    @property
    def seconds(self) -> float:
        """Length of the performance."""
        return len(self.rewards) * float(self.control_timestep)

    @property
    def due_velocities(self) -> np.ndarray:
        """(N,) float64, MIDI velocities of the score; NaN where the file does not say."""
        if self.due_notes.shape[1] < 4:
            return np.full(len(self.due_notes), np.nan)
        return self.due_notes[:, 3]

    def window(self, begin: int, end: int) -> "Performance":
        """The control steps from `begin` up to `end`, as a performance of their own.

        A note belongs to the window in which it begins, and ends with it at the latest: see
        `cut_notes`. Of a key that is down already the window has frames, and no note.
        """
        step = float(self.control_timestep)
        start, stop = begin * step, end * step
        before = self.pedal_changes[:, 0] <= start
        pedal = self.pedal_changes[~before & (self.pedal_changes[:, 0] < stop)]
        pedal = pedal - np.array([start, 0.0])
        if before.any() and self.pedal_changes[before][-1, 1]:
            pedal = np.concatenate([[[0.0, 1.0]], pedal])
        frames = {
            name: getattr(self, name)[begin:end]
            for name in ("due_keys", "due_pedal", "played_keys", "played_pedal", "rewards")
        }
        return Performance(
            control_timestep=self.control_timestep,
            due_notes=cut_notes(self.due_notes, start, stop),
            played_notes=cut_notes(self.played_notes, start, stop),
            pedal_changes=pedal,
            positions=self.positions[begin : end + 1],
            **frames,
        )

    def save(self, path: pathlib.Path) -> None:
        """Writes all arrays into one compressed .npz file."""
        np.savez_compressed(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Performance":
        """Reads what `save` wrote.

        Raises:
            BadInput: it is missing or damaged.
        """
        performance = cls(**read_arrays(path, [field.name for field in dataclasses.fields(cls)]))
        for name, columns in _NOTE_COLUMNS.items():
            notes = getattr(performance, name)
            require(
                notes.dtype == np.float64 and notes.ndim == 2 and notes.shape[1] in columns,
                f"the performance {path} is damaged: {name} is {notes.dtype} {notes.shape}",
            )
        return performance


def cut_notes(notes: np.ndarray, start: float, end: float) -> np.ndarray:
    """The notes that begin within a stretch of time, on its own clock.

    A note that begins at `start` is one of them, and one that begins at `end` is not, so that
    stretches that follow one another share out all notes. Every note has a length above 0.

    Args:
        notes: (N, 2 or more) float64: onset and offset in seconds, and what else there is.
        start: seconds.
        end: seconds; notes that go on end here.

    Returns:
        (M, as many) float64; onset and offset are seconds from `start`.
    """
    onsets = notes[:, 0]
    found = notes[(onsets >= start - _SAME_MOMENT) & (onsets < end - _SAME_MOMENT)].copy()
    found[:, :2] = np.clip(found[:, :2], start, end) - start
    return found


def notes_of_frames(keys: np.ndarray, control_timestep: float) -> np.ndarray:
    """Note events of a piano roll: each run of frames in which a key is down.

    Args:
        keys: (T, 88) bool.
        control_timestep: seconds a frame.

    Returns:
        (N, 3) float64: onset and offset in seconds, key; by onset, then by key.
    """
    padded = np.zeros((len(keys) + 2, keys.shape[1]), np.int8)
    padded[1:-1] = keys
    change = np.diff(padded, axis=0).T
    onset_key, onset = np.nonzero(change == 1)
    _, offset = np.nonzero(change == -1)  # Same order: by key, then by time.
    notes = np.stack([onset * control_timestep, offset * control_timestep, onset_key], axis=-1)
    return notes[np.lexsort((onset_key, onset))].astype(np.float64)
