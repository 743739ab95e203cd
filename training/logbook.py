"""The logbook: measurements of a run as JSON lines and, optionally, in Weights & Biases."""

import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from common.files import as_utf8, parse_json, read_json, write_json
from training.config import RunConfig, to_json
from training.run import RunFolder


class Logbook:
    """Writes one JSON object per line, and the same values to Weights & Biases.

    Every line has time (Unix seconds), seconds (since the start), environment_steps and
    learner_steps. Other values have the same names as in Weights & Biases, such as "learner/q".
    A value that is not finite is written as null.

    A resumed run continues its logbook, and its seconds continue from the last line.

    Args:
        run: Folder of the run.
        config: Settings of the run, including those of Weights & Biases.
    """

    def __init__(self, run: RunFolder, config: RunConfig):
        # The file is unbuffered, so that no part of a line that hit a full disk appears later.
        self._file = run.logbook.open("ab", buffering=0)
        self._unwritten = b""
        self._started = time.monotonic() - _end_at_whole_line(run.logbook)
        self._wandb = _start_wandb(run, config) if config.wandb.mode != "disabled" else None

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._started

    def write(
        self,
        environment_steps: int,
        learner_steps: int,
        values: Mapping[str, float | None],
    ) -> None:
        """Writes one line.

        Args:
            environment_steps: Environment steps so far.
            learner_steps: Learner steps so far.
            values: Values by name; None for a value that does not exist.

        Raises:
            OSError: The disk is full. The line is kept and written with the next one.
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
        if self._wandb is not None:
            known = {name: value for name, value in finite.items() if value is not None}
            self._wandb.log(known | {"learner_steps": learner_steps}, step=environment_steps)
        self._unwritten += json.dumps(line | finite).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        if self._file.write(self._unwritten) < len(self._unwritten):
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self._unwritten = b""

    def show_videos(self, evaluation: pathlib.Path, environment_steps: int) -> None:
        """Shows the videos of an evaluation in Weights & Biases.

        Args:
            evaluation: Folder of the evaluation.
            environment_steps: Environment steps of its checkpoint.
        """
        if self._wandb is not None:
            import wandb

            videos = {
                f"eval/{path.relative_to(evaluation)}": wandb.Video(str(path), format="mp4")
                for path in sorted(evaluation.rglob("*.mp4"))
            }
            self._wandb.log(videos | {"video_step": environment_steps})

    def close(self) -> None:
        """Closes the file and ends the run in Weights & Biases."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(quiet=True)


def _end_at_whole_line(logbook: pathlib.Path) -> float:
    """Removes an incomplete last line and returns the seconds of the last complete one."""
    content = logbook.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(logbook, len(whole))
    last = whole.splitlines()[-1:]
    return float(parse_json(last[0], str(logbook)).get("seconds", 0.0)) if last else 0.0


def _start_wandb(run: RunFolder, config: RunConfig) -> Any:
    import wandb

    folder = pathlib.Path(os.environ.get("WANDB_DIR") or run.path)
    folder.mkdir(parents=True, exist_ok=True)
    if not run.wandb.is_file():
        write_json(run.wandb, {"id": wandb.util.generate_id()})
    return wandb.init(
        id=read_json(run.wandb)["id"],
        resume="allow",
        project=config.wandb.project,
        entity=config.wandb.entity or None,
        tags=config.wandb.tags.split(",") if config.wandb.tags else None,
        notes=config.wandb.notes or None,
        mode=config.wandb.mode,
        name=as_utf8(run.name),
        dir=str(folder),
        config=to_json(config),
    )
