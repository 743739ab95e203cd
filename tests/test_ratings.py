"""Ratings on the disk, the order in which they are asked for, and agreement between raters."""

import collections
import contextlib
import dataclasses
import itertools
import sqlite3
import threading

import numpy as np
import pytest
from collections_for_tests import make_plan

from replay.errors import BadInput
from rlhf.agreement import agreement
from rlhf.asking_order import LEAST_GAP, next_pair, next_segment, pairs_left, seed_of
from rlhf.ratings import Comparison, Rater, Rating, Ratings

ANA, BOB, CEM = (Rater(name, "person") for name in ("Ana", "Bob", "Cem"))
MACHINE = Rater("machine", "simulated")
NAMES = [f"{number:04d}" for number in range(12)]


@pytest.fixture
def ratings(tmp_path):
    with contextlib.closing(Ratings(tmp_path / "ratings.sqlite", NAMES)) as ratings:
        yield ratings


def scores_of(ratings):
    return [(one.rater.name, one.segment, one.score) for one in ratings.ratings()]


# --- Ratings ---------------------------------------------------------------------------------


def test_the_last_rating_of_each_rater_holds(ratings):
    ratings.rate(ANA, "0001", 40)
    ratings.rate(BOB, "0001", 70)
    ratings.rate(ANA, "0002", 50)
    ratings.rate(ANA, "0001", 45, "better than I thought")
    assert scores_of(ratings) == [("Bob", "0001", 70), ("Ana", "0002", 50), ("Ana", "0001", 45)]
    assert ratings.ratings()[-1].comment == "better than I thought"
    assert ratings.answered("Ana") == ["0002", "0001"]


@pytest.mark.parametrize("score", [0, 101, -1, 50.0, "50", True, None])
def test_scores_out_of_range_are_refused(ratings, score):
    with pytest.raises(BadInput, match="whole number from 1 to 100"):
        ratings.rate(ANA, "0001", score)
    assert ratings.raters() == []


@pytest.mark.parametrize("score", [1, 100])
def test_the_ends_of_the_range_are_kept(ratings, score):
    ratings.rate(ANA, "0001", score)
    assert scores_of(ratings) == [("Ana", "0001", score)]


def test_what_is_not_of_the_collection_is_refused(ratings):
    with pytest.raises(BadInput, match="no segment '0099'"):
        ratings.rate(ANA, "0099", 50)
    with pytest.raises(BadInput, match="no segment '0099'"):
        ratings.compare(ANA, "0001", "0099", "first")
    with pytest.raises(BadInput, match="no segment"):
        ratings.skip(ANA, "../0001")
    with pytest.raises(BadInput, match="1 to 60 characters"):
        ratings.rate(Rater("  ", "person"), "0001", 50)
    assert ratings.raters() == []


def test_a_name_belongs_to_a_person_or_a_machine(ratings):
    ratings.rate(MACHINE, "0001", 50)
    with pytest.raises(BadInput, match="machine is the name of a simulated rater"):
        ratings.rate(Rater("machine", "person"), "0001", 60)
    assert ratings.undo(Rater("machine", "person")) == []
    assert scores_of(ratings) == [("machine", "0001", 50)]
    assert ratings.undo(MACHINE) == ["0001"]


def test_skips_count_as_answers_until_rated(ratings):
    ratings.rate(ANA, "0001", 40)
    ratings.skip(ANA, "0001")
    ratings.skip(ANA, "0002")
    assert scores_of(ratings) == []
    assert ratings.answered("Ana") == ["0001", "0002"]
    ratings.rate(ANA, "0002", 60)
    assert scores_of(ratings) == [("Ana", "0002", 60)]


def test_undo_takes_back_one_answer_after_the_other(ratings):
    ratings.rate(ANA, "0001", 40)
    ratings.rate(BOB, "0001", 90)
    ratings.rate(ANA, "0001", 45)
    ratings.compare(ANA, "0003", "0002", "first")
    assert ratings.undo(ANA) == ["0003", "0002"]
    assert ratings.comparisons() == []
    assert ratings.undo(ANA) == ["0001"]
    assert scores_of(ratings) == [("Ana", "0001", 40), ("Bob", "0001", 90)]
    assert ratings.undo(ANA) == ["0001"]
    assert ratings.undo(ANA) == []
    assert scores_of(ratings) == [("Bob", "0001", 90)]


def test_comparisons_hold_for_a_pair_in_either_order(ratings):
    ratings.compare(ANA, "0001", "0002", "first")
    ratings.compare(BOB, "0001", "0002", "neither")
    ratings.compare(ANA, "0002", "0001", "first")
    held = [(one.rater.name, one.first, one.preferred) for one in ratings.comparisons()]
    assert held == [("Bob", "0001", "neither"), ("Ana", "0002", "first")]
    with pytest.raises(BadInput, match="with itself"):
        ratings.compare(ANA, "0001", "0001", "first")
    with pytest.raises(BadInput, match="first, second or neither"):
        ratings.compare(ANA, "0001", "0002", "both")


