"""What all environments of one song share: hands, piano, and the score."""

import dataclasses
from typing import NamedTuple

import numpy as np

from actors.config import EnvironmentConfig
from actors.mechanics import Mechanics
from actors.song import Song
from learner.observation import ObservationLayout

_KEYS = 88


class DueStep(NamedTuple):
    """What is due in one control step; K keys."""

    keys: list[int]
    """In the order in which their rewards are summed."""
    key_set: frozenset[int]
    """The same keys."""
    pedal: bool
    """Whether the pedal is due."""
    key_geoms: np.ndarray
    """(K,) geoms of the keys."""
    targets: np.ndarray
    """(K, 3) metres, from the centre of each key to where a fingertip should touch it."""
    fingertips: np.ndarray | None
    """(K,) sites of the fingertips that the annotation assigns; None without annotation."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A song on the grid of control steps; T of them.

    Attributes:
        keys: (T, 88) bool, due at each control step.
        pedal: (T,) bool.
        keys_in_order: for each control step the keys due, those of the right hand first.
        fingers: their fingers (0 to 9, right hand first); None if fingering is not part of the
            task.
        features: (T + 1, features) uint8, what of the observation is a function of time: the
            fingers in use, if fingering is part of the task, and the goals from now to the end
            of the lookahead. Row T repeats row T - 1, as robopianist's observation does.
    """

    keys: np.ndarray
    pedal: np.ndarray
    keys_in_order: list[np.ndarray]
    fingers: list[np.ndarray] | None
    features: np.ndarray


def make_score(song: Song, config: EnvironmentConfig) -> Score:
    """The score of a song."""
    lookahead = config.n_steps_lookahead
    annotated = song.has_fingering and not config.disable_fingering_reward
    trajectory = song.trajectory(config.control_timestep)
    steps = len(trajectory)
    goal = np.zeros((steps + lookahead, _KEYS + 1), np.uint8)
    in_use = np.zeros((steps, 10), np.uint8)
    keys_in_order, fingers = [], []
    for step, notes in enumerate(trajectory.notes):
        goal[step, [note.key for note in notes]] = 1
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
        keys_in_order=keys_in_order,
        fingers=fingers if annotated else None,
        features=np.concatenate([features, features[-1:]]),
    )


class PianoModel:
    """Hands, piano and score of one song; environments only read it.

    Args:
        mechanics: of hands and piano.
        score: to be played.
        config: of task and physics.
        first_row: that belongs to the beginning of the song, in the table of features.
    """

    def __init__(
        self, mechanics: Mechanics, score: Score, config: EnvironmentConfig, first_row: int
    ):
        self.mechanics = mechanics
        self.score = score
        self.config = config
        self.first_row = first_row
        self.steps = [self._due_step(step) for step in range(len(score.keys))]

        # In the order of their names in robopianist, by which its wrapper sorts them: action;
        # fingering and goal; left hand, keys, pedal, reward, right hand.
        last_step = config.action_reward_observation
        joints = sum(len(indices) for indices in mechanics.hand_joints)
        self.layout = ObservationLayout(
            before=self.action_dim if last_step else 0,
            features=score.features.shape[1],
            after=joints + _KEYS + 1 + (1 if last_step else 0),
            frames=config.frame_stack,
        )

    def _due_step(self, step: int) -> DueStep:
        mechanics, score, keys = self.mechanics, self.score, self.score.keys_in_order[step]
        return DueStep(
            keys=keys.tolist(),
            key_set=frozenset(keys.tolist()),
            pedal=bool(score.pedal[step]),
            key_geoms=mechanics.key_geoms[keys],
            targets=mechanics.key_targets[keys],
            fingertips=mechanics.fingertips[score.fingers[step]] if score.fingers else None,
        )

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return len(self.mechanics.first_action)

    @property
    def episode_length(self) -> int:
        """Control steps of the whole song."""
        return len(self.score.keys)
