"""A run's folder: where everything about a run is found.

RUN/config.json      every setting
RUN/songs.json       the songs
RUN/logbook.jsonl    one line a log interval and an evaluation
RUN/status.json      what the run does now
RUN/checkpoints/     step_000012345/, the newest last
RUN/eval/            step_000012345/: metrics, performance, MIDI, video
RUN/comparison.json  before and after, of a fine-tuning
RUN/report.html      all of it to look at
"""

import dataclasses
import json
import os
import pathlib
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil

from cluster.config import RunConfig, to_json
from replay.errors import BadInput
from replay.files import write_json

if TYPE_CHECKING:  # Reading a run's folder needs no MIDI library, whose import takes seconds.
    from actors.repertoire import Repertoire

_SECONDS_UNTIL_LOST = 60.0


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: pathlib.Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def logbook(self) -> pathlib.Path:
        """JSON lines."""
        return self.path / "logbook.jsonl"

    @property
    def status(self) -> pathlib.Path:
        """What the run does now."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> pathlib.Path:
        """One folder an evaluation."""
        return self.path / "eval"

    @property
    def replay(self) -> pathlib.Path:
        """The replay server's own files."""
        return self.path / "replay"

    @property
    def report(self) -> pathlib.Path:
        """All of it to look at."""
        return self.path / "report.html"

    @property
    def comparison(self) -> pathlib.Path:
        """Of a fine-tuning: before and after."""
        return self.path / "comparison.json"

    @property
    def process_logs(self) -> pathlib.Path:
        """Logs of the processes, kept after a failure."""
        return self.path / "process_logs"


def create(config: RunConfig, method: str, repertoire: "Repertoire") -> RunFolder:
    """Makes the folder of a new run and describes the run in it.

    Args:
        config: of the run.
        method: what the name of a run without one begins with.
        repertoire: that is played.

    Raises:
        BadInput: the name is taken, or the folder cannot be made.
    """
    piece = "-".join(repertoire.title.split()).replace("/", "-")[:80]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = config.name or f"{method}-{piece}-{config.seed}-{stamp}"
    run = RunFolder(config.root_dir / name)
    try:
        run.path.mkdir(parents=True)
    except FileExistsError as error:
        raise BadInput(
            f"there is a run {name} in {config.root_dir} already: choose another --name"
        ) from error
    except OSError as error:
        raise BadInput(f"the run's folder {run.path} cannot be made: {error}") from error
    write_json(run.path / "config.json", to_json(config) | {"name": name})
    songs = [song.to_json() for song in repertoire.songs]
    write_json(run.path / "songs.json", {"title": repertoire.title, "songs": songs})
    return run


def find(run: pathlib.Path, root_dir: pathlib.Path) -> RunFolder:
    """The run that a person means: a folder, or a name below `root_dir`.

    Raises:
        BadInput: there is no such run.
    """
    for path in (run, root_dir / run):
        if (path / "config.json").is_file():
            return RunFolder(path)
    raise BadInput(f"no run at {run}, nor {run} in {root_dir}: it would hold a config.json")


@dataclasses.dataclass
class Status:
    """What a run does now; the run itself writes it every few seconds."""

    name: str
    kind: str
    """train or cpl."""
    state: str
    """starting, training, evaluating, finished, stopped or failed."""
    started: float
    """Unix seconds."""
    environment_steps: int = 0
    max_steps: int = 0
    learner_steps: int = 0
    environment_steps_per_second: float = 0.0
    updates_per_second: float = 0.0
    replay_size: int = 0
    actors_wanted: int = 0
    actors_running: int = 0
    note_f1: float | None = None
    """Of the last evaluation."""
    process: int = dataclasses.field(default_factory=os.getpid)
    host: str = dataclasses.field(default_factory=socket.gethostname)
    updated: float = 0.0
    """Unix seconds."""

    def write(self, path: pathlib.Path) -> None:
        """Writes it, with the time."""
        self.updated = time.time()
        write_json(path, dataclasses.asdict(self))


def read_statuses(root_dir: pathlib.Path) -> list[dict[str, Any]]:
    """The status of every run below `root_dir`, oldest first.

    A run that says that it is under way, but whose process is gone or has been silent for a
    minute, has the state "lost".
    """
    statuses = []
    for file in root_dir.glob("*/status.json"):
        try:
            status = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if status.get("state") in ("starting", "training", "evaluating") and _is_lost(status):
            status["state"] = "lost"
        statuses.append(status)
    return sorted(statuses, key=lambda status: status.get("started", 0.0))


def _is_lost(status: dict[str, Any]) -> bool:
    if status.get("host") == socket.gethostname():
        return not psutil.pid_exists(int(status.get("process", -1)))
    return time.time() - float(status.get("updated", 0.0)) > _SECONDS_UNTIL_LOST
