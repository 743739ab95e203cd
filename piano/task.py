"""robopianist's task, with a fingering reward for pieces that carry no fingering."""

from typing import Any

import numpy as np
from dm_control import mjcf
from dm_control.utils import rewards
from robopianist.suite.tasks import piano_with_shadow_hands
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from common.errors import require

# As in robopianist's suite/tasks/piano_with_shadow_hands.py, for annotated fingering.
_CLOSE_ENOUGH_METERS = 0.01


# Of the base class, what is used here and in its place: private, so another release may lack it.
_PRIVATE_NAMES = (
    *("_set_rewards", "_compute_key_press_reward", "_compute_sustain_reward"),
    *("_compute_energy_reward", "_compute_fingering_reward", "_compute_forearm_reward"),
)


def check_robopianist(base: type) -> None:
    """Refuses a robopianist whose task is not that of the release 1.0.10.

    The repository, which has the same number, rewards fingering by transport by itself.

    Args:
        base: the class `PianoWithShadowHands`.

    Raises:
        BadInput: private names that are used are missing, or the reward is another one.
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
    """Two Shadow hands play a song.

    Args:
        fingering_by_transport: whether fingers are rewarded for being near the keys due now
            by assigning them by least total distance (RP1M, arXiv 2408.11048, section 4.1)
            and then by robopianist's own tolerance; for pieces without annotated fingering.
        kwargs: as robopianist has them.
    """

    def __init__(self, *, fingering_by_transport: bool, **kwargs: Any):
        self.fingering_by_transport = fingering_by_transport  # Read by the base constructor.
        super().__init__(**kwargs)

    def _set_rewards(self) -> None:
        super()._set_rewards()
        if self.fingering_by_transport:
            self._reward_fn.add("fingering_reward", self._compute_transport_reward)

    def get_discount(self, physics: mjcf.Physics) -> float:
        """0.0 at a wrong press that ends the episode, otherwise 1.0.

        robopianist means this, but sets the 0.0 only after dm_control has asked for it.
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
    """From the center of a key to where a fingertip should touch it.

    Args:
        size: (keys, 3) half sizes of the keys' boxes in meters.

    Returns:
        (keys, 3) meters: towards the player's end of the key, and up.
    """
    offset = np.zeros(size.shape)
    offset[:, 0] = 0.35 * size[:, 0]
    offset[:, 2] = 0.5 * size[:, 2]
    return offset


def transport_reward(fingertips: np.ndarray, targets: np.ndarray) -> float:
    """Mean closeness of the fingers that are assigned by least total distance.

    Args:
        fingertips: (fingers, 3) positions in meters.
        targets: (keys, 3) positions in meters; of more keys than fingers the nearest count.

    Returns:
        1.0 where every assigned finger is within 1 cm, 0.1 at 11 cm, towards 0.0 beyond.
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
