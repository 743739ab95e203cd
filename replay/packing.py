"""Chunks: consecutive steps of one environment as one array, (steps, packed size) float32.

A row is one step:

    [proprioception, frame by frame | action | reward, discount | goal index, parameter version]

All numbers are float32 except the last two, which are the bits of int32 numbers in the same array.
The last row of a chunk holds the observation after its last step, and no step of its own. So n rows
hold n - 1 transitions, and no transition needs another chunk.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from replay.transition import Array, Observation, Step, Transition

CHUNK_ROWS = 64
"""Most rows in a chunk."""
_SCALARS = 4  # Reward, discount, goal index, parameter version.


def packed_size(proprioception_shape: tuple[int, int], action_dim: int) -> int:
    """Returns how many numbers a packed step has."""
    frames, proprioception_dim = proprioception_shape
    return frames * proprioception_dim + action_dim + _SCALARS


def pack_chunk(steps: Sequence[Step], after: Observation) -> np.ndarray:
    """Packs consecutive steps into a chunk, (steps + 1, packed size) float32.

    Args:
        steps: One or more consecutive steps.
        after: Observation after the last step.
    """
    end = after.proprioception.size
    size = end + len(steps[0].action) + _SCALARS
    chunk = np.zeros((len(steps) + 1, size), np.float32)
    integers = chunk.view(np.int32)
    observations = [*(step.observation for step in steps), after]
    chunk[:, :end] = np.stack([one.proprioception for one in observations]).reshape(-1, end)
    integers[:, -2] = [one.goal_index for one in observations]
    chunk[:-1, end:-_SCALARS] = np.stack([step.action for step in steps])
    chunk[:-1, -4] = [step.reward for step in steps]
    chunk[:-1, -3] = [step.discount for step in steps]
    integers[:-1, -1] = [step.parameter_version for step in steps]
    integers[-1, -1] = -1
    return chunk


def transitions_in(chunk: np.ndarray) -> int:
    """Returns how many transitions a chunk holds."""
    return len(chunk) - 1


class Joined(NamedTuple):
    """Chunks joined into one array, so that sending and writing take one copy."""

    rows: np.ndarray
    """Rows of all chunks, (rows, packed size) float32."""
    lengths: np.ndarray
    """Number of rows in each chunk, (chunks,) int32."""

    @classmethod
    def of(cls, chunks: Sequence[np.ndarray]) -> "Joined":
        """Joins one or more chunks."""
        return cls(np.concatenate(chunks), np.array([len(chunk) for chunk in chunks], np.int32))

    @property
    def transitions(self) -> int:
        """Number of transitions in all chunks."""
        return len(self.rows) - len(self.lengths)

    def apart(self) -> list[np.ndarray]:
        """Returns the chunks, (rows, packed size) float32 each."""
        return np.split(self.rows, np.cumsum(self.lengths))[:-1]


def unpack_batch(steps: Array, frames: int, proprioception_dim: int) -> Transition:
    """Unpacks transitions in NumPy or JAX arrays.

    Args:
        steps: Packed steps of o[t] and o[t+1], (..., 2, packed size) float32.
        frames: Frames in an observation.
        proprioception_dim: Numbers of the simulation in a frame.

    Returns:
        Transitions with the leading axes of `steps`.
    """
    now, then = steps[..., 0, :], steps[..., 1, :]
    end = frames * proprioception_dim

    def observation(step: Array) -> Observation:
        shape = (*step.shape[:-1], frames, proprioception_dim)
        return Observation(step[..., :end].reshape(shape), step[..., -2:].view(np.int32)[..., 0])

    return Transition(
        observation=observation(now),
        action=now[..., end:-_SCALARS],
        reward=now[..., -4],
        discount=now[..., -3],
        next_observation=observation(then),
        parameter_version=now[..., -2:].view(np.int32)[..., 1],
    )
