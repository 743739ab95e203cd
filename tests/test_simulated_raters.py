"""Raters that are formulas."""

import contextlib
import dataclasses
import math
import types

import numpy as np
import pytest
from collections_for_tests import make_collection

from common.errors import BadInput
from piano.performance import Performance
from rlhf import simulated_raters
from rlhf.ratings import LONGEST_NAME, Rater, Ratings
from rlhf.simulated_raters import QUALITIES, listened_for, parse_quality, rate, score, smoothness

NAMES = [f"{number:04d}" for number in range(1, 7)]


def performance(due=(), played=()):
    """A performance of two seconds.

    Args:
        due: onset s, offset s, key, velocity of each note.
        played: likewise.
    """
    nothing = np.zeros((40, 88), bool)
    return Performance(
        control_timestep=np.array(0.05),
        due_keys=nothing,
        due_pedal=nothing[:, 0],
        played_keys=nothing,
        played_pedal=nothing[:, 0],
        rewards=np.zeros(40),
        due_notes=np.array(due, np.float64).reshape(-1, 4),
        played_notes=np.array(played, np.float64).reshape(-1, 4),
        pedal_changes=np.zeros((0, 2)),
        positions=np.zeros((41, 2), np.float32),
    )


def trajectory(actions):
    return types.SimpleNamespace(action=np.asarray(actions, np.float32))


STILL = trajectory([[0.0], [0.0]])


def worth(name, played):
    return parse_quality(name)(played, STILL)


# --- What they listen for ---------------------------------------------------------------

DUE = [[0.1, 0.5, 40, 60], [0.5, 0.9, 42, 80], [1.0, 1.4, 44, 100]]
SILENT = performance(DUE)
ONE = performance(DUE, [[0.12, 0.5, 40, 70]])
# A hit 20 ms late, a hit 40 ms early, one 60 ms late and therefore none, and one never due.
FOUR = performance(
    DUE, [[0.12, 0.4, 40, 50], [0.46, 0.9, 42, 60], [1.06, 1.4, 44, 70], [1.6, 1.8, 50, 80]]
)


def test_note_f1_by_hand():
    assert worth("note-f1", FOUR) == pytest.approx(4 / 7)
    assert worth("note-f1", ONE) == pytest.approx(2 / 4)
    assert worth("note-f1", SILENT) == 0.0
    assert worth("note-f1", performance()) == 1.0
    assert worth("note-f1", performance((), FOUR.played_notes)) == 0.0


def test_velocity_f1_by_hand():
    # Two hits are on one line, whatever it is.
    assert worth("velocity-f1", FOUR) == pytest.approx(4 / 7)
    # Due 0, 0.5, 1 of the way, played 0.5, 0, 1 of it: y = 0.25 + x / 2 leaves 0.5, 0.25, 0.25.
    order = np.column_stack([np.array(DUE)[:, :3], [70, 60, 80]])
    assert worth("note-f1", performance(DUE, order)) == 1.0
    assert worth("velocity-f1", performance(DUE, order)) == 0.0
    level = [[onset, offset, key, 64] for onset, offset, key, _ in DUE]
    assert worth("velocity-f1", performance(level, order)) == 1.0
    assert worth("velocity-f1", SILENT) == 0.0
    assert worth("velocity-f1", performance()) == 1.0


def test_velocity_f1_needs_the_velocities_of_the_score():
    old = performance(DUE, FOUR.played_notes)
    object.__setattr__(old, "due_notes", old.due_notes[:, :3])
    with pytest.raises(BadInput, match="velocity-f1 needs the velocities of the score"):
        worth("velocity-f1", old)
    assert worth("note-f1", old) == pytest.approx(4 / 7)


def test_evenness_by_hand():
    # Deviations from 65 are -15, -5, 5 and 15: a spread of the root of 125.
    assert worth("evenness", FOUR) == pytest.approx(math.exp(-math.sqrt(125) / 16))
    assert worth("evenness", ONE) == 1.0
    assert worth("evenness", SILENT) == 0.0


def test_legato_by_hand():
    # Held 0.28 of 0.34 s, 0.44 of 0.6 s, 0.34 of 0.54 s; no note follows the last.
    expected = np.mean([0.28 / 0.34, 0.44 / 0.6, 0.34 / 0.54])
    assert worth("legato", FOUR) == pytest.approx(expected)
    assert worth("legato", ONE) == 0.0
    assert worth("legato", SILENT) == 0.0


