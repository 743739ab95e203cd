"""What all environments of one song share: hands, piano, and the score."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from robopianist.music.midi_file import PianoNote

from learner.observation import ObservationLayout
from piano.config import EnvironmentConfig
from piano.scene import Scene
from piano.song import Song

_KEYS = 88


class Reach(NamedTuple):
    """K keys that fingertips should be near."""

    key_geoms: np.ndarray
    """(K,) geoms of the keys."""
    targets: np.ndarray
    """(K, 3) meters, from the center of each key to where a fingertip should touch it."""
    fingertips: np.ndarray | None
    """(K,) sites of the fingertips that the annotation assigns; None without annotation."""


class DueStep(NamedTuple):
    """What is due in one control step."""

    keys: list[int]
    """In the order in which their rewards are summed."""
    key_set: frozenset[int]
    """The same keys."""
    pedal: bool
    """Whether the pedal is due."""
    now: Reach
    """The keys, in this order."""
    soon: Reach | None
    """These, and those of the next onset within `EnvironmentConfig.preparation_steps`; of two
    that one finger should play, the one that is due now. None if there is nothing to prepare."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A song on the grid of control steps; T of them.

    Attributes:
        keys: (T, 88) bool, due at each control step.
        pedal: (T,) bool.
        velocities: (T, 88) uint8, the MIDI velocity of the note that is due; 0 where none is.
            Neither observation nor reward has it.
        keys_in_order: for each control step the keys due, those of the right hand first.
        fingers: their fingers (0 to 9, right hand first); None if fingering is not part of the
            task.
        features: (T + 1, features) uint8, what of the observation is a function of time: the
            fingers in use, if fingering is part of the task, and the goals from now to the end
            of the lookahead. Row T repeats row T - 1, as robopianist's observation does.
    """

    keys: np.ndarray
    pedal: np.ndarray
    velocities: np.ndarray
    keys_in_order: list[np.ndarray]
    fingers: list[np.ndarray] | None
    features: np.ndarray


def make_score(song: Song, config: EnvironmentConfig, hold: int = 0) -> Score:
    """The score of a song.

    Args:
        song: to be played.
        config: of the environment.
        hold: control steps by which each note ends later, or earlier if negative. A note keeps
            one control step at least, and repeated notes stay apart.
    """
    lookahead = config.n_steps_lookahead
    annotated = song.has_fingering and not config.disable_fingering_reward
    trajectory = song.trajectory(config.control_timestep)
    steps = len(trajectory)
    goal = np.zeros((steps + lookahead, _KEYS + 1), np.uint8)
    velocities = np.zeros((steps, _KEYS), np.uint8)
    in_use = np.zeros((steps, 10), np.uint8)
    keys_in_order, fingers = [], []
    for step, notes in enumerate(_held(trajectory.notes, hold)):
        goal[step, [note.key for note in notes]] = 1
        velocities[step, [note.key for note in notes]] = [note.velocity for note in notes]
        goal[step, _KEYS] = trajectory.sustains[step]
        # Right hand first, as robopianist sums its distances.
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
        keys=goal[:steps, :_KEYS].astype(bool),
        pedal=goal[:steps, _KEYS].astype(bool),
        velocities=velocities,
        keys_in_order=keys_in_order,
        fingers=fingers if annotated else None,
        features=np.concatenate([features, features[-1:]]),
    )


def _held(steps: Sequence[Sequence[PianoNote]], hold: int) -> list[list[PianoNote]]:
    """The notes due at each control step, if each note ends `hold` control steps later."""
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
    """Hands, piano and score of one song; environments only read it.

    Args:
        scene: of hands and piano.
        score: to be played.
        config: of task and physics.
        first_row: that belongs to the beginning of the song, in the table of features.
    """

    def __init__(self, scene: Scene, score: Score, config: EnvironmentConfig, first_row: int):
        self.scene = scene
        self.score = score
        self.config = config
        self.first_row = first_row
        self.steps = [self._due_step(step) for step in range(len(score.keys))]

        # In the order of their names in robopianist, by which its wrapper sorts them: action;
        # fingering and goal; left hand, keys, pedal, reward, right hand.
        last_step = config.action_reward_observation
        joints = sum(len(indices) for indices in scene.hand_joints)
        self.layout = ObservationLayout(
            before=self.action_dim if last_step else 0,
            features=score.features.shape[1],
            after=joints + _KEYS + 1 + (1 if last_step else 0),
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
        """Keys, and their fingers if annotated, due now or at the next onset that is prepared."""
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
        """Numbers in an action."""
        return len(self.scene.first_action)

    @property
    def episode_length(self) -> int:
        """Control steps of the whole song."""
        return len(self.score.keys)