def test_nothing_is_lost_between_threads_and_openings(tmp_path):
    path = tmp_path / "ratings.sqlite"

    def rate_all(rater):
        with contextlib.closing(Ratings(path, NAMES)) as own:
            for score, name in enumerate(NAMES, 1):
                own.rate(rater, name, score)

    threads = [threading.Thread(target=rate_all, args=[rater]) for rater in (ANA, BOB, CEM)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with contextlib.closing(Ratings(path, NAMES)) as ratings:
        assert sorted(scores_of(ratings)) == [
            (rater.name, name, score)
            for rater in (ANA, BOB, CEM)
            for score, name in enumerate(NAMES, 1)
        ]


def test_corrections_stay_in_the_file(tmp_path, ratings):
    ratings.rate(ANA, "0001", 40)
    ratings.rate(ANA, "0001", 45)
    ratings.undo(ANA)
    with contextlib.closing(sqlite3.connect(tmp_path / "ratings.sqlite")) as database:
        rows = database.execute("SELECT score, withdrawn FROM answers ORDER BY id").fetchall()
    assert rows == [(40, 0), (45, 1)]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "letter.sqlite").write_text("Dear Clara, " * 100)
    with pytest.raises(BadInput, match=r"letter\.sqlite cannot be opened"):
        Ratings(tmp_path / "letter.sqlite", NAMES)
    with pytest.raises(BadInput, match="cannot be opened"):
        Ratings(tmp_path / "nowhere" / "ratings.sqlite", NAMES)


# --- Which segment is asked ------------------------------------------------------------------


def order_of(plan, seed):
    answered: list[str] = []
    while (name := next_segment(plan, answered, seed)) is not None:
        answered.append(name)
    return answered