def test_legato_of_chords_and_of_keys_held_on():
    # Two onsets 30 ms apart make a chord: both notes are followed by the third. One is held
    # beyond its onset, the other a quarter of the time up to it.
    chord = performance((), [[0.0, 0.5, 40, 60], [0.03, 0.12, 44, 60], [0.39, 0.5, 47, 60]])
    assert worth("legato", chord) == pytest.approx((1 + 0.09 / 0.36) / 2)
    # A chord alone is followed by nothing.
    assert worth("legato", performance((), chord.played_notes[:2])) == 0.0


def test_softness_by_hand():
    assert worth("softness", FOUR) == pytest.approx(1 - 65 / 127)
    assert worth("softness", ONE) == pytest.approx(1 - 70 / 127)
    assert worth("softness", SILENT) == 0.0


def test_double_strikes_by_hand():
    assert worth("double-strikes", FOUR) == 1.0
    assert worth("double-strikes", ONE) == 1.0
    assert worth("double-strikes", SILENT) == 0.0
    # The key bounces 150 ms after its hit, again 100 ms later, and once more 200 ms later, which
    # is no longer a double strike.
    onsets = (0.1, 0.25, 0.35, 0.55)
    bouncing = performance(DUE, [[onset, onset + 0.03, 40, 60] for onset in onsets])
    assert worth("double-strikes", bouncing) == pytest.approx(1 - 2 / 4)
    # Another key does not count.
    other = performance(DUE, [[0.1, 0.2, 40, 60], [0.2, 0.3, 41, 60]])
    assert worth("double-strikes", other) == 1.0


def test_a_repetition_that_is_due_is_no_double_strike():
    due = [[0.1, 0.2, 40, 60], [0.25, 0.4, 40, 60]]
    assert worth("double-strikes", performance(due, due)) == 1.0
    assert worth("double-strikes", performance(due[:1], due)) == pytest.approx(1 / 2)


def test_onset_precision_by_hand():
    assert worth("onset-precision", FOUR) == pytest.approx((0.6 + 0.2 + 0) / 3)
    assert worth("onset-precision", ONE) == pytest.approx(0.6 / 3)
    assert worth("onset-precision", performance(DUE, DUE)) == 1.0
    assert worth("onset-precision", SILENT) == 0.0
    assert worth("onset-precision", performance()) == 1.0


def test_smoothness_by_hand():
    # Two actions of two numbers, three control steps: changes 0.5, 0, 0.1 and 0.2.
    quality = smoothness(SILENT, trajectory([[0.0, 0.0], [0.5, 0.0], [0.4, 0.2]]))
    assert quality == pytest.approx(math.exp(-0.2 / 0.25), rel=1e-6)
    assert smoothness(SILENT, trajectory([[0.3, -1.0]] * 4)) == 1.0
    assert smoothness(SILENT, trajectory([[0.3, -1.0]])) == 1.0
    assert 0 < smoothness(SILENT, trajectory([[-1.0], [1.0], [-1.0]])) < 0.001


def test_notes_and_softness_by_hand():
    assert worth("notes-and-softness", FOUR) == pytest.approx(4 / 7 * (1 - 65 / 127))
    assert worth("notes-and-softness", SILENT) == 0.0


def test_weighted_means_by_hand():
    expected = 0.25 * (4 / 7) + 0.75 * (1 - 65 / 127)
    assert worth("note-f1:0.25,softness:0.75", FOUR) == pytest.approx(expected)
    assert worth(" note-f1 : 1 , softness:3 ", FOUR) == pytest.approx(expected)
    assert worth("note-f1:7", FOUR) == pytest.approx(4 / 7)


@pytest.mark.parametrize("name", QUALITIES)
def test_qualities_stay_between_0_and_1(name):
    random = np.random.default_rng(7)
    for count in (0, 1, 2, 9, 40):
        onsets = np.sort(random.uniform(0, 1.8, count))
        keys, loud = random.integers(0, 4, count), random.integers(1, 128, count)
        played = np.column_stack([onsets, onsets + random.uniform(0.01, 0.2, count), keys, loud])
        actions = trajectory(random.uniform(-1, 1, (1 + count, 3)))
        for due in ((), DUE, played):
            quality = QUALITIES[name](performance(due, played), actions)
            assert 0 <= quality <= 1
            assert type(quality) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no simulated rater '': choose among note-f1, velocity-f1"),
        ("melody", "no simulated rater 'melody'"),
        ("note-f1:0.5,", "no simulated rater ''"),
        ("note-f1:0.5,softness", "softness has no weight"),
        ("note-f1,softness:0.5", "note-f1 has no weight"),
        ("note-f1:half", "weight of note-f1 is 'half', must be a number"),
        ("note-f1:", "weight of note-f1 is ''"),
        ("note-f1:-1", "must be a number above 0"),
        ("note-f1:0", "must be a number above 0"),
        ("note-f1:nan", "must be a number above 0"),
        ("note-f1:inf", "must be a number above 0"),
        ("note-f1:0.5,note-f1:0.5", "note-f1 comes twice"),
        (",".join(f"{name}:0.1" for name in QUALITIES), "has room for"),
    ],
)
def test_other_words_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        parse_quality(text)


