"""A fast environment for robopianist's task, with the same numbers.

The reference is `piano.reference_environment`, robopianist's own environment under dm_control.
Both return the same observations, rewards, discounts and key presses for the same actions. This
one is faster because it skips the work around `mj_step`: bindings, observables, key colors and
MIDI bookkeeping ten times per control step, a collision search in Python, and one extra
`mj_forward`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import mujoco
import numpy as np
from dm_control.utils import rewards

from piano.scene import LEFT_FOREARM, RIGHT_FOREARM
from piano.task import transport_reward
from piano.task_spec import DueStep, Reach, TaskSpec
from replay.transition import Observation

# These match robopianist's suite/tasks/piano_with_shadow_hands.py and models/piano/piano.py.
_KEY_THRESHOLD = 0.00872665  # A key sounds within this angle of its bottom, in radians.
_SUSTAIN_THRESHOLD = 0.5
_FOREARM_REWARD = 0.5
# This matches mujoco_utils' collision_utils.py.
_COLLISION_MARGIN = 1e-8
# dm_control's tolerance is 0.1 at the margin.
_SCALE = math.sqrt(-2 * math.log(0.1))
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_ONE, _MINUS_ONE = np.float32(1), np.float32(-1)
_DIVERGED = slice(
    mujoco.mjtWarning.mjWARN_BADQPOS.value, mujoco.mjtWarning.mjWARN_BADCTRL.value + 1
)
# MuJoCo writes warnings to a file in the working directory. `DivergedError` covers the ones that
# matter here.
mujoco.set_mju_user_warning(lambda _message: None)


class DivergedError(ArithmeticError):
    """The simulation became unstable.

    Positions, velocities, accelerations or controls were not finite or were too large. MuJoCo
    has reset the model to its initial state.
    """


class TimeStep(NamedTuple):
    """The result of one control step."""

    observation: Observation
    """proprioception: (frames, proprioception dimension) float32; goal_index: () int."""
    reward: float
    """Reward as robopianist defines it."""
    learnt_reward: float
    """Reward that the policy learns from: robopianist's plus the terms of `EnvironmentConfig`."""
    discount: float
    """Discount, which is 0.0 after a wrong press that ends the episode and otherwise 1.0."""
    last: bool
    """Whether the episode ends with this step."""


class Snapshot(NamedTuple):
    """The full state of an environment between two control steps."""

    step: int
    """Number of control steps played so far."""
    simulator_state: np.ndarray
    """(numbers,) float64. State of the physics, see `PianoEnvironment.simulator_state`."""
    frames: np.ndarray
    """(frames, proprioception dimension) float32. Stacked frames, the newest last."""
    action: np.ndarray
    """(action dimension,) float32. Last action, in the units of the controls."""
    sustain: float
    """Position of the pedal, from 0 (up) to 1 (down)."""


