"""Collections that are learnt from together, and the chain of rounds that led to a checkpoint."""

import contextlib
import json

import numpy as np
import pytest
from collections_for_tests import make_collection

from common.errors import BadInput
from rlhf import earlier_rounds
from rlhf.ratings import Rater, Ratings
from rlhf.rounds import read_rated
from training.config import TrainConfig
from training.trained_policy import TrainedPolicy

ANNA, BERT = Rater("anna", "person"), Rater("bert", "person")


@pytest.fixture
def two(tmp_path):
    """Collections of two passages with two segments each, of the same names."""
    return [
        make_collection(tmp_path / name, segments=4, video=False, passages=2)
        for name in ("first", "second")
    ]


@contextlib.contextmanager
def answers_to(collection):
    names = [segment.name for segment in collection.planned]
    with contextlib.closing(Ratings(collection.ratings, names)) as ratings:
        yield ratings


def test_pairs_are_of_one_passage_of_one_collection(two):
    with answers_to(two[0]) as ratings:
        for number, score in enumerate((10, 20, 30, 40)):
            ratings.rate(ANNA, f"{number:04d}", score)
    with answers_to(two[1]) as ratings:
        ratings.compare(BERT, "0000", "0001", "first")
        ratings.compare(BERT, "0002", "0003", "neither")
    rated = read_rated(two, (), "")
    expected = np.zeros((8, 8))
    # By number: of the first collection 1 before 0 and 3 before 2, of the second 0 before 1.
    expected[1, 0] = expected[3, 2] = expected[4, 5] = 1
    np.testing.assert_array_equal(rated.weight, expected)
    assert rated.answers == {"ratings": 4, "comparisons": 1, "ties": 1}
    passages = [segment.passage for collection in two for segment in collection.planned]
    assert rated.passages == passages


def test_scores_of_a_rater_are_compared_within_a_round_only(two):
    """A rater who grew stricter from round to round has said nothing about the rounds."""
    for collection, scores in zip(two, ((80, 90, 80, 90), (10, 20, 10, 20)), strict=True):
        with answers_to(collection) as ratings:
            for number, score in enumerate(scores):
                ratings.rate(ANNA, f"{number:04d}", score)
    rated = read_rated(two, ["anna"], "")
    np.testing.assert_array_equal(rated.weight[:4, :4], rated.weight[4:, 4:])
    assert not rated.weight[:4, 4:].any()
    assert not rated.weight[4:, :4].any()


def test_a_round_without_a_pair_is_named(two):
    with answers_to(two[0]) as ratings:
        ratings.compare(ANNA, "0000", "0001", "first")
    with answers_to(two[1]) as ratings:
        ratings.compare(ANNA, "0000", "0001", "first", attribute="even")
    with pytest.raises(BadInput, match=f"^{two[1].path}: this collection has no ratings"):
        read_rated(two, (), "")
    with pytest.raises(BadInput, match=f"^{two[0].path}: this collection has no ratings"):
        read_rated(two, (), "even")


# --- The chain ----------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """A checkpoint's folder within that of a fine-tuning, whose comparison has two rounds."""
    folder = tmp_path / "run" / "checkpoints" / "step_000000050"
    folder.mkdir(parents=True)
    comparison = {"rounds": [{"run": "one"}, {"run": "run"}]}
    (tmp_path / "run" / "comparison.json").write_text(json.dumps(comparison))
    return folder


def test_a_round_goes_on_from_those_of_the_policy_that_it_begins_with(start, capsys):
    found = earlier_rounds.chain(TrainedPolicy(start, TrainConfig(), {"fine_tuned_from": "x"}))
    assert found == [{"run": "one"}, {"run": "run"}]
    assert (
        earlier_rounds.chain(TrainedPolicy(start, TrainConfig(), {})) == []
    )  # It was trained, not fine-tuned.
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (None, "cannot be read"),
        (b"{", "is damaged"),
        (b'{"before": {}}', "is of an earlier version"),
        (b'{"rounds": 3}', "is of an earlier version"),
    ],
)
def test_a_chain_that_cannot_be_read_is_said(start, capsys, comparison, words):
    file = start.parent.parent / "comparison.json"
    file.unlink()
    if comparison is not None:
        file.write_bytes(comparison)
    assert earlier_rounds.chain(TrainedPolicy(start, TrainConfig(), {"fine_tuned_from": "x"})) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the report begins with this round: ")
    assert words in line
