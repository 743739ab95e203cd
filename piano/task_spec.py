"""The data that all environments of one song share: hands, piano and score."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from robopianist.music.midi_file import PianoNote

from learner.observation import ObservationLayout
from piano.config import EnvironmentConfig
from piano.keyboard import KEYS
from piano.scene import Scene
from piano.song import Song


class Reach(NamedTuple):
    """A group of K keys that fingertips should be near."""

    key_geoms: np.ndarray
    """Geoms of the keys, (K,)."""
    targets: np.ndarray
    """Offsets from the key centers to the points to touch, in meters, (K, 3)."""
    fingertips: np.ndarray | None
    """Sites of the annotated fingertips, (K,); None without annotation."""


class DueStep(NamedTuple):
    """The keys and the pedal due in one control step."""

    keys: list[int]
    """Keys due, in the order in which their rewards are summed."""
    key_set: frozenset[int]
    """Keys due, as a set."""
    pedal: bool
    """Whether the pedal is due."""
    now: Reach
    """Reach of the keys due, in the order of `keys`."""
    soon: Reach | None
    """Reach of the keys due now and of those at the next onset within
    `EnvironmentConfig.preparation_steps`. If one finger should play two keys, only the key that
    is due now counts. None if there is nothing to prepare."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A song on a grid of T control steps.

    Attributes:
        keys: Keys due at each control step, (T, 88) bool.
        pedal: Whether the pedal is due at each control step, (T,) bool.
        velocities: MIDI velocities of the notes due, 0 for other keys, (T, 88) uint8. They are
            not part of the observation or the reward.
        keys_in_order: Keys due at each control step, those of the right hand first.
        fingers: Fingers of `keys_in_order` (0 to 9, right hand first); None if fingering is not
            part of the task.
        features: Part of the observation that depends on time alone, (T + 1, features) uint8:
            the fingers in use if fingering is part of the task, and the goals from now to the end
            of the lookahead. Row T repeats row T - 1, as robopianist's observation does.
    """

    keys: np.ndarray
    pedal: np.ndarray
    velocities: np.ndarray
    keys_in_order: list[np.ndarray]
    fingers: list[np.ndarray] | None
    features: np.ndarray


def make_score(song: Song, config: EnvironmentConfig, hold: int = 0) -> Score:
    """Makes the score of a song.

    Args:
        song: Song to play.
        config: Settings of the environment.
        hold: Number of control steps by which each note ends later, or earlier if negative. A
            note keeps at least one control step, and repeated notes stay apart.
    """
    lookahead = config.n_steps_lookahead
    annotated = song.has_fingering and not config.disable_fingering_reward
    trajectory = song.trajectory(config.control_timestep)
    steps = len(trajectory)
    goal = np.zeros((steps + lookahead, KEYS + 1), np.uint8)
    velocities = np.zeros((steps, KEYS), np.uint8)
    in_use = np.zeros((steps, 10), np.uint8)
    keys_in_order, fingers = [], []
    for step, notes in enumerate(_held(trajectory.notes, hold)):
        goal[step, [note.key for note in notes]] = 1
        velocities[step, [note.key for note in notes]] = [note.velocity for note in notes]
        goal[step, KEYS] = trajectory.sustains[step]
        # robopianist sums its distances in this order, right hand first.
        by_hand = sorted(notes, key=lambda note: note.fingering >= 5)
        pairs = np.array([(note.fingering, note.key) for note in by_hand], np.int64)
        used, keys = pairs.reshape(-1, 2).T
        keys_in_order.append(keys)
        fingers.append(used)
        if annotated:
            in_use[step, used] = 1
    window = np.lib.stride_tricks.sliding_window_view(goal, lookahead + 1, axis=0)
    goals = window.transpose(0, 2, 1).reshape(steps, -1)
    features = np.concatenate([in_use, goals], axis=1) if annotated else goals
    return Score(
        keys=goal[:steps, :KEYS].astype(bool),
        pedal=goal[:steps, KEYS].astype(bool),
        velocities=velocities,
        keys_in_order=keys_in_order,
        fingers=fingers if annotated else None,
        features=np.concatenate([features, features[-1:]]),
    )


def _held(steps: Sequence[Sequence[PianoNote]], hold: int) -> list[list[PianoNote]]:
    """Returns the notes due at each control step if each note ends `hold` steps later."""
    found = [list(notes) for notes in steps]
    for _ in range(abs(hold)):
        due = [{note.key for note in notes} for notes in found]
        before, after = [set(), *due], [*due[1:], set()]
        if hold > 0:
            found = [
                notes
                + [
                    note
                    for note in (found[step - 1] if step else ())
                    if note.key not in due[step] | after[step]
                ]
                for step, notes in enumerate(found)
            ]
        else:
            found = [
                [note for note in notes if note.key in after[step] or note.key not in before[step]]
                for step, notes in enumerate(found)
            ]
    return found


class TaskSpec:
    """The hands, piano and score of one song. Environments only read it.

    Args:
        scene: Scene with hands and piano.
        score: Score to play.
        config: Settings of the task and its physics.
        first_row: Row in the table of features where the song begins.
    """

    def __init__(self, scene: Scene, score: Score, config: EnvironmentConfig, first_row: int):
        self.scene = scene
        self.score = score
        self.config = config
        self.first_row = first_row
        self.steps = [self._due_step(step) for step in range(len(score.keys))]

        # robopianist's wrapper sorts the parts of the observation by name: action; fingering and
        # goal; left hand, keys, pedal, reward, right hand.
        last_step = config.action_reward_observation
        joints = sum(len(indices) for indices in scene.hand_joints)
        self.layout = ObservationLayout(
            before=self.action_dim if last_step else 0,
            features=score.features.shape[1],
            after=joints + KEYS + 1 + (1 if last_step else 0),
            frames=config.frame_stack,
        )

    def _due_step(self, step: int) -> DueStep:
        keys = self.score.keys_in_order[step]
        fingers = self.score.fingers[step] if self.score.fingers else None
        soon = self._with_next_onset(step, keys, fingers)
        return DueStep(
            keys=keys.tolist(),
            key_set=frozenset(keys.tolist()),
            pedal=bool(self.score.pedal[step]),
            now=self._reach(keys, fingers),
            soon=self._reach(*soon) if len(soon[0]) > len(keys) else None,
        )

    def _reach(self, keys: np.ndarray, fingers: np.ndarray | None) -> Reach:
        scene = self.scene
        return Reach(
            key_geoms=scene.key_geoms[keys],
            targets=scene.key_targets[keys],
            fingertips=None if fingers is None else scene.fingertips[fingers],
        )

    def _with_next_onset(
        self, step: int, keys: np.ndarray, fingers: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the keys due now or at the next prepared onset, and any annotated fingers."""
        score, after = self.score, step + 1
        ahead = score.keys[after : after + self.config.preparation_steps]
        before = score.keys[step : step + len(ahead)]
        onsets = np.flatnonzero((ahead & ~before).any(axis=1))
        if not len(onsets):
            return keys, fingers
        onset = after + onsets[0]
        due = score.keys_in_order[onset]
        begins = (score.keys[onset] & ~score.keys[onset - 1])[due]
        free = begins & ~np.isin(due, keys)
        if fingers is None or score.fingers is None:
            return np.append(keys, due[free]), None
        free &= ~np.isin(score.fingers[onset], fingers)
        return np.append(keys, due[free]), np.append(fingers, score.fingers[onset][free])

    @property
    def action_dim(self) -> int:
        """Number of values in an action."""
        return len(self.scene.first_action)

    @property
    def episode_length(self) -> int:
        """Length of an episode in control steps, which is the whole song."""
        return len(self.score.keys)
