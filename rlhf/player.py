"""The player: performs renditions by checkpoints, which are recorded or judged."""

import functools
import itertools
import pathlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from actors.evaluator import mean_metrics
from common.files import PackedFolder
from learner.config import SACConfig
from learner.device import use_cpu
from learner.policy import Perturbed, Policy
from piano.config import RecordingConfig
from piano.environment import PianoEnvironment, Snapshot
from piano.episode import play
from piano.performance import Performance
from piano.recording import write_recordings
from piano.repertoire import Repertoire
from replay.transition import Observation
from rlhf import imitation
from rlhf.collection import PlannedSegment, Trajectory, write_segment
from rlhf.simulated_raters import QUALITIES, parse_quality, score
from rlhf.variation import Variation
from rlhf.varied_policy import VariedPolicy


class Audition(NamedTuple):
    """Metrics and ratings of one performance."""

    metrics: dict[str, float | None]
    """Metrics by name, see `piano.metrics`."""
    ratings: dict[str, int]
    """Scores of simulated raters without noise, 1 to 100, by the quality they listen for."""


class Rehearsal(NamedTuple):
    """A deterministic performance, and the states in which renditions can begin."""

    performance: Performance
    snapshots: dict[int, Snapshot]
    """Snapshots by the control step before which they were taken."""


