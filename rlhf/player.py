"""The player: performs checkpoints with noise, to be recorded or to be judged."""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from actors.config import RecordingConfig
from actors.environment import PianoEnvironment
from actors.episode import play
from actors.evaluator import mean_metrics
from actors.performance import Performance
from actors.recording import write_recordings
from actors.repertoire import Repertoire
from learner.config import SACConfig
from learner.device import use_cpu
from learner.policy import Policy
from replay.files import PackedFolder
from replay.transition import Observation
from rlhf.collection import PlannedSegment, Trajectory, write_segment
from rlhf.simulated_raters import QUALITIES, score


class Audition(NamedTuple):
    """What one performance is worth."""

    metrics: dict[str, float | None]
    """By name, see `actors.metrics`."""
    ratings: dict[str, int]
    """1 to 100, by the simulated raters' names; without their noise."""


class Player:
    """Plays what a collection is of (a Ray actor, on CPU).

    Args:
        repertoire: the songs of the collection.
        agent_config: of the policies' network.
    """

    def __init__(self, repertoire: Repertoire, agent_config: SACConfig):
        use_cpu()
        self._repertoire = repertoire
        self._agent_config = agent_config
        self._environments: dict[int, PianoEnvironment] = {}
        self._policies: dict[str, Policy] = {}

    def record(
        self,
        saved: PackedFolder,
        segments: Sequence[PlannedSegment],
        recording: RecordingConfig,
    ) -> list[PackedFolder]:
        """Plays one episode, and records segments of it.

        Args:
            saved: the checkpoint whose policy plays.
            segments: of one episode: alike but for name, first and last step.
            recording: camera, size, quality and sound.

        Returns:
            The segments, to be added to the collection.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
        """
        how = segments[0]
        environment = self._environment(how.song)
        performance, trajectory = perform(
            environment,
            self._policy(saved, environment),
            how.noise,
            how.temperature,
            how.seed,
        )
        packed = []
        for segment in segments:
            window = performance.window(segment.first_step, segment.last_step)
            with tempfile.TemporaryDirectory(prefix="pianist-") as parent:
                folder = pathlib.Path(parent) / segment.name
                folder.mkdir()
                window.save(folder / "performance.npz")
                write_recordings(window, environment.piano, recording, folder)
                write_segment(
                    folder,
                    segment,
                    trajectory.window(segment.first_step, segment.last_step),
                    window.seconds,
                    mean_metrics([window]),
                )
                packed.append(PackedFolder.pack(folder))
        return packed

    def audition(
        self, saved: PackedFolder, noise: float, temperature: float, seed: int
    ) -> list[Audition]:
        """Plays every song once and judges it.

        Args:
            saved: the checkpoint whose policy plays.
            noise: as in `Policy.perturbed`.
            temperature: likewise.
            seed: of noise and sampling.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
        """
        auditions = []
        for song in range(len(self._repertoire.songs)):
            environment = self._environment(song)
            policy = self._policy(saved, environment)
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

    def _policy(self, saved: PackedFolder, environment: PianoEnvironment) -> Policy:
        if saved.name not in self._policies:
            piano = environment.piano
            self._policies[saved.name] = Policy.load(
                saved, self._agent_config, piano.layout, piano.action_dim, self._repertoire.table
            )
        return self._policies[saved.name]


def perform(
    environment: PianoEnvironment, policy: Policy, noise: float, temperature: float, seed: int
) -> tuple[Performance, Trajectory]:
    """Plays one whole episode, with noise and temperature as in `Policy.perturbed`."""
    key = jax.random.PRNGKey(seed)
    observations: list[Observation] = []
    actions, log_probabilities, states = [], [], []

    def act(observation: Observation) -> np.ndarray:
        nonlocal key
        action, log_probability, key = policy.perturbed(
            observation.batch_of_one(), key, temperature, noise
        )
        observations.append(observation)
        states.append(environment.simulator_state())
        actions.append(action[0])
        log_probabilities.append(log_probability[0])
        return action[0]

    performance = play(environment, act)
    states.append(environment.simulator_state())
    return performance, Trajectory(
        proprioception=np.array([observation.proprioception for observation in observations]),
        row=np.array([observation.row for observation in observations], np.int32),
        action=np.array(actions, np.float32),
        log_probability=np.array(log_probabilities, np.float32),
        reward=performance.rewards.astype(np.float32),
        simulator_state=np.array(states),
    )
