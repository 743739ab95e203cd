"""Variations: what they are called, and what they refuse."""

import math

import numpy as np
import pytest

from rlhf.variation import Variation, draw


@pytest.mark.parametrize(
    ("variation", "kind", "words"),
    [
        (Variation(), "as played", "as played"),
        (Variation(amplitude=0.8), "style", "amplitude 0.8"),
        (Variation(smoothing=-0.2, hold=1.5), "style", "smoothing -0.2, hold 1.5"),
        (Variation(delay=0.25), "style", "delay 0.25"),
        (Variation(offset=0.4), "offset", "offset 0.4"),
        (Variation(weights=0.456), "weights", "weights 0.46"),
        (Variation(temperature=1.0), "sampling", "temperature 1"),
        (Variation(noise=0.1), "noise", "noise 0.1"),
        (
            Variation(hold=-1.0, temperature=0.3),
            "style + sampling",
            "hold -1, temperature 0.3",
        ),
    ],
)
def test_variations_have_a_kind_and_a_description(variation, kind, words):
    assert variation.kind == kind
    assert variation.describe() == words


def test_style_alone_is_not_random():
    style = Variation(amplitude=0.8, smoothing=0.1, hold=-1.0, delay=0.5)
    assert not style.is_random
    assert not Variation().is_random
    for name in ("offset", "weights", "temperature", "noise"):
        assert Variation(**{name: 0.1}).is_random


@pytest.mark.parametrize(
    "values",
    [
        {"amplitude": -0.1},
        {"smoothing": 1.0},
        {"smoothing": -1.5},
        {"delay": -math.inf},
        {"offset": -1.0},
        {"weights": -1.0},
        {"temperature": -1.0},
        {"noise": -1.0},
        {"hold": math.inf},
        {"noise": math.nan},
    ],
)
def test_values_out_of_range_are_refused(values):
    ((name, _),) = values.items()
    with pytest.raises(ValueError, match=f"{name} is"):
        Variation(**values)


@pytest.mark.parametrize("kind", ["style", "offset", "weights", "sampling"])
def test_drawn_variations_are_of_their_kind_and_differ(kind):
    random = np.random.default_rng(0)
    drawn = [draw(kind, random) for _ in range(200)]
    assert {one.kind for one in drawn} == {kind}
    assert len(set(drawn)) == 200
    again = np.random.default_rng(0)
    assert [draw(kind, again) for _ in range(3)] == drawn[:3]


def test_each_style_knob_is_drawn_within_its_range_and_two_at_a_time():
    random = np.random.default_rng(1)
    drawn = [draw("style", random).knobs for _ in range(400)]
    for name, reach, plain in (
        ("amplitude", 0.15, 1.0),
        ("smoothing", 0.35, 0.0),
        ("hold", 0.5, 0.0),
        ("lateness", 0.25, 0.0),
    ):
        away = np.array([knobs[name] for knobs in drawn]) - plain
        changed = away[np.abs(away) > 1e-9]
        assert 150 < len(changed) < 250
        assert -reach <= changed.min() < -0.9 * reach
        assert 0.9 * reach < changed.max() <= reach
        # What hardly differs from plain play cannot be told from it.
        assert (np.abs(changed) >= 0.5 * reach).all()


def test_knobs_make_a_variation_and_are_read_from_it():
    assert Variation().knobs == {"amplitude": 1.0, "smoothing": 0.0, "hold": 0.0, "lateness": 0.0}
    knobs = {"amplitude": 0.9, "smoothing": 0.2, "hold": -0.3, "lateness": 0.1}
    # By hand: mixing in a fifth of the action before delays by 0.2 / 0.8 control steps.
    made = Variation.in_style(**knobs)
    assert made == Variation(0.9, 0.2, -0.3, delay=made.delay)
    assert made.delay == pytest.approx(-0.15)
    assert made.knobs == pytest.approx(knobs)


@pytest.mark.parametrize("smoothing", [-0.35, 0.2, 0.5])
def test_smoothing_at_a_lateness_of_zero_keeps_the_time(smoothing):
    """A ramp, smoothed and asked for earlier by the lag, is the ramp once more."""
    variation = Variation.in_style(**Variation().knobs | {"smoothing": smoothing})
    smoothed = 0.0
    for step in range(200):
        smoothed = (1 - smoothing) * (step - variation.delay) + smoothing * smoothed
    assert smoothed == pytest.approx(199)