class Player:
    """Plays the songs of a collection (a Ray actor, on the CPU).

    Args:
        repertoire: Songs of the collection.
        agent_config: Settings of the policies' network.
    """

    def __init__(self, repertoire: Repertoire, agent_config: SACConfig):
        use_cpu()
        self._repertoire = repertoire
        self._agent_config = agent_config
        self._environments: dict[int, PianoEnvironment] = {}
        self._policies: dict[bytes, Policy] = {}
        self._held_table = functools.cache(repertoire.held_table)

    def rehearse(self, saved: PackedFolder, song: int, steps: Collection[int]) -> Rehearsal:
        """Plays a song deterministically, and keeps the states in which renditions can begin.

        Args:
            saved: Checkpoint whose policy plays: the base of a collection.
            song: Index of the song in the repertoire.
            steps: Control steps before which renditions begin.

        Raises:
            BadInput: The checkpoint is damaged, or has another network.
        """
        environment = self._environment(song)
        policy = self._policy(saved, environment)
        snapshots: dict[int, Snapshot] = {}
        count = itertools.count()

        def act(observation: Observation) -> np.ndarray:
            step = next(count)
            if step in steps:
                snapshots[step] = environment.snapshot()
            return policy.mode(observation.batch_of_one())[0]

        return Rehearsal(play(environment, act), snapshots)

    def record(
        self,
        saved: PackedFolder,
        planned: PlannedSegment,
        start: Snapshot,
        recording: RecordingConfig,
        video: bool = True,
    ) -> PackedFolder:
        """Plays a segment and records it.

        Args:
            saved: Checkpoint whose policy plays.
            planned: Plan of the segment.
            start: State in which the segment's lead-in begins.
            recording: Camera, size, quality and sound.
            video: Whether a video is rendered.

        Returns:
            The segment, to be added to the collection.

        Raises:
            BadInput: The checkpoint is damaged, or has another network.
        """
        environment = self._environment(planned.song)
        policy = self._varied(saved, environment, planned.variation, planned.seed)
        length = planned.lead_in + planned.last_step - planned.first_step
        performance, trajectory = perform(environment, policy, start, length)
        judged = performance.window(planned.lead_in, length)
        with tempfile.TemporaryDirectory(prefix="pianist-") as parent:
            folder = pathlib.Path(parent) / planned.name
            folder.mkdir()
            performance.save(folder / "performance.npz")
            write_recordings(performance, environment.piano, recording, folder, video)
            write_segment(
                folder,
                planned,
                trajectory.window(planned.lead_in, length),
                performance.seconds,
                mean_metrics([judged]),
            )
            return PackedFolder.pack(folder)

    def audition(
        self,
        saved: PackedFolder,
        variation: Variation,
        seed: int,
        raters: Sequence[str] = tuple(QUALITIES),
    ) -> list[Audition]:
        """Plays every song once, completely, and judges the performances.

        Args:
            saved: Checkpoint whose policy plays.
            variation: Variation of the policy's deterministic play.
            seed: Random seed of all draws of the variation.
            raters: Qualities that simulated raters listen for, see
                `rlhf.simulated_raters.parse_quality`.

        Raises:
            BadInput: The checkpoint is damaged, or has another network.
        """
        auditions = []
        for environment, policy in self._varied_songs(saved, variation, seed):
            performance, trajectory = perform(environment, policy)
            ratings = {
                rater: score(parse_quality(rater)(performance, trajectory)) for rater in raters
            }
            auditions.append(Audition(mean_metrics([performance]), ratings))
        return auditions

    def demonstrate(
        self, saved: PackedFolder, variation: Variation, seed: int
    ) -> list[imitation.Demonstration]:
        """Plays every song once, completely, and keeps the intended actions.

        Args:
            saved: Checkpoint whose policy plays.
            variation: Variation of the policy's deterministic play. `temperature` and `noise` lead
                to additional situations, but are not part of the intended actions.
            seed: Random seed of all draws of the variation.

        Raises:
            BadInput: The checkpoint is damaged, or has another network.
        """
        demonstrations = []
        for environment, policy in self._varied_songs(saved, variation, seed):
            observations: list[Observation] = []
            intended: list[np.ndarray] = []

            def act(
                observation: Observation,
                policy: VariedPolicy = policy,
                observations: list[Observation] = observations,
                intended: list[np.ndarray] = intended,
            ) -> np.ndarray:
                perturbed = policy.act(observation)
                observations.append(observation)
                intended.append(np.asarray(perturbed.intended))
                return np.asarray(perturbed.action)

            play(environment, act)
            demonstrations.append(
                imitation.Demonstration(
                    np.array([one.proprioception for one in observations]),
                    np.array([one.goal_index for one in observations], np.int32),
                    np.array(intended, np.float32),
                )
            )
        return demonstrations

    def _varied_songs(
        self, saved: PackedFolder, variation: Variation, seed: int
    ) -> Iterator[tuple[PianoEnvironment, VariedPolicy]]:
        """Yields every song's environment with the policy that plays the complete song."""
        for song in range(len(self._repertoire.songs)):
            environment = self._environment(song)
            yield environment, self._varied(saved, environment, variation, seed)

    def _varied(
        self, saved: PackedFolder, environment: PianoEnvironment, variation: Variation, seed: int
    ) -> VariedPolicy:
        piano = environment.piano
        rows = (piano.first_row, piano.first_row + piano.episode_length)
        policy = self._policy(saved, environment)
        return VariedPolicy(policy, variation, seed, rows, self._held_table)

    def _environment(self, song: int) -> PianoEnvironment:
        if song not in self._environments:
            self._environments[song] = PianoEnvironment(self._repertoire.piano(song))
        return self._environments[song]

    def _policy(self, saved: PackedFolder, environment: PianoEnvironment) -> Policy:
        if saved.fingerprint not in self._policies:
            piano = environment.piano
            self._policies[saved.fingerprint] = Policy.load(
                saved, self._agent_config, piano.layout, piano.action_dim, self._repertoire.table
            )
        return self._policies[saved.fingerprint]


def perform(
    environment: PianoEnvironment,
    policy: VariedPolicy,
    start: Snapshot | None = None,
    steps: int | None = None,
) -> tuple[Performance, Trajectory]:
    """Plays a rendition of an episode or of a part of it, see `piano.episode.play`."""
    observations: list[Observation] = []
    played: list[Perturbed] = []
    states = []

    def act(observation: Observation) -> np.ndarray:
        played.append(policy.act(observation))
        observations.append(observation)
        states.append(environment.simulator_state())
        return np.asarray(played[-1].action)

    performance = play(environment, act, start, steps)
    states.append(environment.simulator_state())
    return performance, Trajectory(
        proprioception=np.array([observation.proprioception for observation in observations]),
        row=np.array([observation.goal_index for observation in observations], np.int32),
        action=np.array([one.action for one in played], np.float32),
        log_probability=np.array([one.log_probability for one in played], np.float32),
        reward=performance.rewards.astype(np.float32),
        simulator_state=np.array(states),
    )
