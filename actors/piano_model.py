"""What all environments of one song share: the MuJoCo model, where things are in it, the score.

robopianist builds the model and defines the task; everything here is read off them once.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from dm_control import mjcf

from actors.config import EnvironmentConfig
from actors.song import Song
from actors.stock_environment import StockEnvironment
from actors.task import key_target_offset
from learner.observation import ObservationLayout

RIGHT_FOREARM, LEFT_FOREARM = 1, 2
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
    """The model of one song and configuration; environments only read it.

    Args:
        song: to be played.
        config: of task and physics.
        first_row: that belongs to the beginning of the song, in the table of features.
    """

    def __init__(self, song: Song, config: EnvironmentConfig, first_row: int = 0):
        stock = StockEnvironment(song, config)
        stock.reset()
        task, physics = stock.task, stock.composer.physics
        self.config = config
        self._physics = physics  # Owns the model and the data below.
        self.model: mujoco.MjModel = physics.model.ptr
        self.first_data: mujoco.MjData = physics.data.ptr
        # Nothing here reads sensors; they cost three per cent.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
        self.substeps = round(config.control_timestep / self.model.opt.timestep)
        self.energy_penalty: float = task._energy_penalty_coef
        self.fingering_by_transport = task.fingering_by_transport
        self.score = make_score(song, config)
        self.first_row = first_row

        actions = stock.composer.action_spec()
        self.action_minimum = actions.minimum
        self.half_action_scale = 0.5 * (actions.maximum - actions.minimum)
        self.first_action = actions.generate_value().astype(np.float32)

        hands = (task.right_hand, task.left_hand)
        self.hand_controls = [_slice(physics.bind(hand.actuators).element_id) for hand in hands]
        self.hand_joints = [_addresses(physics, hand.joints, "qpos") for hand in hands]
        right, left = (_geoms_named_as(physics, hand.root_body.geom) for hand in hands)
        self.forearm_sides = RIGHT_FOREARM * right + LEFT_FOREARM * left
        sites = [site for hand in hands for site in hand.fingertip_sites]
        self.fingertips = np.array(physics.bind(sites).element_id)

        self.keys = _slice(_addresses(physics, task.piano.joints, "qpos"))
        self.key_velocities = _addresses(physics, task.piano.joints, "dof")
        self.key_range = tuple(np.array(task.piano._qpos_range).T)
        geoms = physics.bind([key.geom[0] for key in task.piano.keys])
        self.key_geoms = np.array(geoms.element_id)
        self.key_targets = key_target_offset(np.array(geoms.size))
        self.steps = [self._due_step(step) for step in range(len(self.score.keys))]

        # In the order of their names in robopianist, by which its wrapper sorts them: action;
        # fingering and goal; left hand, keys, pedal, reward, right hand.
        last_step = config.action_reward_observation
        joints = sum(len(indices) for indices in self.hand_joints)
        self.layout = ObservationLayout(
            before=len(self.first_action) if last_step else 0,
            features=self.score.features.shape[1],
            after=joints + _KEYS + 1 + (1 if last_step else 0),
            frames=config.frame_stack,
        )

    def _due_step(self, step: int) -> DueStep:
        score, keys = self.score, self.score.keys_in_order[step]
        return DueStep(
            keys=keys.tolist(),
            key_set=frozenset(keys.tolist()),
            pedal=bool(score.pedal[step]),
            key_geoms=self.key_geoms[keys],
            targets=self.key_targets[keys],
            fingertips=self.fingertips[score.fingers[step]] if score.fingers else None,
        )

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return len(self.first_action)

    @property
    def episode_length(self) -> int:
        """Control steps of the whole song."""
        return len(self.score.keys)


def _slice(indices: np.ndarray) -> slice:
    """The same indices as a slice, which NumPy reads without copying.

    Raises:
        ValueError: they do not follow each other.
    """
    first, last = int(indices[0]), int(indices[-1]) + 1
    if list(indices) != list(range(first, last)):
        raise ValueError(f"expected consecutive indices, got {indices}")
    return slice(first, last)


def _addresses(physics: mjcf.Physics, joints: Sequence[Any], kind: str) -> np.ndarray:
    """Where joints are in qpos, or with "dof" in qvel."""
    return np.array(getattr(physics.model.ptr, f"jnt_{kind}adr")[physics.bind(joints).element_id])


def _geoms_named_as(physics: mjcf.Physics, geoms: Sequence[Any]) -> np.ndarray:
    """(number of geoms,) bool: whose name begins like one of these.

    So does mujoco_utils' `has_collision`, which robopianist asks.
    """
    prefixes = tuple(geom.full_identifier for geom in geoms)
    names = [physics.model.id2name(i, "geom") for i in range(physics.model.ngeom)]
    return np.array([name.startswith(prefixes) for name in names])
