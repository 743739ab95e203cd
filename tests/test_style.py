"""Style: what the answers say about how the policy as a whole should play."""

import math

import numpy as np
import pytest

from rlhf import style
from rlhf.variation import STYLE_RANGES, Variation, draw


def renditions(passages=7, seed=0):
    """Variations in style, and the passage of each."""
    random = np.random.default_rng(seed)
    variations = [draw("style", random) for _ in range(4 * passages)] + [Variation()] * passages
    return variations, [*np.repeat(np.arange(passages), 4), *range(passages)]


def preferred(worth, passages):
    """All preferences within passages by a worth of each segment."""
    worth, passages = np.array(worth), np.array(passages)
    same = passages[:, None] == passages[None, :]
    return ((worth[:, None] > worth[None, :]) & same).astype(np.float32)


def test_a_favored_style_is_found_and_gone_towards():
    variations, passages = renditions()
    worth = [-one.knobs["amplitude"] / 0.15 + one.knobs["smoothing"] / 0.35 for one in variations]
    found = style.fit(variations, preferred(worth, passages))
    assert found is not None
    assert found.accuracy > 0.95
    assert found.chance == 0.001  # None of 999 turns is explained as well.
    kept = {name: knob.kept for name, knob in found.knobs.items()}
    assert kept["amplitude"] < -1 < 1 < kept["smoothing"]
    assert abs(kept["hold"]) < 0.5 * kept["smoothing"]
    played = found.variation(1.0)
    assert 0.9 < played.amplitude < 0.97
    assert 0.05 < played.smoothing < 0.17
    twice = found.variation(2.0)
    assert twice.amplitude - 1 == pytest.approx(2 * (played.amplitude - 1))
    assert found.variation(0.0) == Variation()


def test_a_share_of_one_is_half_of_what_renditions_vary_by():
    knobs = {name: style.Knob(0.0, 0.1) for name in STYLE_RANGES}
    found = style.Style(knobs | {"hold": style.Knob(-3.0, 0.0)}, 0.0, 40, 1.0, 0.01)
    assert found.variation(1.0) == Variation(hold=-0.25)
    assert found.furthest_share == math.inf


def test_answers_at_random_seldom_favor_a_style():
    """As often as the chance says, which holds however few answers there are."""
    found = []
    for seed in range(20):
        variations, passages = renditions(passages=3, seed=seed)
        worth = np.random.default_rng(seed).normal(size=len(variations))
        found.append(style.fit(variations, preferred(worth, passages)))
    # Of 20, 2 are expected; more than 7 come about once in two thousand times.
    assert sum(one is not None for one in found) <= 7
    assert all(one is None or one.chance < 0.1 for one in found)


def test_a_rater_who_likes_it_as_it_is_ends_the_line_early():
    variations, passages = renditions()
    worth = [-abs(one.amplitude - 0.95) - abs(one.smoothing) for one in variations]
    found = style.fit(variations, preferred(worth, passages))
    assert found is None or found.furthest_share < 1.5


def test_only_what_the_policy_itself_varies_in_style_counts():
    variations, passages = renditions()
    worth = [-one.amplitude for one in variations]
    weight = preferred([*worth, -9.0, 9.0, 3.0], [*passages, 0, 0, 0])
    others = [None, Variation(offset=0.5), Variation(amplitude=0.9, noise=0.1)]
    with_others = style.fit([*variations, *others], weight)
    assert with_others == style.fit(variations, preferred(worth, passages))


def test_what_every_change_brings_is_no_style():
    """Notes are softer whichever way a knob is turned; more smoothing alone makes them so, too."""
    variations, passages = renditions(seed=5)
    changed = [sum(abs(v - p) for v, p in away(one)) for one in variations]
    assert style.fit(variations, preferred(changed, passages)) is None
    smooth = [size + 3 * one.smoothing for size, one in zip(changed, variations, strict=True)]
    found = style.fit(variations, preferred(smooth, passages))
    assert found is not None
    assert found.curvature < 0
    assert found.furthest_share == math.inf
    assert max(found.knobs, key=lambda name: found.knobs[name].kept) == "smoothing"


def away(variation):
    """Each knob in units of its range, and where plain play has it."""
    for name, (least, most) in STYLE_RANGES.items():
        reach = (most - least) / 2
        yield variation.knobs[name] / reach, Variation().knobs[name] / reach


def test_too_few_pairs_favor_no_style():
    variations, passages = renditions(passages=1)
    assert len(variations) == 5
    worth = [-one.amplitude for one in variations]
    assert style.fit(variations, 0 * preferred(worth, passages)) is None
    assert style.fit([None] * 5, preferred(worth, passages)) is None


def test_the_fit_is_where_the_gradient_vanishes():
    variations, passages = renditions(seed=3)
    worth = [-one.amplitude + 0.1 * number % 0.3 for number, one in enumerate(variations)]
    weight = preferred(worth, passages)
    found = style.fit(variations, weight)
    assert found is not None
    reach = {"amplitude": 0.15, "smoothing": 0.35, "hold": 0.5, "lateness": 0.25}
    knobs = np.array(
        [[(v.knobs[n] - Variation().knobs[n]) / r for n, r in reach.items()] for v in variations]
    )

    def loss(b):
        # By the formula at the top of the file, with the ridge.
        worth = knobs @ b[:4] - b[4] * np.sum(knobs**2, axis=1) / 2
        pairs = np.argwhere((weight > 0) & (knobs[:, None] != knobs[None]).any(axis=2))
        losses = np.log1p(np.exp(worth[pairs[:, 1]] - worth[pairs[:, 0]]))
        return losses.sum() + 0.5 * np.sum(b**2)

    b = np.array([*(knob.coefficient for knob in found.knobs.values()), found.curvature])
    for number in range(5):
        step = np.zeros(5)
        step[number] = 1e-4
        assert loss(b + step) - loss(b - step) == pytest.approx(0, abs=1e-6)
