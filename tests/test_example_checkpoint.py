"""The trained policy that the repository carries: it can be played and looked at at once."""

import json
import shutil

import pytest
from runs_for_tests import ROOT

pytestmark = pytest.mark.run

EXAMPLE = ROOT / "example_checkpoints" / "twinkle"


@pytest.fixture
def copied(tmp_path):
    """As its README has it copied."""
    return shutil.copytree(EXAMPLE, tmp_path / "runs" / "twinkle")


def test_it_is_small():
    assert sum(file.stat().st_size for file in EXAMPLE.rglob("*")) < 8e6


def test_it_plays_as_its_metrics_say(copied, run_cli, tmp_path):
    exit_code, answer, errors = run_cli(
        *("eval", "--load-checkpoint", copied, "--record-dir", tmp_path / "eval"),
        *("--record-resolution", 48, 64, "--json"),
    )
    assert exit_code == 0, errors
    metrics = json.loads(answer)["metrics"]
    (evaluation,) = (EXAMPLE / "eval").iterdir()
    recorded = json.loads((evaluation / "metrics.json").read_text())
    # Another processor rounds otherwise, and so presses some keys a moment earlier or later.
    for name in ("f1", "note_f1"):
        assert metrics[name] == pytest.approx(recorded[name], abs=0.15), name
    assert metrics["f1"] > 0.75


def test_its_curves_can_be_looked_at(copied, run_cli):
    exit_code, _, errors = run_cli("report", copied)
    assert exit_code == 0, errors
    assert (copied / "report.html").stat().st_size > 50_000
