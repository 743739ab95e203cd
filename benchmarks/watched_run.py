"""Flags and status of a whole run, for benchmarks that observe one."""

import json
import pathlib
from typing import Any

CHIMES = (
    *("--midi-file", "example_midis/westminster_chimes.mid", "--preset", "few-cores"),
    *("--trim-silence", "--gravity-compensation", "--reduced-action-space"),
    *("--action-reward-observation", "--primitive-fingertip-collisions"),
)
"""Flags of `pianist train` as in `make train`."""


def read_status(run: pathlib.Path) -> dict[str, Any]:
    """Reads the status of a run; returns the status of a starting run if there is none yet."""
    try:
        status: dict[str, Any] = json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return {"environment_steps": 0, "learner_steps": 0, "state": "starting"}
    return status
