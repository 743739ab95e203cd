"""The guard at work: which candidate is returned, and by how many performances."""

from typing import Any

import pytest
import ray

from rlhf import guard, judge
from rlhf.guard import Guard, Line
from rlhf.player import Audition
from rlhf.variation import Variation

START = 0.94


class Plays:
    """Stands for a player: the notes of each candidate are given, by its share."""

    def __init__(self, few, many):
        self._few, self._many = few, many
        self.heard: list[float] = []

    @property
    def audition(self):
        return self

    def remote(self, share, variation, seed, raters):
        fresh = seed >= guard._LAST_SEED or not variation.is_random
        self.heard += [share] if seed == guard._LAST_SEED else []
        f1 = (self._many if fresh else self._few).get(share, 0.5)
        metrics: dict[str, float | None] = dict.fromkeys(
            ("note_f1", "f1", "episode_return", "mean_velocity", "velocity_spread"), f1
        )
        return [Audition(metrics, dict.fromkeys(raters, 50))]


def as_is(share: Any) -> Any:
    """Of the candidates here nothing but the share is looked at."""
    return share


@pytest.fixture
def settle(monkeypatch):
    """Settles a line of candidates; what was settled, what the guard tells, what was heard."""
    monkeypatch.setattr(ray, "put", lambda packed: packed)
    monkeypatch.setattr(guard, "get_result", lambda future, *_: future)

    def settled(few, many=None, performances=12, fresh=24, between=None):
        few = {0.0: START} | few
        all_few = few | (between or {})
        player: Any = Plays(all_few, all_few | (many or {}))
        judging = Guard([player, player], ("softness",), fresh, performances)
        start: Any = 0.0
        heard = judging.hear(start)
        shares = [share for share in few if share]
        line = Line("style", shares, lambda share: (as_is(share), judge.JUDGED), as_is)
        return judging.settle(start, heard, line), judging.told(), player.heard

    return settled


@pytest.mark.parametrize(
    ("few", "share"),
    [
        ({0.25: 0.94, 0.5: 0.94, 1.0: 0.94}, 1.0),
        ({0.25: 0.96, 0.5: 0.935, 1.0: 0.931}, 1.0),
        # What lies beyond a candidate that costs notes is not trusted.
        ({0.25: 0.94, 0.5: 0.92, 1.0: 0.95}, 0.25),
        ({0.25: 0.7, 0.5: 0.95}, None),
        ({}, None),
    ],
)
def test_the_furthest_that_holds_the_notes_is_returned(settle, few, share):
    found, told, heard = settle(few)
    assert (found and found.share) == share
    assert heard == [0.0, *([share] if share else [])]
    if found:
        assert (found.line, found.packed) == ("style", share)
        assert found.heard["drawn"]["note_f1"]["mean"] == pytest.approx(few[share])
        assert told["last_words"][-1] == {
            "line": "style",
            "share": share,
            "drawn": found.heard["drawn"],
            "holds": True,
        }


def test_what_fresh_performances_refuse_gives_way_to_the_one_before(settle):
    few = dict.fromkeys((0.25, 0.5, 0.75, 1.0, 1.5), 0.94)
    found, told, heard = settle(few, {1.5: 0.92, 1.0: 0.929, 0.75: 0.931})
    assert found.share == 0.75
    assert heard == [0.0, 1.5, 1.0, 0.75]
    assert [one["holds"] for one in told["last_words"]] == [False, False, True]
    found, told, heard = settle(few, dict.fromkeys(few, 0.9))
    assert found is None
    assert heard == [0.0, 1.5, 1.0, 0.75]  # No more than three.


@pytest.mark.parametrize(
    ("few", "between", "share"),
    [
        ({0.5: 0.94, 1.0: 0.9}, {0.75: 0.935}, 0.75),
        ({0.5: 0.94, 1.0: 0.9}, {0.75: 0.92}, 0.5),
        ({0.5: 0.9, 1.0: 0.94}, {0.25: 0.935}, 0.25),
    ],
)
def test_half_way_to_the_first_that_loses_notes_is_tried(settle, few, between, share):
    found, told, _ = settle(few, between=between)
    assert found.share == share
    assert [one["share"] for one in told["candidates"]][-1] == next(iter(between))


def test_each_candidate_is_told_with_its_interval(settle):
    _, told, _ = settle({0.25: 0.94, 0.5: 0.9})
    assert (told["performances"], told["margin"]) == (12, judge.NOTES_MARGIN)
    assert [(one["line"], one["share"], one["holds"]) for one in told["candidates"]] == [
        ("start", 0.0, True),
        ("style", 0.25, True),
        ("style", 0.5, False),
        ("style", 0.375, False),
    ]
    assert told["candidates"][2]["note_f1"] == {
        "mean": pytest.approx(0.9),
        "interval": pytest.approx(0, abs=1e-9),
    }


def test_without_a_guard_the_whole_way_is_gone(settle):
    found, told, heard = settle({1.0: 0.1}, performances=0)
    assert (found.share, told, heard) == (1.0, None, [0.0, 1.0])


def test_without_fresh_performances_the_few_decide(settle):
    found, _, _ = settle({0.5: 0.94}, fresh=0)
    assert (found.share, found.heard["drawn"]) == (0.5, None)


def test_a_style_is_judged_with_light_variation():
    assert guard.judged(Variation(amplitude=0.9)) == Variation(amplitude=0.9, temperature=0.3)
