"""Which robopianist the task is built on."""

import pytest
from robopianist.suite.tasks.piano_with_shadow_hands import PianoWithShadowHands

from common.errors import BadInput
from piano.task import check_robopianist


def test_the_release_is_taken():
    check_robopianist(PianoWithShadowHands)


def test_the_repository_is_refused():
    class Repository(PianoWithShadowHands):
        def _compute_ot_fingering_reward(self, physics):
            raise NotImplementedError

    with pytest.raises(BadInput, match=r"_compute_ot_fingering_reward.*robopianist==1\.0\.10"):
        check_robopianist(Repository)


def test_a_missing_private_name_is_named():
    class Other:
        _set_rewards = None

    with pytest.raises(BadInput, match=r"has no _compute_key_press_reward, .*==1\.0\.10"):
        check_robopianist(Other)
