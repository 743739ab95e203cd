"""The piece of the benchmarks: Twinkle Twinkle with the settings of robopianist's authors."""

import numpy as np

from piano.config import EnvironmentConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.repertoire import Repertoire
from piano.song import load_songs
from piano.task_spec import TaskSpec
from replay.transition import Step

SONG = SongConfig(trim_silence=True)
CONFIG = EnvironmentConfig(
    gravity_compensation=True,
    reduced_action_space=True,
    primitive_fingertip_collisions=True,
    action_reward_observation=True,
)


def load_repertoire() -> Repertoire:
    """Loads the piece with these settings."""
    return Repertoire(load_songs(SONG), CONFIG)


def wandering_actions(piano: TaskSpec) -> np.ndarray:
    """Returns (control steps, action dimension) float32: a random walk in the range of actions."""
    walk = np.random.default_rng(0).normal(scale=0.3, size=(piano.episode_length, piano.action_dim))
    return np.sin(np.cumsum(walk, axis=0)).astype(np.float32)


def played_episode(piano: TaskSpec) -> list[Step]:
    """Plays an episode of the real environment with randomly wandering actions."""
    environment = PianoEnvironment(piano)
    observation, steps = environment.reset().observation, []
    for action in wandering_actions(piano):
        timestep = environment.step(action)
        steps.append(Step(observation, action, timestep.reward, timestep.discount))
        observation = timestep.observation
    return steps
