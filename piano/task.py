"""robopianist's task with a fingering reward for pieces that have no annotated fingering."""

from typing import Any

import numpy as np
from dm_control import mjcf
from dm_control.utils import rewards
from robopianist.suite.tasks import piano_with_shadow_hands
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import require

# This matches robopianist's suite/tasks/piano_with_shadow_hands.py for annotated fingering.
_CLOSE_ENOUGH_METERS = 0.01


# This project uses these names of the base class. They are private, so another release may lack
# them.
_PRIVATE_NAMES = (
    *("_set_rewards", "_compute_key_press_reward", "_compute_sustain_reward"),
    *("_compute_energy_reward", "_compute_fingering_reward", "_compute_forearm_reward"),
)


def check_robopianist(base: type) -> None:
    """Rejects a robopianist whose task differs from that of release 1.0.10.

    robopianist's repository has the same version number but a transport reward of its own.

    Args:
        base: Class `PianoWithShadowHands` of the installed robopianist.

    Raises:
        BadInput: The class lacks private names that this project uses, or has another reward.
    """
    missing = [name for name in _PRIVATE_NAMES if not hasattr(base, name)]
    own = [name for name in vars(base) if "ot_fingering" in name]
    what = (
        f"has no {', '.join(missing)}" if missing else f"has a fingering reward of its own, {own}"
    )
    require(
        not missing and not own,
        f"robopianist: its task {what}; this project needs the release on PyPI: "
        "pip install --force-reinstall --no-deps robopianist==1.0.10",
    )


check_robopianist(piano_with_shadow_hands.PianoWithShadowHands)


class PianoTask(piano_with_shadow_hands.PianoWithShadowHands):
    """The task of playing a song with two Shadow hands.

    Args:
        fingering_by_transport: Whether fingers earn a reward for being near the keys due now, for
            pieces without annotated fingering. Fingers are assigned to keys by least total
            distance (RP1M, arXiv 2408.11048, section 4.1). The distances are then rewarded with
            robopianist's own tolerance.
        kwargs: Arguments of robopianist's task.
    """

    def __init__(self, *, fingering_by_transport: bool, **kwargs: Any):
        self.fingering_by_transport = fingering_by_transport  # The base constructor uses this.
        super().__init__(**kwargs)

    def _set_rewards(self) -> None:
        super()._set_rewards()
        if self.fingering_by_transport:
            self._reward_fn.add("fingering_reward", self._compute_transport_reward)

    def get_discount(self, physics: mjcf.Physics) -> float:
        """Returns 0.0 at a wrong press that ends the episode, otherwise 1.0.

        robopianist intends the same, but sets the 0.0 only after dm_control has read the discount.
        """
        del physics
        return 0.0 if self._wrong_press_termination and self._failure_termination else 1.0

    def _compute_transport_reward(self, physics: mjcf.Physics) -> float:
        keys = np.flatnonzero(self._goal_current[:-1])
        if keys.size == 0:
            return 0.0
        sites = [*self.right_hand.fingertip_sites, *self.left_hand.fingertip_sites]
        fingertips = physics.bind(sites).xpos
        geoms = physics.bind([self.piano.keys[key].geom[0] for key in keys])
        return transport_reward(fingertips, geoms.xpos + key_target_offset(geoms.size))


def key_target_offset(size: np.ndarray) -> np.ndarray:
    """Returns the offset from the center of a key to the point that a fingertip should touch.

    Args:
        size: Half sizes of the keys' boxes in meters, (keys, 3).

    Returns:
        Offsets in meters, (keys, 3): toward the player's end of the key, and up.
    """
    offset = np.zeros(size.shape)
    offset[:, 0] = 0.35 * size[:, 0]
    offset[:, 2] = 0.5 * size[:, 2]
    return offset


def transport_reward(fingertips: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean closeness of fingers to keys, assigned by least total distance.

    Args:
        fingertips: Positions of the fingertips in meters, (fingers, 3).
        targets: Positions to touch in meters, (keys, 3). If there are more keys than fingers,
            only the assigned keys count.

    Returns:
        Mean over the assigned pairs of a value that is 1.0 within 1 cm, 0.1 at 11 cm, and falls
        toward 0.0 beyond.
    """
    distances = cdist(targets, fingertips)
    assigned = distances[linear_sum_assignment(distances)]
    closeness = rewards.tolerance(
        assigned,
        bounds=(0, _CLOSE_ENOUGH_METERS),
        margin=10 * _CLOSE_ENOUGH_METERS,
        sigmoid="gaussian",
    )
    return float(np.mean(closeness))
