"""A step as one array: Reverb handles one column of numbers far faster than seven.

    [proprioception, frame by frame | action | reward, discount | row, parameter version]

All float32 but the last two, which are int32 bit by bit in the same place.
"""

import numpy as np

from replay.transition import Array, Observation, Transition

_SCALARS = 4  # Reward, discount, row, parameter version.


def packed_size(proprioception_shape: tuple[int, int], action_dim: int) -> int:
    """Numbers in a packed step."""
    frames, proprioception_dim = proprioception_shape
    return frames * proprioception_dim + action_dim + _SCALARS


def pack_step(
    observation: Observation,
    action: np.ndarray,
    reward: float,
    discount: float,
    parameter_version: int,
) -> np.ndarray:
    """Packs what belongs to one time index, (packed size,) float32."""
    end = observation.proprioception.size
    step = np.empty(end + len(action) + _SCALARS, np.float32)
    step[:end] = observation.proprioception.ravel()
    step[end:-_SCALARS] = action
    step[-4] = reward
    step[-3] = discount
    integers = step.view(np.int32)
    integers[-2] = observation.row
    integers[-1] = parameter_version
    return step


def unpack_batch(steps: Array, frames: int, proprioception_dim: int) -> Transition:
    """Unpacks transitions; arrays may be NumPy's or JAX's.

    Args:
        steps: (..., 2, packed size) float32, the step of o[t] and that of o[t+1].
        frames: of an observation.
        proprioception_dim: numbers in a frame.

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
