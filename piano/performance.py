"""A performance: the data of one episode for metrics, sound, MIDI and images."""

import dataclasses
import pathlib

import numpy as np

from common.errors import require
from common.files import read_arrays

_NOTE_COLUMNS = {"due_notes": (3, 4), "played_notes": (4,)}
_SAME_MOMENT = 1e-6
"""Tolerance in seconds between equal times. It is far above the rounding errors of summed time
steps and far below a physics step."""


@dataclasses.dataclass(frozen=True)
class Performance:
    """T control steps of play, with N notes due, M notes played and P pedal changes.

    Attributes:
        control_timestep: Length of a control step in seconds, () float64.
        due_keys: Keys due in each control step, (T, 88) bool.
        due_pedal: Whether the pedal is due in each control step, (T,) bool.
        played_keys: Keys down at the end of each control step, (T, 88) bool.
        played_pedal: Whether the pedal is down at the end of each control step, (T,) bool.
        rewards: Reward of each control step, (T,) float64.
        due_notes: Notes due, (N, 4) float64: onset and offset in seconds, key 0 to 87, MIDI
            velocity; sorted by onset. The onset is the end of the first control step in which
            the note is due, because the task checks the keys then. A note that would begin as
            the performance ends is left out. Files of earlier versions hold (N, 3), without
            velocities.
        played_notes: Notes played, (M, 4) float64: onset and offset in seconds, key, MIDI
            velocity; sorted by onset. The times come from the physics and are finer than a
            control step.
        pedal_changes: Pedal changes, (P, 2) float64: time in seconds, 1.0 for down or 0.0 for up.
        positions: Joint positions from the first state on, (T + 1, number of joints) float32.
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
        """Length of the performance in seconds."""
        return len(self.rewards) * float(self.control_timestep)

    @property
    def due_velocities(self) -> np.ndarray:
        """MIDI velocities of the score, (N,) float64; NaN if the file does not hold them."""
        if self.due_notes.shape[1] < 4:
            return np.full(len(self.due_notes), np.nan)
        return self.due_notes[:, 3]

    def window(self, begin: int, end: int) -> "Performance":
        """Returns the control steps from `begin` up to `end` as a performance of their own.

        A note belongs to the window in which it begins, and ends with the window at the latest
        (see `cut_notes`). A key that is already down at `begin` appears in the frames but not as
        a note.

        Args:
            begin: First control step.
            end: Control step after the last.
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
        """Writes all arrays to one compressed .npz file."""
        np.savez_compressed(path, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Performance":
        """Reads a file that `save` wrote.

        Raises:
            BadInput: The file is missing or damaged.
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
    """Returns the notes that begin within a span of time.

    A note at `start` is included and a note at `end` is not. Consecutive spans therefore divide
    all notes among themselves. Every note has a length above 0.

    Args:
        notes: Notes, (N, 2 or more) float64: onset and offset in seconds, then other columns.
        start: Start of the span in seconds.
        end: End of the span in seconds. Longer notes are cut off here.

    Returns:
        Notes of the span, (M, same columns) float64. Onset and offset are seconds after `start`.
    """
    onsets = notes[:, 0]
    found = notes[(onsets >= start - _SAME_MOMENT) & (onsets < end - _SAME_MOMENT)].copy()
    found[:, :2] = np.clip(found[:, :2], start, end) - start
    return found


def notes_of_frames(keys: np.ndarray, control_timestep: float) -> np.ndarray:
    """Converts a piano roll to notes, one for each run of frames in which a key is down.

    Args:
        keys: Keys that are down in each frame, (T, 88) bool.
        control_timestep: Length of a frame in seconds.

    Returns:
        Notes, (N, 3) float64: onset and offset in seconds, key; sorted by onset, then by key.
    """
    padded = np.zeros((len(keys) + 2, keys.shape[1]), np.int8)
    padded[1:-1] = keys
    change = np.diff(padded, axis=0).T
    onset_key, onset = np.nonzero(change == 1)
    _, offset = np.nonzero(change == -1)  # The order is the same: key, then time.
    notes = np.stack([onset * control_timestep, offset * control_timestep, onset_key], axis=-1)
    return notes[np.lexsort((onset_key, onset))].astype(np.float64)
