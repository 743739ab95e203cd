"""A run's folder: where everything about a run is found.

RUN/config.json      every setting
RUN/songs.json       the songs
RUN/logbook.jsonl    one line a log interval and an evaluation
RUN/status.json      what the run does now
RUN/checkpoints/     step_000012345/, the newest last, and the best
RUN/replay/          the journal of the replay, see `replay.journal`
RUN/unhealthy/       step_000012345.safetensors: the batch of a learner step whose numbers went bad
RUN/eval/            step_000012345/: metrics, performance, MIDI, video
RUN/comparison.json  before and after, of a fine-tuning
RUN/report.html      all of it to look at
RUN/wandb.json       the run's id in Weights & Biases
RUN/scale.json       another number of actors that is wanted, until the run has taken notice
"""

import contextlib
import dataclasses
import os
import pathlib
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil

from cluster.config import RunConfig, to_json
from replay.errors import BadInput
from replay.files import read_json, write_json
from replay.storage import Place

if TYPE_CHECKING:  # Reading a run's folder needs no MIDI library, whose import takes seconds.
    from actors.repertoire import Repertoire

_SECONDS_UNTIL_LOST = 60.0
ACTIVE = ("starting", "training", "evaluating")
"""States of a run that is under way."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: pathlib.Path
    url: str = ""
    """Of which the folder is a copy, if any."""

    @property
    def place(self) -> Place:
        """Folder and URL."""
        return Place(self.path, self.url)

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
        """The journal of the replay."""
        return self.path / "replay"

    @property
    def unhealthy(self) -> pathlib.Path:
        """Batches to be studied."""
        return self.path / "unhealthy"

    @property
    def wandb(self) -> pathlib.Path:
        """The run's id in Weights & Biases."""
        return self.path / "wandb.json"

    @property
    def report(self) -> pathlib.Path:
        """All of it to look at."""
        return self.path / "report.html"

    @property
    def comparison(self) -> pathlib.Path:
        """Of a fine-tuning: before and after."""
        return self.path / "comparison.json"

    @property
    def scale_request(self) -> pathlib.Path:
        """See `cluster.scale`."""
        return self.path / "scale.json"

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
    place = Place.of(config.root_dir) / name
    place.fetch("config.json")  # If a run of this name is there, its folder is here from now on.
    run = RunFolder(place.path, place.url)
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


def find(run: str, root_dir: str) -> RunFolder:
    """The run that a person means: a folder or URL, or a name below `root_dir`.

    Raises:
        BadInput: there is no such run.
    """
    places = [Place.of(run)]
    if "://" not in run:
        places.append(Place.of(root_dir) / run)
    for place in places:
        if (place.fetch() / "config.json").is_file():
            return RunFolder(place.path, place.url)
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
    actors_placed: int = 0
    """Of which have a place: their process is there."""
    actors_running: int = 0
    """Of which play."""
    actors_pending: int = 0
    """Wanted and not placed."""
    actors_pending_because: str = ""
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


def read_status(run: RunFolder) -> dict[str, Any]:
    """A run's status, as in `Status`.

    A run that says that it is under way, but whose process is gone or has been silent for a
    minute, has the state "lost". One that does not say its kind, as old ones do not, is a
    training.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    absent = {
        field.name: field.default
        for field in dataclasses.fields(Status)
        if field.default is not dataclasses.MISSING
    }
    status = absent | {"kind": "train"} | read_json(run.status)
    if status["state"] in ACTIVE and _is_lost(status):
        status["state"] = "lost"
    return status


def read_statuses(root_dir: str) -> list[dict[str, Any]]:
    """The status of every run below `root_dir`, oldest first; see `read_status`."""
    statuses = []
    for file in Place.of(root_dir).fetch("*/status.json").glob("*/status.json"):
        with contextlib.suppress(BadInput, KeyError):
            statuses.append(read_status(RunFolder(file.parent)))
    return sorted(statuses, key=lambda status: status.get("started", 0.0))


def best_checkpoint(run: RunFolder) -> str | None:
    """Name of the checkpoint that played best in its evaluation, of those that are kept.

    By note-event F1, and of equal ones by the return.
    """
    played = []
    for file in run.evaluations.glob("*/metrics.json"):
        if (run.checkpoints / file.parent.name).is_dir():
            metrics = read_json(file)
            values = (metrics.get("note_f1"), metrics.get("episode_return"))
            played.append(
                ([-1e9 if value is None else value for value in values], file.parent.name)
            )
    return max(played)[1] if played else None


def _is_lost(status: dict[str, Any]) -> bool:
    if status.get("host") == socket.gethostname():
        return not psutil.pid_exists(int(status.get("process", -1)))
    return time.time() - float(status.get("updated", 0.0)) > _SECONDS_UNTIL_LOST
