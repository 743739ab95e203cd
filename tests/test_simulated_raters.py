"""Raters that are formulas."""

import contextlib
import math
import types

import numpy as np
import pytest

from replay.errors import BadInput
from rlhf import simulated_raters
from rlhf.ratings import Rater, Ratings
from rlhf.simulated_raters import note_f1, rate, score, smoothness

QUALITIES = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
NAMES = [f"{number:04d}" for number in range(1, 7)]


def segment(name, quality):
    """A segment whose note F1 is `quality`; that is all that is asked of it."""
    return types.SimpleNamespace(name=name, metrics={"note_f1": quality}, trajectory=lambda: None)


SEGMENTS = [segment(name, quality) for name, quality in zip(NAMES, QUALITIES, strict=True)]


def scores(tmp_path, segments=SEGMENTS, **settings):
    """(raters, segments) of one call, in a fresh file."""
    path = tmp_path / "fresh.sqlite"
    path.unlink(missing_ok=True)
    with contextlib.closing(Ratings(path, NAMES)) as ratings:
        raters = rate(segments, ratings, "note-f1", **settings)
        assert ratings.raters() == sorted(raters)
        given = {(r.rater, r.segment): r.score for r in ratings.ratings()}
    return np.array([[given[rater, s.name] for s in segments] for rater in raters])


def trajectory(actions):
    return types.SimpleNamespace(action=np.asarray(actions, np.float32))


# --- What they listen for ---------------------------------------------------------------


def test_smoothness_by_hand():
    # Two actions of two numbers, three control steps: changes 0.5, 0, 0.1 and 0.2.
    quality = smoothness({}, trajectory([[0.0, 0.0], [0.5, 0.0], [0.4, 0.2]]))
    assert quality == pytest.approx(math.exp(-0.2 / 0.25), rel=1e-6)
    assert smoothness({}, trajectory([[0.3, -1.0]] * 4)) == 1.0
    assert smoothness({}, trajectory([[0.3, -1.0]])) == 1.0
    assert 0 < smoothness({}, trajectory([[-1.0], [1.0], [-1.0]])) < 0.001


def test_note_f1_is_the_metric():
    assert note_f1({"note_f1": 0.25}, None) == 0.25  # type: ignore[arg-type]
    assert note_f1({"note_f1": None}, None) == 0.0  # type: ignore[arg-type]


def test_scores_go_from_1_to_100():
    assert [score(quality) for quality in (0.0, 0.5, 0.5001, 1.0)] == [1, 50, 51, 100]


# --- Their answers ----------------------------------------------------------------------


def test_one_rater_without_noise_gives_what_the_formula_says(tmp_path):
    expected = [1, 21, 41, 60, 80, 100]
    np.testing.assert_array_equal(scores(tmp_path), [expected])
    np.testing.assert_array_equal(scores(tmp_path, raters=2), [expected, expected])


@pytest.mark.parametrize("settings", [{"noise": 8.0}, {"disagreement": 8.0}])
def test_what_varies_comes_again_with_its_seed(tmp_path, settings):
    plain = scores(tmp_path, raters=3)
    varied = scores(tmp_path, raters=3, seed=1, **settings)
    assert not np.array_equal(varied, plain)
    assert not np.array_equal(varied[0], varied[1])
    assert varied.min() >= 1
    assert varied.max() <= 100
    np.testing.assert_array_equal(varied, scores(tmp_path, raters=3, seed=1, **settings))
    assert not np.array_equal(varied, scores(tmp_path, raters=3, seed=2, **settings))


def test_noise_turns_pairs_round_and_disagreement_does_not(tmp_path):
    close = [segment(name, 0.5 + 0.02 * i) for i, name in enumerate(NAMES)]
    noisy = scores(tmp_path, close, raters=4, noise=10.0)
    assert (np.diff(noisy, axis=1) < 0).any()
    disagreeing = scores(tmp_path, close, raters=4, disagreement=10.0)
    assert (np.diff(disagreeing, axis=1) >= 0).all()
    # Each has an offset of their own.
    assert np.std(disagreeing.mean(axis=1)) > 2


def test_they_are_known_as_simulated(tmp_path):
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", NAMES)) as ratings:
        assert rate(SEGMENTS, ratings, "note-f1") == [Rater("simulated note-f1", "simulated")]
        rate(SEGMENTS, ratings, "note-f1", raters=2)
        assert [tuple(rater) for rater in ratings.raters()] == [
            ("simulated note-f1", "simulated"),
            ("simulated note-f1 1", "simulated"),
            ("simulated note-f1 2", "simulated"),
        ]
        # Again, they correct themselves.
        rate(SEGMENTS, ratings, "note-f1", noise=5.0)
        assert len(ratings.ratings()) == 3 * len(SEGMENTS)


def test_the_name_of_a_person_cannot_be_taken(tmp_path):
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", NAMES)) as ratings:
        ratings.rate(Rater("simulated note-f1", "person"), NAMES[0], 7)
        with pytest.raises(BadInput, match="simulated note-f1 is the name of a person"):
            rate(SEGMENTS, ratings, "note-f1")
        assert [rating.score for rating in ratings.ratings()] == [7]


def test_the_raters_are_those_that_are_offered():
    assert set(simulated_raters.QUALITIES) == {"note-f1", "smoothness"}
