"""The player: performs renditions by checkpoints, to be recorded or to be judged."""

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
    """What one performance is worth."""

    metrics: dict[str, float | None]
    """By name, see `piano.metrics`."""
    ratings: dict[str, int]
    """1 to 100, by what simulated raters listen for; without their noise."""


class Rehearsal(NamedTuple):
    """A deterministic performance, and where renditions can begin."""

    performance: Performance
    snapshots: dict[int, Snapshot]
    """By the control step before which they were taken."""


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
        self._policies: dict[bytes, Policy] = {}
        self._held_table = functools.cache(repertoire.held_table)

    def rehearse(self, saved: PackedFolder, song: int, steps: Collection[int]) -> Rehearsal:
        """Plays a song deterministically, and keeps where renditions can begin.

        Args:
            saved: the checkpoint whose policy plays: a collection's base.
            song: its number in the repertoire.
            steps: control steps before which renditions begin.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
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
        """Plays a segment, and records it.

        Args:
            saved: the checkpoint whose policy plays.
            planned: the segment.
            start: where its lead-in begins.
            recording: camera, size, quality and sound.
            video: whether to make one.

        Returns:
            The segment, to be added to the collection.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
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
        """Plays every song once, as a whole, and judges it.

        Args:
            saved: the checkpoint whose policy plays.
            variation: of the policy's deterministic play.
            seed: of all that the variation draws.
            raters: what the simulated ones listen for, see `rlhf.simulated_raters.parse_quality`.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
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
        """Plays every song once, as a whole, for the actions that are intended on the way.

        Args:
            saved: the checkpoint whose policy plays.
            variation: of the policy's deterministic play; `temperature` and `noise` lead to
                situations beside the way, and are not in the intended actions.
            seed: of all that the variation draws.

        Raises:
            BadInput: the checkpoint is damaged, or of another network.
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
                    np.array([one.row for one in observations], np.int32),
                    np.array(intended, np.float32),
                )
            )
        return demonstrations

    def _varied_songs(
        self, saved: PackedFolder, variation: Variation, seed: int
    ) -> Iterator[tuple[PianoEnvironment, VariedPolicy]]:
        """Every song's environment, and the policy that is to play it as a whole."""
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
    """Plays a rendition, of a whole episode or of a stretch of it: see `piano.episode.play`."""
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
        row=np.array([observation.row for observation in observations], np.int32),
        action=np.array([one.action for one in played], np.float32),
        log_probability=np.array([one.log_probability for one in played], np.float32),
        reward=performance.rewards.astype(np.float32),
        simulator_state=np.array(states),
    )