class PianoEnvironment:
    """An environment with one piano, two hands and one song.

    Several environments can share one `TaskSpec` and run on different threads at the same time.

    Args:
        piano: Task specification of the song and the configuration.
    """

    def __init__(self, piano: TaskSpec):
        self.piano = piano
        self._scene = scene = piano.scene
        self.data = mujoco.MjData(scene.model)
        """State of the simulator. Other code only reads it."""
        self._frames = np.zeros((piano.layout.frames, piano.layout.proprioception_dim), np.float32)
        self._action = np.empty(piano.action_dim, np.float32)  # In the units of the controls.
        # These are views of the simulator's memory. A lookup through the bindings costs 1 µs each.
        self._controls = self.data.ctrl
        self._positions = self.data.qpos
        self._key_positions = self._positions[scene.keys]
        self._forces = self.data.actuator_force
        self._velocities = self.data.actuator_velocity
        self._sites = self.data.site_xpos
        self._geoms = self.data.geom_xpos
        self._warnings = self.data.warning.number[_DIVERGED]

    def reset(self) -> TimeStep:
        """Starts an episode and returns its first time step."""
        scene = self._scene
        mujoco.mj_copyData(self.data, scene.model, scene.first_data)
        self._step = 0
        self._frames = np.zeros_like(self._frames)
        self._action[:] = scene.first_action
        self._sustain = 0.0
        self.read_keys()
        return TimeStep(self._observe(reward=0.0), 0.0, 0.0, discount=1.0, last=False)

    def step(self, action: np.ndarray, after_substep: Callable[[], None] | None = None) -> TimeStep:
        """Applies an action for one control step.

        Args:
            action: Action in [-1, 1], (action dimension,) float32.
            after_substep: Function to call after every physics step, for recordings. Without it,
                MuJoCo runs the physics steps in one call. The numbers are the same either way.

        Raises:
            DivergedError: The simulation became unstable. `reset` starts the next episode.
        """
        self._apply(action)
        model, data = self._scene.model, self.data
        # This is dm_control's sequence: mj_step2, then mj_step1 for each physics step. It leaves
        # all quantities that depend on positions and velocities up to date with the last state.
        if after_substep is None:
            mujoco.mj_step2(model, data)
            mujoco.mj_step(model, data, self._scene.substeps - 1)
            mujoco.mj_step1(model, data)
        else:
            for _ in range(self._scene.substeps):
                mujoco.mj_step2(model, data)
                mujoco.mj_step1(model, data)
                after_substep()
        if self._warnings.any():
            raise DivergedError
        self.read_keys()
        return self._conclude()

    def simulator_state(self) -> np.ndarray:
        """Returns the state of the physics, MuJoCo's mjSTATE_INTEGRATION, (numbers,) float64."""
        state = np.empty(mujoco.mj_stateSize(self._scene.model, _STATE))
        mujoco.mj_getState(self._scene.model, self.data, state, _STATE)
        return state

    def snapshot(self) -> Snapshot:
        """Returns the state that `restore` continues from."""
        # Only the action needs a copy, because frames are never modified in place.
        return Snapshot(
            self._step, self.simulator_state(), self._frames, self._action.copy(), self._sustain
        )

    def restore(self, snapshot: Snapshot) -> TimeStep:
        """Restores a snapshot of an environment with the same piano and song.

        The same actions then lead to bitwise identical results. The returned time step has a
        reward of 0.

        Args:
            snapshot: State from `snapshot`.
        """
        self.reset()  # This clears warnings and other data outside the snapshot.
        model, data = self._scene.model, self.data
        mujoco.mj_setState(model, data, snapshot.simulator_state, _STATE)
        mujoco.mj_step1(model, data)
        self._step = snapshot.step
        self._frames = snapshot.frames
        self._action[:] = snapshot.action
        self._sustain = snapshot.sustain
        self.read_keys()
        index = np.int32(self.piano.first_row + self._step)
        return TimeStep(Observation(self._frames, index), 0.0, 0.0, discount=1.0, last=False)

    def read_keys(self) -> None:
        """Updates `key_state`, `keys_down` and `pedal_down` from the simulator.

        `key_state` is (88,) float64 from 0 (up) to 1 (down). `keys_down` is (88,) bool.
        """
        lowest, highest = self._scene.key_range
        position = np.minimum(np.maximum(self._key_positions, lowest), highest)
        self.key_state = position / highest
        self.keys_down = (highest - position) <= _KEY_THRESHOLD
        self.pedal_down = self._sustain >= _SUSTAIN_THRESHOLD

    def _apply(self, action: np.ndarray) -> None:
        # This repeats each operation of dm_env_wrappers' CanonicalSpecWrapper in single precision.
        raw = self._action
        if self.piano.config.clip:
            np.minimum(np.maximum(action, _MINUS_ONE), _ONE, out=raw)
            raw += _ONE
        else:
            np.add(action, _ONE, out=raw)
        raw *= self._scene.half_action_scale
        raw += self._scene.action_minimum
        self._controls[:] = raw[:-1]
        self._sustain = float(raw[-1])

    def _conclude(self) -> TimeStep:
        due = self.piano.steps[self._step]
        wrong = not due.key_set.issuperset(self.keys_down.nonzero()[0].tolist())
        nearness = self._nearness(due.now)
        reward = self._reward(due, wrong, nearness)
        prepared = 0.0 if due.soon is None else self._nearness(due.soon) - nearness
        failed = wrong and self.piano.config.wrong_press_termination
        self._step += 1
        return TimeStep(
            observation=self._observe(reward),
            reward=reward,
            learnt_reward=reward + prepared,
            discount=0.0 if failed else 1.0,
            last=failed or self._step == self.piano.episode_length,
        )

    def _observe(self, reward: float) -> Observation:
        piano = self.piano
        newest = np.empty(piano.layout.proprioception_dim, np.float32)
        right, left = self._scene.hand_joints
        end = 0
        if piano.config.action_reward_observation:
            end = len(self._action)
            newest[:end] = self._action
        begin, end = end, end + len(left)
        newest[begin:end] = self._positions[left]
        begin, end = end, end + len(self.key_state)
        newest[begin:end] = self.key_state
        newest[end] = self._sustain
        if piano.config.action_reward_observation:
            newest[end + 1] = reward
        newest[-len(right) :] = self._positions[right]
        # The array has to be new, because the previous one may be on its way to the replay.
        self._frames = np.concatenate([self._frames[1:], newest[None]])
        return Observation(self._frames, np.int32(piano.first_row + self._step))

    # --- Reward: the terms of robopianist's task, in the same order ------------------------
    #
    # Only a few keys are due at a time, so plain Python is faster than NumPy here.

    def _reward(self, due: DueStep, wrong: bool, nearness: float) -> float:
        piano = self.piano
        reward = self._key_press_reward(due, wrong) + _PEDAL_REWARD[due.pedal, self.pedal_down]
        reward += self._energy_reward()
        if due.now.fingertips is not None:
            reward += nearness
        if not piano.config.disable_forearm_reward:
            reward += self._forearm_reward()
        if self._scene.fingering_by_transport:
            reward += nearness
        return reward

    def _key_press_reward(self, due: DueStep, wrong: bool) -> float:
        reward = 0.0 if wrong else 0.5
        if due.keys:
            closeness = [_closeness(1.0 - self.key_state[key], 0.05) for key in due.keys]
            reward += 0.5 * sum(closeness) / len(closeness)
        return reward

    def _energy_reward(self) -> float:
        # As in the sensors that robopianist reads, forces belong to the last physics step and
        # velocities to the state after it. If a control step has only one physics step,
        # dm_control updates the forces.
        if self._scene.substeps == 1:
            mujoco.mj_fwdActuation(self._scene.model, self.data)
        power = np.abs(self._forces * self._velocities)
        right, left = self._scene.hand_controls
        return -self._scene.energy_penalty * float(np.add.reduce(power[right])) - (
            self._scene.energy_penalty * float(np.add.reduce(power[left]))
        )

    def _nearness(self, reach: Reach) -> float:
        """Returns the fingering reward for the keys of `reach`.

        With annotated fingering, each key has a fixed finger. Without it, one assignment picks
        the fingers of all keys.
        """
        by_transport = reach.fingertips is None
        if not len(reach.key_geoms) or (by_transport and not self._scene.fingering_by_transport):
            return 0.0
        targets = self._geoms[reach.key_geoms] + reach.targets
        if by_transport:
            return transport_reward(self._sites[self._scene.fingertips], targets)
        closeness = [
            _closeness(math.dist(target, fingertip), 0.01)
            for target, fingertip in zip(
                targets.tolist(), self._sites[reach.fingertips].tolist(), strict=True
            )
        ]
        return sum(closeness) / len(closeness)

    def _forearm_reward(self) -> float:
        if self.data.ncon:
            contact = self.data.contact
            sides = self._scene.forearm_sides[contact.geom]
            touching = sides[:, 0] + sides[:, 1] == RIGHT_FOREARM + LEFT_FOREARM
            if touching.any() and (contact.dist[touching] <= _COLLISION_MARGIN).any():
                return 0.0
        return _FOREARM_REWARD


def _closeness(distance: float, bound: float) -> float:
    """Returns dm_control's tolerance: 1 up to the bound, 0.1 ten bounds beyond it."""
    if distance <= bound:
        return 1.0
    return math.exp(-0.5 * ((distance - bound) / (10 * bound) * _SCALE) ** 2)


# Reward of the pedal by (due, down).
_PEDAL_REWARD = {
    (due, down): float(rewards.tolerance(float(due) - down, (0, 0.05), margin=0.5))
    for due in (False, True)
    for down in (False, True)
}
