"""Ratings on the disk, the order in which they are asked for, and agreement between raters."""

import collections
import contextlib
import itertools
import pathlib
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from collections_for_tests import make_plan

from common.errors import BadInput
from rlhf.agreement import Answers, agreement, consistency
from rlhf.asking_order import next_repeat, next_segment, repeats_in, seed_of
from rlhf.ratings import Comparison, Rater, Rating, Ratings, TakenBack

ROOT = pathlib.Path(__file__).parent.parent
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
    assert ratings.undo(Rater("machine", "person")) is None
    assert scores_of(ratings) == [("machine", "0001", 50)]
    assert ratings.undo(MACHINE) == TakenBack(("0001",), False)


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
    assert ratings.undo(ANA) == TakenBack(("0003", "0002"), False)
    assert ratings.comparisons() == []
    assert ratings.undo(ANA) == TakenBack(("0001",), False)
    assert scores_of(ratings) == [("Ana", "0001", 40), ("Bob", "0001", 90)]
    assert ratings.undo(ANA) == TakenBack(("0001",), False)
    assert ratings.undo(ANA) is None
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


def test_attributes_are_never_mixed(ratings):
    ratings.rate(ANA, "0001", 40)
    ratings.rate(ANA, "0001", 80, attribute="even")
    ratings.skip(ANA, "0002", "even")
    ratings.compare(ANA, "0001", "0002", "first", "even")
    assert scores_of(ratings) == [("Ana", "0001", 40)]
    assert [one.score for one in ratings.ratings("even")] == [80]
    assert ratings.comparisons() == []
    assert len(ratings.comparisons("even")) == 1
    assert ratings.answered("Ana", "even") == ["0001", "0002"]
    assert ratings.attributes() == ["", "even"]
    assert ratings.undo(ANA) == TakenBack(("0001",), False)
    assert ratings.undo(ANA) is None
    assert ratings.attributes() == ["even"]
    with pytest.raises(BadInput, match="at most 40"):
        ratings.rate(ANA, "0001", 40, attribute="e" * 41)


def test_repetitions_do_not_count_as_answers(ratings):
    with pytest.raises(BadInput, match="no answer of yours"):
        ratings.rate(ANA, "0001", 40, repetition=True)
    ratings.rate(ANA, "0001", 40)
    ratings.compare(ANA, "0001", "0002", "first")
    for wrong in (
        lambda: ratings.rate(BOB, "0001", 44, repetition=True),
        lambda: ratings.rate(ANA, "0001", 44, "", "even", True),
        lambda: ratings.compare(ANA, "0001", "0003", "first", repetition=True),
    ):
        with pytest.raises(BadInput, match="no answer of yours"):
            wrong()
    ratings.rate(ANA, "0001", 44, repetition=True)
    ratings.compare(ANA, "0002", "0001", "neither", repetition=True)
    assert scores_of(ratings) == [("Ana", "0001", 40)]
    assert [one.preferred for one in ratings.comparisons()] == ["first"]
    assert [one.score for one in ratings.ratings(repetition=True)] == [44]
    assert [one.first for one in ratings.comparisons(repetition=True)] == ["0002"]
    assert ratings.undo(ANA) == TakenBack(("0002", "0001"), True)
    assert ratings.undo(ANA) == TakenBack(("0001",), True)
    assert scores_of(ratings) == [("Ana", "0001", 40)]


def test_all_answers_are_listed_with_what_became_of_them(ratings):
    ratings.rate(ANA, "0001", 40, "slow")
    ratings.rate(ANA, "0001", 45)
    ratings.skip(BOB, "0001")
    ratings.undo(BOB)
    ratings.compare(BOB, "0001", "0002", "second", "even")
    ratings.compare(BOB, "0002", "0001", "second", "even", repetition=True)
    listed = [
        (one.rater.name, one.kind, one.state, one.repetition, one.score, one.preferred, one.comment)
        for one in ratings.answers()
    ]
    assert listed == [
        ("Ana", "rating", "replaced", False, 40, None, "slow"),
        ("Ana", "rating", "holds", False, 45, None, ""),
        ("Bob", "skip", "taken back", False, None, None, ""),
        ("Bob", "comparison", "holds", False, None, "second", ""),
        ("Bob", "comparison", "holds", True, None, "second", ""),
    ]


OLD_SCHEMA = """
CREATE TABLE raters (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('person', 'simulated'))
);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    rater TEXT NOT NULL REFERENCES raters (name),
    kind TEXT NOT NULL CHECK (kind IN ('rating', 'comparison', 'skip')),
    first TEXT NOT NULL,
    second TEXT CHECK ((second IS NOT NULL) = (kind = 'comparison')),
    score INTEGER CHECK (score BETWEEN 1 AND 100),
    preferred TEXT CHECK (preferred IN ('first', 'second', 'neither')),
    comment TEXT NOT NULL DEFAULT '',
    withdrawn INTEGER NOT NULL DEFAULT 0,
    CHECK ((score IS NOT NULL) = (kind = 'rating')),
    CHECK ((preferred IS NOT NULL) = (kind = 'comparison'))
);
INSERT INTO raters VALUES ('Ana', 'person');
INSERT INTO answers VALUES (1, 1.5, 'Ana', 'rating', '0001', NULL, 40, NULL, '', 1);
INSERT INTO answers VALUES (2, 2.5, 'Ana', 'rating', '0001', NULL, 45, NULL, 'slow', 0);
INSERT INTO answers VALUES (3, 3.5, 'Ana', 'comparison', '0001', '0002', NULL, 'neither', '', 0);
"""


