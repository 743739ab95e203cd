"""From ratings to preferences, and which of them are held out."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import BadInput
from rlhf.preferences import best, pairs, preferences, split
from rlhf.ratings import Comparison, Rater, Rating

ANNA, BERT, CARL = (Rater(name, "person") for name in ("anna", "bert", "carl"))
NAMES = ["0001", "0002", "0003", "0004"]


def rated(rater, scores):
    """Ratings of segments 0001 and so on; None where there is none."""
    return [
        Rating(rater, f"{number:04d}", score, "", 0.0)
        for number, score in enumerate(scores, start=1)
        if score is not None
    ]


def compared(first, second, preferred="first", rater=ANNA):
    return Comparison(rater, first, second, preferred, 0.0)


# --- Ratings ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=2, max_size=12).filter(lambda s: len(set(s)) > 1))
def test_every_pair_but_ties_counts_once(scores):
    names = [f"{number:04d}" for number in range(1, len(scores) + 1)]
    weight = preferences(names, rated(ANNA, scores))
    count = len(scores)
    ties = sum(a == b for a, b in itertools.combinations(scores, 2))
    assert len(pairs(weight)) == count * (count - 1) // 2 - ties
    assert weight.dtype == np.float32
    for (i, a), (j, b) in itertools.product(enumerate(scores), repeat=2):
        assert weight[i, j] == (a > b)


def test_who_uses_the_scale_otherwise_counts_alike():
    """Anna's scores go from 1 to 10, Bert's from 60 to 100; they disagree on two segments."""
    ratings = rated(ANNA, [1, 4, 7, 10]) + rated(BERT, [60, 86, 73, 100])
    # By hand: -1.342, -0.447, 0.447, 1.342 and -1.354, 0.426, -0.464, 1.391, in the mean
    # -1.348, -0.011, -0.008, 1.367. Bert's points alone would put 0002 before 0003.
    expected = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_array_equal(preferences(NAMES, ratings), expected)
    # Exactly opposite they cancel out.
    ratings = rated(ANNA, [1, 4, 7, 10]) + rated(BERT, [100, 90, 80, 70])
    with pytest.raises(BadInput, match="of 4 rated segments none is better"):
        preferences(NAMES, ratings)
    ratings += rated(CARL, [1, 2, 3, 4])
    np.testing.assert_array_equal(
        preferences(NAMES, ratings), preferences(NAMES, rated(CARL, [1, 2, 3, 4]))
    )


def test_who_gives_everything_the_same_counts_nothing():
    anna = rated(ANNA, [50, 49, 10, 80])
    alone = preferences(NAMES, anna)
    for scores in ([70, 70, 70, 70], [70, None, None, 70], [None, None, 100, None]):
        np.testing.assert_array_equal(preferences(NAMES, anna + rated(BERT, scores)), alone)
    # Nor do segments that he alone has rated come into a pair.
    weight = preferences(NAMES, rated(ANNA, [20, 80]) + rated(BERT, [None, None, 90, 90]))
    np.testing.assert_array_equal(pairs(weight), [[1, 0]])


def test_segments_without_a_rating_are_in_no_pair():
    weight = preferences(NAMES, rated(ANNA, [None, 30, None, 20]))
    np.testing.assert_array_equal(pairs(weight), [[1, 3]])


def test_ratings_of_segments_that_are_not_there_are_left_out():
    ratings, comparisons = rated(ANNA, [10, 20, 90, 40]), [compared("0001", "0003")]
    weight = preferences(["0001", "0002"], ratings, comparisons)
    np.testing.assert_array_equal(weight, [[0, 0], [1, 0]])


# --- Comparisons ------------------------------------------------------------------------


def test_comparisons_join_the_ratings():
    weight = preferences(
        NAMES,
        rated(ANNA, [10, 20]),
        [
            compared("0002", "0001"),
            compared("0003", "0004", "second"),
            compared("0001", "0004", "neither"),
            compared("0003", "0004", "second", BERT),
        ],
    )
    expected = np.zeros((4, 4))
    expected[1, 0] = expected[3, 2] = 2
    np.testing.assert_array_equal(weight, expected)


def test_comparisons_that_contradict_each_other_both_stand():
    weight = preferences(NAMES[:2], [], [compared("0001", "0002"), compared("0002", "0001")])
    np.testing.assert_array_equal(weight, [[0, 1], [1, 0]])


# --- Without a pair ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratings", "comparisons", "words"),
    [
        ([], [], "no ratings"),
        (rated(ANNA, [50]), [], "only one segment has been rated"),
        (rated(ANNA, [50]) + rated(BERT, [60]), [], "only one segment has been rated"),
        (rated(ANNA, [50, 50, 50]), [], "of 3 rated segments none is better"),
        (rated(ANNA, [50]) + rated(BERT, [None, 60]), [], "of 2 rated segments none is better"),
        ([], [compared("0001", "0002", "neither")], "all comparisons say neither"),
        (rated(ANNA, [9, 9]), [compared("0001", "0002", "neither")], "of 2 rated segments"),
    ],
)
def test_where_there_is_no_pair_it_says_why(ratings, comparisons, words):
    with pytest.raises(BadInput, match=words) as raised:
        preferences(NAMES, ratings, comparisons)
    assert "\n" not in str(raised.value)


# --- Held out ---------------------------------------------------------------------------


@given(
    count=st.integers(2, 20),
    density=st.floats(0.1, 1),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**31 - 1),
)
def test_no_held_out_segment_is_in_a_training_pair(count, density, fraction, seed):
    random = np.random.default_rng(seed)
    weight = random.integers(1, 3, (count, count)) * (random.random((count, count)) < density)
    weight = np.triu(weight, k=1).astype(np.float32)
    weight[0, 1] = 1
    try:
        training, validation = split(weight, fraction, seed)
    except BadInput:
        assume(False)
    assert training.any()
    assert not set(np.unique(pairs(training))) & set(np.unique(pairs(validation)))
    for part in (training, validation):
        assert ((part == 0) | (part == weight)).all()
    again = split(weight, fraction, seed)
    np.testing.assert_array_equal(again, (training, validation))


def test_a_fifth_of_the_segments_is_held_out():
    weight = np.triu(np.ones((20, 20), np.float32), k=1)
    training, validation = split(weight, 0.2, seed=0)
    assert len(np.unique(pairs(training))) == 16
    assert len(np.unique(pairs(validation))) == 4
    assert len(pairs(training)) == 16 * 15 / 2
    assert len(pairs(validation)) == 4 * 3 / 2
    drawn = {tuple(np.unique(pairs(split(weight, 0.2, seed)[1]))) for seed in range(10)}
    assert len(drawn) > 5


def test_of_several_passages_whole_ones_are_held_out():
    passages = np.repeat(np.arange(7), 7)
    weight = np.triu(passages[:, None] == passages[None, :], k=1).astype(np.float32)
    training, validation = split(weight, 0.2, 0, [int(passage) for passage in passages])
    np.testing.assert_array_equal(training + validation, weight)  # No pair is lost.
    (held_out,) = set(passages[np.unique(pairs(validation))])
    assert len(pairs(validation)) == 21
    others = {
        int(passages[pairs(split(weight, 0.2, seed, list(passages))[1])[0, 0]])
        for seed in range(10)
    }
    assert len(others | {int(held_out)}) > 3


def test_of_two_passages_segments_are_held_out():
    passages = np.repeat(np.arange(2), 10)
    weight = np.triu(passages[:, None] == passages[None, :], k=1).astype(np.float32)
    training, validation = split(weight, 0.2, 0, list(passages))
    assert len(np.unique(pairs(training))) == 16
    assert len(pairs(training)) + len(pairs(validation)) < len(pairs(weight))


def test_nothing_is_held_out_where_nothing_shall_be():
    weight = np.triu(np.ones((4, 4), np.float32), k=1)
    training, validation = split(weight, 0.0, seed=0)
    np.testing.assert_array_equal(training, weight)
    assert not validation.any()


def test_too_few_segments_to_hold_any_out_are_named():
    weight = np.zeros((3, 3), np.float32)
    weight[0, 1] = 1
    with pytest.raises(BadInput, match="2 of 2 segments were held out"):
        split(weight, 0.9, seed=0)


def test_a_single_segment_is_not_held_out():
    weight = np.zeros((3, 3), np.float32)
    weight[0, 1] = weight[1, 2] = 1
    training, validation = split(weight, 0.2, seed=0)
    assert np.array_equal(training, weight)
    assert not validation.any()


# --- The best ---------------------------------------------------------------------------


def test_the_best_are_those_preferred_most_often():
    # Segment 2 always wins, 0 twice in three, 1 once in three; 3 always loses, 4 is in no pair.
    weight = np.zeros((5, 5))
    weight[2, 3] = weight[0, 3] = 1
    weight[0, 1], weight[1, 0] = 1, 1
    weight[2, 1] = 1
    np.testing.assert_array_equal(best(weight, 0.5), [2, 0])
    np.testing.assert_array_equal(best(weight, 0.01), [2])
    np.testing.assert_array_equal(best(weight, 1.0), [2, 0, 1, 3])


def test_pairs_are_formed_within_a_passage_only():
    names = ["a", "b", "c", "d"]
    ratings = [
        Rating(Rater("anna", "person"), name, 10 * i + 1, "", 0.0) for i, name in enumerate(names)
    ]
    comparisons = [Comparison(Rater("anna", "person"), "a", "c", "first", 0.0)]
    weight = preferences(names, ratings, comparisons, [(0, 0), (0, 40), (0, 0), (0, 40)])
    np.testing.assert_array_equal(weight, [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    with pytest.raises(BadInput, match="there is no pair"):
        preferences(names, ratings, [], names)
