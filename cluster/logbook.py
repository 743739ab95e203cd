"""The logbook: what a run measured, as JSON lines and, if wanted, in Weights & Biases."""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from cluster.config import RunConfig, to_json
from cluster.run import RunFolder


class Logbook:
    """Writes one JSON object a line, and the same to Weights & Biases.

    Every line has time (Unix seconds), seconds (since the start), environment_steps and
    learner_steps; whatever else it has is named as in Weights & Biases, such as
    "learner/q". A value that is not finite is written as null.

    Args:
        run: the run's folder.
        config: of the run; says whether Weights & Biases is used.
    """

    def __init__(self, run: RunFolder, config: RunConfig):
        self._file = run.logbook.open("a", buffering=1)
        self._started = time.monotonic()
        self._wandb = _start_wandb(run, config) if config.wandb.mode != "disabled" else None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def write(
        self,
        environment_steps: int,
        learner_steps: int,
        values: Mapping[str, float | None],
    ) -> None:
        """Writes one line.

        Args:
            environment_steps: so far.
            learner_steps: so far.
            values: by name.
        """
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "seconds": round(self.seconds, 3),
            "environment_steps": environment_steps,
            "learner_steps": learner_steps,
        }
        finite = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._file.write(json.dumps(line | finite) + "\n")
        if self._wandb is not None:
            known = {name: value for name, value in finite.items() if value is not None}
            self._wandb.log(known | {"learner_steps": learner_steps}, step=environment_steps)

    def show_videos(self, evaluation: pathlib.Path, environment_steps: int) -> None:
        """Shows the videos of an evaluation in Weights & Biases.

        Args:
            evaluation: its folder.
            environment_steps: of its checkpoint.
        """
        if self._wandb is not None:
            import wandb

            videos = {
                f"eval/{path.relative_to(evaluation)}": wandb.Video(str(path), format="mp4")
                for path in sorted(evaluation.rglob("*.mp4"))
            }
            self._wandb.log(videos | {"video_step": environment_steps})

    def close(self) -> None:
        """Ends the logbook."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(quiet=True)


def _start_wandb(run: RunFolder, config: RunConfig) -> Any:
    import wandb

    folder = pathlib.Path(os.environ.get("WANDB_DIR", run.path))
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=config.wandb.project,
        entity=config.wandb.entity or None,
        tags=config.wandb.tags.split(",") if config.wandb.tags else None,
        notes=config.wandb.notes or None,
        mode=config.wandb.mode,
        name=run.name,
        dir=str(folder),
        config=to_json(config),
    )