@pytest.mark.parametrize("processes", [1, 6])
def test_files_of_the_first_version_still_open(tmp_path, processes):
    path = tmp_path / "ratings.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(OLD_SCHEMA)
    # All at once: only one of them may add the columns.
    code = (
        "import sys, pathlib; from rlhf.ratings import Rater, Ratings; sys.stdin.read(1);"
        "ratings = Ratings(pathlib.Path(sys.argv[1]), ['0003']);"
        "ratings.rate(Rater(sys.argv[2], 'person'), '0003', 50, attribute='even')"
    )
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), f"rater {number}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )
        for number in range(processes)
    ]
    time.sleep(0.3)
    for process in opening:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in opening] == [0] * processes
    with contextlib.closing(Ratings(path, NAMES)) as ratings:
        assert ratings.ratings() == [Rating(ANA, "0001", 45, "slow", 2.5)]
        assert ratings.comparisons() == [Comparison(ANA, "0001", "0002", "neither", 3.5)]
        assert len(ratings.ratings("even")) == processes
        ratings.rate(ANA, "0001", 50, repetition=True)
        assert ratings.undo(ANA) == TakenBack(("0001",), True)


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
            kinds = collections.Counter(
                (one.checkpoint, one.variation.noise) for one in order[:end]
            )
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


def test_passages_come_one_after_another_in_an_order_of_the_rater_s_own():
    plan = make_plan(segments=12, checkpoints=3, passages=4)
    of = {segment.name: segment.passage for segment in plan}
    orders = []
    for seed in range(8):
        passages = [of[name] for name in order_of(plan, seed)]
        runs = [passage for passage, _ in itertools.groupby(passages)]
        assert len(runs) == 4
        orders.append(tuple(runs))
        within = [name for name in order_of(plan, seed) if of[name] == plan[0].passage]
        assert sorted(within) == ["0000", "0001", "0002"]
    assert len(set(orders)) > 3
    assert len({tuple(order_of(plan, seed)[:3]) for seed in range(8)}) > 3


# --- What is asked again ---------------------------------------------------------------------


def session(total, seed):
    """All questions, repetitions marked."""
    answered: list[str] = []
    repeated: list[str] = []
    asked = []
    while True:
        again = next_repeat(answered, repeated, seed)
        if again is not None:
            repeated.append(again)
            asked.append((again, True))
        elif len(answered) < total:
            answered.append(f"{len(answered):04d}")
            asked.append((answered[-1], False))
        else:
            return asked


def test_one_answer_in_ten_is_asked_again_after_a_while():
    for seed in range(10):
        asked = session(47, seed)
        again = [name for name, repetition in asked if repetition]
        assert len(again) == len(set(again)) == repeats_in(47) == 4
        for name in again:
            between = asked.index((name, True)) - asked.index((name, False)) - 1
            assert between >= 5
    assert len({tuple(session(47, seed)) for seed in range(10)}) == 10
    assert not any(repetition for _, repetition in session(9, 0))


def test_a_reload_asks_the_same_again():
    answered = [f"{number:04d}" for number in range(10)]
    found = {next_repeat(answered, [], 3) for _ in range(5)}
    assert len(found) == 1
    assert found <= set(answered[:5])
    assert next_repeat(answered, list(found), 3) is None


def rating(name, score, rater=ANA):
    return Rating(rater, name, score, "", 0.0)


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


# --- Consistency -----------------------------------------------------------------------------


def comparison(first, second, preferred, rater=ANA):
    return Comparison(rater, first, second, preferred, 0.0)


def test_consistency_compares_second_answers_with_first_ones():
    first = Answers(
        [rating("0001", 20), rating("0002", 50), rating("0003", 80), rating("0001", 1, BOB)],
        [comparison("0001", "0002", "first"), comparison("0003", "0004", "neither")],
    )
    repeated = Answers(
        [rating("0001", 26), rating("0003", 76), rating("0009", 5)],
        [comparison("0002", "0001", "second"), comparison("0004", "0003", "first")],
    )
    found = consistency(first, repeated)
    assert list(found) == ["Ana"]
    ana = found["Ana"]
    assert (ana.scores, ana.difference) == (2, 5.0)
    assert ana.difference_between_segments == pytest.approx((30 + 60 + 30) / 3)
    assert (ana.pairs, ana.alike) == (2, 0.5)  # Turned round and alike; a tie that was decided.


def test_without_repetitions_there_is_no_consistency():
    assert consistency(Answers([rating("0001", 20)], []), Answers([], [])) == {}
    only = Answers([], [comparison("0001", "0002", "first")])
    found = consistency(only, only)["Ana"]
    assert found.difference is None
    assert found.difference_between_segments is None
    assert found.alike == 1.0
