"""The player: performs checkpoints with noise, to be recorded or to be judged."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import mujoco
import numpy as np

from actors.config import EnvironmentConfig, RecordingConfig
from actors.environment import PianoEnvironment
from actors.episode import play
from actors.evaluator import mean_metrics
from actors.performance import Performance
from actors.recording import write_recordings
from actors.repertoire import Repertoire
from learner.config import SACConfig
from learner.policy import Policy
from replay.transition import Observation
from rlhf.collection import Collection, PlannedSegment, Trajectory
from rlhf.simulated_raters import QUALITIES, score

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Audition(NamedTuple):
    """What one performance is worth."""

    metrics: dict[str, float | None]
    """By name, see `actors.metrics`."""
    ratings: dict[str, int]
    """1 to 100, by the simulated raters' names; without their noise."""


class Player:
    """Plays what a collection is of (a Ray actor, on CPU).

    Args:
        collection: its folder.
        environment_config: of every environment.
        agent_config: of the policies' network.

    Raises:
        BadInput: the collection is damaged.
    """

    def __init__(
        self,
        collection: pathlib.Path,
        environment_config: EnvironmentConfig,
        agent_config: SACConfig,
    ):
        self._collection = Collection.open(collection)
        self._repertoire = Repertoire(self._collection.songs(), environment_config)
        self._agent_config = agent_config
        self._environments: dict[int, PianoEnvironment] = {}
        self._policies: dict[pathlib.Path, Policy] = {}

    def record(
        self,
        checkpoint_folder: pathlib.Path,
        segments: Sequence[PlannedSegment],
        recording: RecordingConfig,
    ) -> int:
        """Plays one episode, and adds segments of it to the collection.

        Args:
            checkpoint_folder: whose policy plays.
            segments: of one episode: alike but for name, first and last step.
            recording: camera, size, quality and sound.

        Returns:
            How many were added.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
        """
        how = segments[0]
        environment = self._environment(how.song)
        performance, trajectory = perform(
            environment,
            self._policy(checkpoint_folder, environment),
            how.noise,
            how.temperature,
            how.seed,
        )
        for segment in segments:
            folder = self._collection.folder(segment)
            folder.mkdir(parents=True, exist_ok=True)
            window = performance.window(segment.first_step, segment.last_step)
            window.save(folder / "performance.npz")
            write_recordings(window, environment.piano, recording, folder)
            self._collection.write_segment(
                segment,
                trajectory.window(segment.first_step, segment.last_step),
                window.seconds,
                mean_metrics([window]),
            )
        return len(segments)

    def audition(
        self, checkpoint_folder: pathlib.Path, noise: float, temperature: float, seed: int
    ) -> list[Audition]:
        """Plays every song once and judges it; nothing is written.

        Args:
            checkpoint_folder: whose policy plays.
            noise: as in `Policy.perturbed`.
            temperature: likewise.
            seed: of noise and sampling.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
        """
        auditions = []
        for song in range(len(self._repertoire.songs)):
            environment = self._environment(song)
            policy = self._policy(checkpoint_folder, environment)
            performance, trajectory = perform(environment, policy, noise, temperature, seed)
            metrics = mean_metrics([performance])
            ratings = {
                name: score(quality(metrics, trajectory)) for name, quality in QUALITIES.items()
            }
            auditions.append(Audition(metrics, ratings))
        return auditions

    def _environment(self, song: int) -> PianoEnvironment:
        if song not in self._environments:
            self._environments[song] = PianoEnvironment(self._repertoire.piano(song))
        return self._environments[song]

    def _policy(self, folder: pathlib.Path, environment: PianoEnvironment) -> Policy:
        if folder not in self._policies:
            piano = environment.piano
            self._policies[folder] = Policy.load(
                folder, self._agent_config, piano.layout, piano.action_dim, self._repertoire.table
            )
        return self._policies[folder]


def perform(
    environment: PianoEnvironment, policy: Policy, noise: float, temperature: float, seed: int
) -> tuple[Performance, Trajectory]:
    """Plays one whole episode, with noise and temperature as in `Policy.perturbed`."""
    key = jax.random.PRNGKey(seed)
    observations: list[Observation] = []
    actions, log_probabilities, states = [], [], []

    def simulator_state() -> np.ndarray:
        model = environment.piano.model
        state = np.empty(mujoco.mj_stateSize(model, _STATE))
        mujoco.mj_getState(model, environment.data, state, _STATE)
        return state

    def act(observation: Observation) -> np.ndarray:
        nonlocal key
        action, log_probability, key = policy.perturbed(
            observation.batch_of_one(), key, temperature, noise
        )
        observations.append(observation)
        states.append(simulator_state())
        actions.append(action[0])
        log_probabilities.append(log_probability[0])
        return action[0]

    performance = play(environment, act)
    states.append(simulator_state())
    return performance, Trajectory(
        proprioception=np.array([observation.proprioception for observation in observations]),
        row=np.array([observation.row for observation in observations], np.int32),
        action=np.array(actions, np.float32),
        log_probability=np.array(log_probabilities, np.float32),
        reward=performance.rewards.astype(np.float32),
        simulator_state=np.array(states),
    )
