"""Which pair is asked next, and when enough has been asked."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from collections_for_tests import make_collection, make_performance, make_plan

from rlhf.asking_pairs import (
    LEAST_DIFFERENCE,
    LEAST_GAP,
    PAIRS_A_SEGMENT,
    PAIRS_A_VISIT,
    Asked,
    next_pair,
    pairs_left,
)
from rlhf.bradley_terry import PRIOR_DEVIATION, probability_better
from rlhf.difference import differences
from rlhf.ratings import Comparison, Rater, Rating

ANA, BOB = Rater("Ana", "person"), Rater("Bob", "person")


def rating(name, score, rater=ANA):
    return Rating(rater, name, score, "", 0.0)


def better(first, second):
    """The lower its name, the better."""
    return "first" if first < second else "second"


def compare_all(plan, prefer=better, ratings=(), difference=None, seed=0):
    """Asks until there is nothing left to ask."""
    answers: list[Comparison] = []
    while (pair := next_pair(plan, Asked(ratings, answers, difference), seed)) is not None:
        answers.append(Comparison(ANA, *pair, prefer(*pair), float(len(answers))))
    return answers


def pairs_of(answers):
    return [frozenset((one.first, one.second)) for one in answers]


# --- When enough has been asked --------------------------------------------------------------


def order_after(plan, answers):
    """The names, best first, by the share of the others that each is likely to be better than."""
    index = {segment.name: number for number, segment in enumerate(plan)}
    wins = np.zeros((len(plan), len(plan)))
    for one in answers:
        share = {"first": 1.0, "second": 0.0, "neither": 0.5}[one.preferred]
        wins[index[one.first], index[one.second]] += share
        wins[index[one.second], index[one.first]] += 1 - share
    strength = probability_better(wins).sum(axis=1)
    return [plan[at].name for at in np.argsort(-strength)]


@pytest.mark.parametrize(("renditions", "most"), [(7, 17), (12, 36)])
def test_a_consistent_rater_is_asked_until_the_order_is_known(renditions, most):
    plan = make_plan(segments=renditions, checkpoints=renditions)
    names = [segment.name for segment in plan]
    for seed in range(5):
        answers = compare_all(plan, seed=seed)
        assert len(answers) <= most < renditions * (renditions - 1) / 2
        assert len(set(pairs_of(answers))) == len(answers)
        assert pairs_left(plan, Asked([], answers)) == 0
        rank = scipy.stats.kendalltau(
            [names.index(name) for name in order_after(plan, answers)], range(renditions)
        ).statistic
        assert rank > 0.95


def test_what_is_left_would_not_change_the_order():
    plan = make_plan(segments=7, checkpoints=7)
    answers = compare_all(plan, seed=3)
    before = order_after(plan, answers)
    left = set(map(frozenset, itertools.combinations(before, 2))) - set(pairs_of(answers))
    assert left
    for pair in left:
        first, second = sorted(pair)
        more = [*answers, Comparison(ANA, first, second, "first", 0.0)]
        assert order_after(plan, more) == before


def test_a_rater_who_answers_at_random_is_not_asked_for_ever():
    plan = make_plan(segments=20, checkpoints=20)
    random = np.random.default_rng(0)
    answers = compare_all(plan, lambda *_: random.choice(["first", "second"]))
    assert len(answers) <= PAIRS_A_SEGMENT * 20 < 190


def test_ties_are_asked_about_once():
    plan = make_plan(segments=4, checkpoints=4)
    answers = compare_all(plan, lambda *_: "neither")
    assert len(answers) == len(set(pairs_of(answers))) == 6


def test_pairs_left_counts_down_to_nothing():
    plan = make_plan(segments=6, checkpoints=6)
    answers = compare_all(plan)
    left = [pairs_left(plan, Asked([], answers[:count])) for count in range(len(answers) + 1)]
    assert left[0] == 15
    assert left[-1] == 0
    assert all(count > 0 for count in left[:-1])
    assert all(count <= 15 - given for given, count in enumerate(left))


# --- Which pair ------------------------------------------------------------------------------


def test_pairs_are_of_one_passage_and_passages_take_turns():
    plan = make_plan(segments=12, checkpoints=4, passages=3)
    of = {segment.name: segment.passage for segment in plan}
    answers = compare_all(plan)
    assert all(of[one.first] == of[one.second] for one in answers)
    visits = [len(list(run)) for _, run in itertools.groupby(of[one.first] for one in answers)]
    assert visits[:3] == [PAIRS_A_VISIT] * 3
    assert {of[one.first] for one in answers[: 3 * PAIRS_A_VISIT]} == set(of.values())
    starts = [next_pair(plan, Asked([], []), seed) for seed in range(9)]
    assert len({of[pair[0]] for pair in starts if pair}) > 1
    lone = [
        dataclasses.replace(segment, first_step=number, last_step=number + 9)
        for number, segment in enumerate(plan)
    ]
    assert next_pair(lone, Asked([], []), 0) is None


def test_different_makers_come_first():
    plan = make_plan(segments=8, checkpoints=2)  # Two noise levels: four makers, two of each.
    maker = {one.name: (one.checkpoint, one.variation) for one in plan}
    answers = compare_all(plan, lambda *_: "neither")
    same = [maker[one.first] == maker[one.second] for one in answers]
    assert same == sorted(same)
    assert sum(same) == 4 - (28 - len(answers))
    times = collections.Counter(itertools.chain(*((one.first, one.second) for one in answers[:8])))
    assert set(times.values()) == {2}


def test_clear_differences_come_first_and_inaudible_ones_never():
    plan = make_plan(segments=6, checkpoints=6)
    at = np.array([0.0, 0.01, 0.2, 0.4, 0.6, 0.8])
    difference = np.abs(at[:, None] - at[None, :])
    answers = compare_all(plan, lambda *_: "neither", difference=difference)
    far = [difference[int(one.first), int(one.second)] for one in answers]
    assert len(far) == 14
    assert min(far) >= LEAST_DIFFERENCE
    median = np.median(difference[np.triu_indices(6, 1)])
    clear = [one >= median for one in far]
    assert clear == sorted(clear, reverse=True)
    assert clear[0]
    assert not clear[-1]


def test_rated_pairs_are_near_but_clear():
    plan = make_plan(segments=10, checkpoints=2)
    score = {f"{number:04d}": 4 * number + 1 for number in range(10)}
    ratings = [rating(name, value - 2, ANA) for name, value in score.items() if value > 2]
    ratings += [rating(name, value + 2, BOB) for name, value in score.items() if value > 2]
    ratings += [rating("0000", 1)]
    answers = compare_all(plan, lambda *_: "neither", ratings)
    gaps = [abs(score[one.first] - score[one.second]) for one in answers]
    near = [gap <= 25 for gap in gaps]
    assert near == sorted(near, reverse=True)
    assert min(gaps) >= LEAST_GAP
    assert sum(near) > 20


def test_equal_pairs_are_never_asked_and_distant_ones_last():
    plan = make_plan(segments=5, checkpoints=1)
    score = {"0000": 10, "0001": 12, "0002": 30, "0003": 90, "0004": 91}
    answers = compare_all(plan, lambda *_: "neither", [rating(*item) for item in score.items()])
    gaps = [abs(score[one.first] - score[one.second]) for one in answers]
    assert sorted(gaps[:2]) == [18, 20]
    assert all(gap > 25 for gap in gaps[2:])
    assert len(answers) == 8
    assert min(gaps) >= LEAST_GAP


def test_pairs_come_again_and_both_places_are_used():
    plan = make_plan(segments=12)
    nothing = Asked([], [])
    assert next_pair(plan, nothing, 7) == next_pair(plan, nothing, 7)
    assert len({next_pair(plan, nothing, seed) for seed in range(8)}) > 4
    answers = [one for seed in range(4) for one in compare_all(plan, seed=seed)]
    firsts = np.mean([one.first < one.second for one in answers])
    assert 0.3 < firsts < 0.7


def test_answers_on_segments_that_are_gone_do_no_harm():
    plan = make_plan(segments=4, checkpoints=2)
    gone = Comparison(ANA, "0000", "0077", "first", 0.0)
    asked = Asked([rating("0077", 50)], [gone])
    assert next_pair(plan, asked, 0) is not None
    assert next_pair(make_plan(segments=1), Asked([], []), 0) is None
    assert next_pair([], Asked([], []), 0) is None


# --- The model -------------------------------------------------------------------------------


def test_the_fit_is_the_maximum_of_the_posterior():
    random = np.random.default_rng(5)
    wins = random.integers(0, 3, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)

    def negative(strength):
        difference = strength[:, None] - strength[None, :]
        prior = np.sum(strength**2) / (2 * PRIOR_DEVIATION**2)
        return prior - np.sum(wins * scipy.special.log_expit(difference))

    best = scipy.optimize.minimize(negative, np.zeros(5), tol=1e-12)
    curvature = scipy.optimize.approx_fprime(
        best.x, lambda at: scipy.optimize.approx_fprime(at, negative, 1e-5), 1e-4
    )
    covariance = np.linalg.inv(curvature)
    found = probability_better(wins)
    for i, j in itertools.permutations(range(5), 2):
        spread = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
        expected = scipy.stats.norm.cdf((best.x[i] - best.x[j]) / np.sqrt(spread))
        assert found[i, j] == pytest.approx(expected, abs=2e-3)
    np.testing.assert_allclose(found + found.T, 1.0)


def test_nothing_is_known_without_answers_or_from_ties():
    np.testing.assert_allclose(probability_better(np.zeros((3, 3))), 0.5)
    np.testing.assert_allclose(probability_better(np.full((3, 3), 0.5) - np.eye(3) / 2), 0.5)
    assert probability_better(np.zeros((0, 0))).shape == (0, 0)


def test_many_wins_are_certain():
    found = probability_better(np.array([[0.0, 500.0], [0.0, 0.0]]))
    assert found[0, 1] > 0.99


# --- What is heard ---------------------------------------------------------------------------


def with_notes(notes):
    return dataclasses.replace(make_performance(0), played_notes=np.array(notes).reshape(-1, 4))


def test_differences_by_hand():
    plain = with_notes([[0.2, 0.6, 40, 80]])
    softer = with_notes([[0.2, 0.6, 40, 40]])
    later = with_notes([[0.3, 0.7, 40, 80]])
    other = with_notes([[0.2, 0.6, 41, 80]])
    silent = with_notes([])
    found = differences([plain, plain, softer, later, other, silent, silent])
    assert found[0] == pytest.approx([0, 0, 1 / 3, 1 / 4, 1, 1, 1])
    assert found[5, 6] == 0
    np.testing.assert_allclose(found, found.T)
    assert differences([plain]).tolist() == [[0.0]]


def test_lead_ins_make_no_difference(tmp_path):
    collection = make_collection(tmp_path, segments=2, video=False, lead_in=6)
    segments = collection.segments()
    judged = [segment.judged() for segment in segments]
    assert [one.seconds for one in judged] == pytest.approx([1.2, 1.2])
    assert 0 < differences(judged)[0, 1] < 1