def test_the_name_of_a_rater_says_what_it_listens_for():
    for text in (*QUALITIES, "note-f1:0.5,softness:0.5"):
        assert listened_for(f"simulated {text}") == text
        assert listened_for(f"simulated {text} 12") == text
        assert len(f"simulated {text} 100") <= LONGEST_NAME
    for name in ("Ada", "note-f1", "simulated", "simulated Ada", "simulated 3"):
        assert listened_for(name) is None


def test_the_formulas_are_listed():
    lines = simulated_raters.describe_qualities().splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(QUALITIES)
    assert all(line.endswith(".") for line in lines)


def test_scores_go_from_1_to_100():
    assert [score(quality) for quality in (0.0, 0.5, 0.5001, 1.0)] == [1, 50, 51, 100]


# --- Their answers ----------------------------------------------------------------------


def make_segment(name, hits):
    """A segment of a hundred notes due and played, of which so many are hits."""
    due = [[0.01 * note, 0.01 * note + 0.005, note % 80, 64] for note in range(100)]
    astray = [[1.8, 1.9, 80, 64]] * (100 - hits)
    played = performance(due, due[:hits] + astray)
    return types.SimpleNamespace(name=name, judged=lambda: played, trajectory=lambda: STILL)


SEGMENTS = [make_segment(name, 20 * number) for number, name in enumerate(NAMES)]


def scores(tmp_path, segments=SEGMENTS, **settings):
    """(raters, segments) of one call, in a fresh file."""
    path = tmp_path / "fresh.sqlite"
    path.unlink(missing_ok=True)
    with contextlib.closing(Ratings(path, NAMES)) as ratings:
        raters = rate(segments, ratings, "note-f1", **settings)
        assert ratings.raters() == sorted(raters)
        given = {(r.rater, r.segment): r.score for r in ratings.ratings()}
    return np.array([[given[rater, s.name] for s in segments] for rater in raters])


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
    close = [make_segment(name, 50 + 2 * number) for number, name in enumerate(NAMES)]
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


def test_weighted_means_are_named_after_their_parts(tmp_path):
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", NAMES)) as ratings:
        (rater,) = rate(SEGMENTS, ratings, "note-f1: 0.25, softness: 0.75")
        assert rater == Rater("simulated note-f1:0.25,softness:0.75", "simulated")
        assert listened_for(rater.name) == "note-f1:0.25,softness:0.75"
        soft = 1 - 64 / 127
        assert [rating.score for rating in ratings.ratings()] == [
            score(0.25 * hits + 0.75 * soft) for hits in (0, 0.2, 0.4, 0.6, 0.8, 1)
        ]


def test_the_lead_in_is_not_rated(tmp_path):
    segments = make_collection(tmp_path, video=False).segments()
    later = []
    for segment in segments:
        first = segment.planned.first_step + 7
        planned = dataclasses.replace(segment.planned, first_step=first, lead_in=7)
        later.append(dataclasses.replace(segment, planned=planned))
    names = [segment.name for segment in segments]
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", names)) as ratings:
        rate(later, ratings, "note-f1")
        given = [rating.score for rating in ratings.ratings()]
        rate(segments, ratings, "note-f1")
        assert given != [rating.score for rating in ratings.ratings()]
    passages = [Performance.load(segment.performance).window(7, 24) for segment in segments]
    assert given == [score(worth("note-f1", passage)) for passage in passages]


def test_the_name_of_a_person_cannot_be_taken(tmp_path):
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", NAMES)) as ratings:
        ratings.rate(Rater("simulated note-f1", "person"), NAMES[0], 7)
        with pytest.raises(BadInput, match="simulated note-f1 is the name of a person"):
            rate(SEGMENTS, ratings, "note-f1")
        assert [rating.score for rating in ratings.ratings()] == [7]
