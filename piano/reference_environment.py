"""The reference: robopianist's own environment with the wrappers of robopianist-rl."""

from typing import Any

import dm_env
import dm_env_wrappers as wrappers
import numpy as np
from mujoco_utils import composer_utils

from piano.config import EnvironmentConfig
from piano.song import Song
from piano.task import PianoTask


class _SinglePrecision(wrappers.SinglePrecisionWrapper):
    """A variant of dm_env_wrappers' wrapper with a conversion that works with NumPy 2."""

    def _convert_timestep(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        return timestep._replace(
            reward=_single(timestep.reward),
            discount=_single(timestep.discount),
            observation=_single(timestep.observation),
        )


def _single(value: Any) -> Any:
    """Converts a number or an array to float32; None stays None."""
    return None if value is None else np.asarray(value, np.float32)


class ReferenceEnvironment:
    """An environment with one piano, two hands and one song, and the methods of dm_env.

    Observations are (observation dimension,) float32. Actions are (action dimension,) float32 in
    [-1, 1]. Rewards and discounts are () float32 arrays, or None after a reset.

    Args:
        song: Song to play.
        config: Settings of the task and its physics.
        seed: Seed of the environment's random state.
    """

    def __init__(self, song: Song, config: EnvironmentConfig, seed: int = 0):
        self.task = PianoTask(
            midi=song.midi,
            fingering_by_transport=not (song.has_fingering or config.disable_fingering_reward),
            n_steps_lookahead=config.n_steps_lookahead,
            gravity_compensation=config.gravity_compensation,
            reduced_action_space=config.reduced_action_space,
            control_timestep=config.control_timestep,
            wrong_press_termination=config.wrong_press_termination,
            disable_fingering_reward=config.disable_fingering_reward,
            disable_forearm_reward=config.disable_forearm_reward,
            disable_colorization=config.disable_colorization,
            disable_hand_collisions=config.disable_hand_collisions,
            primitive_fingertip_collisions=config.primitive_fingertip_collisions,
            change_color_on_activation=True,
        )
        self.composer = composer_utils.Environment(
            task=self.task,
            random_state=seed,
            strip_singleton_obs_buffer_dim=True,
            recompile_physics=False,
        )
        wrapped: dm_env.Environment = self.composer
        if config.action_reward_observation:
            wrapped = wrappers.ObservationActionRewardWrapper(wrapped)
        wrapped = wrappers.ConcatObservationWrapper(wrapped)
        if config.frame_stack > 1:
            wrapped = wrappers.FrameStackingWrapper(
                wrapped, num_frames=config.frame_stack, flatten=True
            )
        wrapped = wrappers.CanonicalSpecWrapper(wrapped, clip=config.clip)
        self._wrapped = _SinglePrecision(wrapped)

    def action_spec(self) -> dm_env.specs.BoundedArray:
        """Returns the spec of the canonical action, with bounds -1 and 1."""
        return self._wrapped.action_spec()

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode and returns its first time step."""
        return self._wrapped.reset()

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Applies an action for one control step.

        Args:
            action: Action in [-1, 1], (action dimension,) float32.

        Returns:
            Time step. Its discount is 0.0 only after a wrong press that ends the episode.
        """
        return self._wrapped.step(action)
