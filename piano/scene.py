"""The MuJoCo model of hands and piano, and the positions of their elements in its arrays.

robopianist builds the model, which is the same for every song. Building it takes seconds, so one
process builds the scene and sends it to the others.
"""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from dm_control import mjcf

from piano.config import EnvironmentConfig
from piano.reference_environment import ReferenceEnvironment
from piano.song import Song
from piano.task import key_target_offset

RIGHT_FOREARM, LEFT_FOREARM = 1, 2


class Scene:
    """The model of one configuration. Environments only read it.

    Args:
        song: Any song of the run. robopianist needs one to build the model.
        config: Settings of the task and its physics.
    """

    def __init__(self, song: Song, config: EnvironmentConfig):
        reference = ReferenceEnvironment(song, config)
        reference.reset()
        task, physics = reference.task, reference.composer.physics
        # The copy lets Python free robopianist's tree and bindings.
        self.model: mujoco.MjModel = physics.model.ptr.__copy__()
        self.first_data = mujoco.MjData(self.model)
        """State of the simulator at the beginning of an episode."""
        mujoco.mj_copyData(self.first_data, self.model, physics.data.ptr)
        # This code reads no sensors, and computing them costs 3% of the time.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_SENSOR
        self.substeps = round(config.control_timestep / self.model.opt.timestep)
        self.energy_penalty: float = task._energy_penalty_coef
        self.fingering_by_transport = task.fingering_by_transport

        actions = reference.composer.action_spec()
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

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the model, because `first_data` already contains it."""
        return {name: value for name, value in self.__dict__.items() if name != "model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.model = self.first_data.model


def _slice(indices: np.ndarray) -> slice:
    """Converts indices to a slice, which NumPy reads without copying.

    Raises:
        ValueError: The indices are not consecutive.
    """
    first, last = int(indices[0]), int(indices[-1]) + 1
    if list(indices) != list(range(first, last)):
        raise ValueError(f"expected consecutive indices, got {indices}")
    return slice(first, last)


def _addresses(physics: mjcf.Physics, joints: Sequence[Any], kind: str) -> np.ndarray:
    """Returns the addresses of joints in qpos, or in qvel for the kind "dof"."""
    return np.array(getattr(physics.model.ptr, f"jnt_{kind}adr")[physics.bind(joints).element_id])


def _geoms_named_as(physics: mjcf.Physics, geoms: Sequence[Any]) -> np.ndarray:
    """Returns which geoms have a name that starts with one of these names, (geoms,) bool.

    mujoco_utils' `has_collision`, which robopianist uses, compares names in the same way.
    """
    prefixes = tuple(geom.full_identifier for geom in geoms)
    names = [physics.model.id2name(i, "geom") for i in range(physics.model.ngeom)]
    return np.array([name.startswith(prefixes) for name in names])
