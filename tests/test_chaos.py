"""Parts die, stop and starve while a real run goes on: the short form of `make chaos`."""

import pytest
from runs_for_tests import FLAGS, wait_until_nothing_is_left

from benchmarks.chaos import PARTS, Fault, chaos, schedule, table

pytestmark = pytest.mark.bench

EVAL_INTERVAL = 600
COST_THE_REPLAY = ("Learner", "ReplayServer", "ParameterServer", "driver")
SHORT = [
    Fault("Learner", "kill", 0),
    Fault("Actor", "kill", 0),
    Fault("Evaluator", "kill", 0),
    Fault("ReplayServer", "stop", 2),
    Fault("ReplayServer", "kill", 0),
]


def test_a_schedule_has_every_part_and_kind_and_is_the_same_again():
    faults = schedule(36, seed=1, longest_stop=90)
    assert faults == schedule(36, seed=1, longest_stop=90)
    assert faults != schedule(36, seed=2, longest_stop=90)
    assert len({(fault.part, fault.kind) for fault in faults}) == 3 * len(PARTS)
    assert all((fault.seconds == 0) == (fault.kind == "kill") for fault in faults)


def test_whatever_dies_the_run_goes_on_and_loses_no_more_than_it_says(folder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder))
    flags = [
        *FLAGS,
        *("--actors", 2, "--environments-per-actor", 2, "--warmstart-steps", 200),
        *("--max-steps", 1_000_000, "--eval-interval", EVAL_INTERVAL, "--log-interval", 200),
    ]
    answer = chaos(folder / "chaos", SHORT, flags, settled_seconds=2)
    assert len(answer["outcomes"]) == len(SHORT)
    assert answer["steps_went_back"] == 0
    assert answer["exit_code"] == 130
    for outcome in answer["outcomes"]:
        assert outcome["back_seconds"] < 60, outcome
        if outcome["part"] in ("Actor", "Evaluator") or outcome["kind"] != "kill":
            assert outcome["learner_steps_lost"] == 0, outcome
        # The ratio is 1.
        assert outcome["learner_steps_lost"] <= outcome["steps_since_checkpoint"] + 1500, outcome
    # The two that cost the replay may lose what came after the last entry, which comes with the
    # last checkpoint, and what was played in the seconds until the driver had noticed.
    lost = answer["environment_steps"] - answer["in_journal"]
    faults = [outcome for outcome in answer["outcomes"] if outcome["part"] in COST_THE_REPLAY]
    assert 0 <= lost <= sum(outcome["steps_since_checkpoint"] + 1500 for outcome in faults)
    assert "| Learner | kill | 1 |" in table(answer)
    wait_until_nothing_is_left(folder)


@pytest.mark.parametrize("faults", [0, 5])
def test_a_schedule_is_as_long_as_wanted(faults):
    assert len(schedule(faults, seed=0, longest_stop=10)) == faults
