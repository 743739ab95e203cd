"""For benchmarks that watch a whole run: what it plays, and what it says of itself."""

import json
import pathlib
from typing import Any

CHIMES = (
    *("--midi-file", "example_midis/westminster_chimes.mid", "--preset", "few-cores"),
    *("--trim-silence", "--gravity-compensation", "--reduced-action-space"),
    *("--action-reward-observation", "--primitive-fingertip-collisions"),
)
"""Flags of `pianist train`, as `make train` has them."""


def read_status(run: pathlib.Path) -> dict[str, Any]:
    """The status that a run has written; that of one that starts, if there is none yet."""
    try:
        status: dict[str, Any] = json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return {"environment_steps": 0, "learner_steps": 0, "state": "starting"}
    return status