def test_checkpoints_and_noise_levels_take_turns():
    plan = make_plan(segments=24, checkpoints=3)  # Two noise levels: four of each kind.
    by_name = {segment.name: segment for segment in plan}
    for seed in range(20):
        order = [by_name[name] for name in order_of(plan, seed)]
        assert sorted(segment.name for segment in order) == sorted(by_name)
        for end in range(1, len(order) + 1):
            checkpoints = [one.checkpoint for one in order[:end]]
            times = [checkpoints.count(one) for one in {segment.checkpoint for segment in plan}]
            assert max(times) - min(times) <= 1
            kinds = collections.Counter((one.checkpoint, one.noise) for one in order[:end])
            assert max(kinds.values()) <= -(-end // 6)


def test_checkpoints_with_few_segments_do_not_stop_the_others():
    plan = make_plan(segments=9, checkpoints=3)
    few = [one for one in plan if one.checkpoint != plan[0].checkpoint] + plan[:1]
    assert sorted(order_of(few, 5)) == sorted(one.name for one in few)


def test_order_is_each_rater_s_own_and_comes_again():
    plan = make_plan(segments=24)
    seeds = [seed_of(name) for name in ("Ana", "Bob", "Čeněk")]
    orders = [order_of(plan, seed) for seed in seeds]
    assert orders == [order_of(plan, seed) for seed in seeds]
    assert len({tuple(order) for order in orders}) == 3


def test_nothing_is_asked_of_nothing():
    assert next_segment([], [], 0) is None
    plan = make_plan(segments=1)
    assert next_segment(plan, [], 0) == "0000"
    assert next_pair(plan, [], [], 0) is None


# --- Which pair is asked ---------------------------------------------------------------------


def rating(name, score, rater=ANA):
    return Rating(rater, name, score, "", 0.0)


def compare_all(plan, ratings, seed=0):
    answers: list[Comparison] = []
    while (pair := next_pair(plan, ratings, answers, seed)) is not None:
        answers.append(Comparison(ANA, *pair, "first", float(len(answers))))
    return answers


def test_first_pairs_are_of_different_checkpoints():
    plan = make_plan(segments=12, checkpoints=3)
    checkpoint = {segment.name: segment.checkpoint for segment in plan}
    answers = compare_all(plan, [])
    assert len(answers) == 24
    assert len({frozenset((one.first, one.second)) for one in answers}) == 24
    assert all(checkpoint[one.first] != checkpoint[one.second] for one in answers)
    times = collections.Counter(itertools.chain(*((one.first, one.second) for one in answers)))
    assert set(times.values()) == {4}


def test_rated_pairs_are_near_but_clear():
    plan = make_plan(segments=10, checkpoints=2)
    score = {f"{number:04d}": 4 * number + 1 for number in range(10)}
    ratings = [rating(name, value - 2, ANA) for name, value in score.items() if value > 2]
    ratings += [rating(name, value + 2, BOB) for name, value in score.items() if value > 2]
    ratings += [rating("0000", 1)]
    answers = compare_all(plan, ratings)
    gaps = [abs(score[one.first] - score[one.second]) for one in answers]
    assert len(answers) == 20
    assert all(5 <= gap <= 25 for gap in gaps)


def test_equal_pairs_are_never_asked_and_distant_ones_last():
    plan = make_plan(segments=5, checkpoints=1)
    score = {"0000": 10, "0001": 12, "0002": 30, "0003": 90, "0004": 91}
    answers = compare_all(plan, [rating(*item) for item in score.items()])
    gaps = [abs(score[one.first] - score[one.second]) for one in answers]
    assert sorted(gaps[:2]) == [18, 20]
    assert all(gap > 25 for gap in gaps[2:])
    assert len(answers) == 8
    assert min(gaps) >= LEAST_GAP


def test_pairs_of_one_passage_come_first():
    plan = [
        dataclasses.replace(segment, song=number // 6, first_step=number // 3 * 24)
        for number, segment in enumerate(make_plan(segments=12, checkpoints=3))
    ]
    of = {segment.name: segment for segment in plan}
    answers = [(of[one.first], of[one.second]) for one in compare_all(plan, [])]
    assert all(one.first_step == two.first_step for one, two in answers[:12])
    assert all(one.song == two.song for one, two in answers)


def test_pairs_left_counts_down_to_the_end():
    plan = make_plan(segments=4, checkpoints=2)
    answers = compare_all(plan, [])
    assert len(answers) == 6  # All that there are.
    assert [pairs_left(plan, [], answers[:count]) for count in range(7)] == [6, 5, 4, 3, 2, 1, 0]


def test_pairs_come_again_and_both_places_are_used():
    plan = make_plan(segments=12)
    assert next_pair(plan, [], [], 7) == next_pair(plan, [], [], 7)
    assert len({next_pair(plan, [], [], seed) for seed in range(8)}) > 4
    firsts = sum(one.first < one.second for seed in range(4) for one in compare_all(plan, [], seed))
    assert 30 < firsts < 66  # Of 96.


def test_answers_on_segments_that_are_gone_do_no_harm():
    plan = make_plan(segments=4, checkpoints=2)
    gone = Comparison(ANA, "0000", "0077", "first", 0.0)
    assert next_pair(plan, [rating("0077", 50)], [gone], 0) is not None


# --- Agreement -------------------------------------------------------------------------------


def test_alpha_is_krippendorff_s():
    # Computed by hand: 1 - observed / expected disagreement, squared differences of scores.
    ana, bob = [10, 40, 70, 90], [20, 40, 60, 100]
    found = agreement(
        [rating(name, score, ANA) for name, score in zip(NAMES, ana, strict=False)]
        + [rating(name, score, BOB) for name, score in zip(NAMES, bob, strict=False)]
    )
    assert found is not None
    pooled = np.array(ana + bob, float)
    observed = np.mean((np.array(ana) - bob) ** 2.0)
    expected = np.sum((pooled[:, None] - pooled) ** 2) / (8 * 7)
    assert found.alpha == pytest.approx(1 - observed / expected)
    assert found.spearman == pytest.approx(1.0)
    assert (found.people, found.segments) == (2, 4)


def test_machines_and_strangers_do_not_count():
    shared = [rating(name, score, ANA) for name, score in zip(NAMES, (10, 50, 90), strict=False)]
    assert agreement([]) is None
    assert agreement(shared) is None
    assert agreement(shared + [rating(name, 50, MACHINE) for name in NAMES]) is None
    assert agreement(shared + [rating(name, 50, BOB) for name in NAMES[1:]]) is None
    opposite = [rating(name, score, BOB) for name, score in zip(NAMES, (90, 50, 10), strict=False)]
    machine = [rating(name, score, MACHINE) for name, score in zip(NAMES, (1, 5, 9), strict=False)]
    found = agreement(shared + opposite + machine)
    assert found is not None
    assert found.people == 2
    assert found.spearman == pytest.approx(-1.0)
    assert found.alpha is not None
    assert found.alpha < 0


def test_equal_scores_have_no_rank():
    both = [rating(name, 50, rater) for name in NAMES[:3] for rater in (ANA, BOB)]
    found = agreement(both)
    assert found is not None
    assert (found.alpha, found.spearman) == (None, None)
    found = agreement([*both, rating("0003", 60, ANA), rating("0003", 70, BOB)])
    assert found is not None
    assert found.spearman == pytest.approx(1.0)


def test_segments_of_one_rater_alone_do_not_change_alpha():
    shared = [
        rating(name, score, rater)
        for rater, scores in ((ANA, (10, 50, 90)), (BOB, (15, 45, 95)))
        for name, score in zip(NAMES, scores, strict=False)
    ]
    assert agreement([*shared, rating("0009", 1, ANA)]) == agreement(shared)
