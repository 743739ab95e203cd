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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil

from common import storage
from common.errors import BadInput, require
from common.files import as_utf8, matching, nearest, read_json, try_to_write, write_json
from common.project import program
from common.storage import Place
from training.config import RunConfig, WandbConfig, to_json

if TYPE_CHECKING:  # Reading a run's folder needs no MIDI library, whose import takes seconds.
    from piano.repertoire import Repertoire

_SECONDS_UNTIL_LOST = 60.0
_TEXTS = ("name", "kind", "state", "actors_pending_because", "host", "written_by")
ACTIVE = ("starting", "training", "evaluating")
"""States of a run that is under way."""
UNKNOWN = ("damaged", "unreadable")
"""Stand for the state of a run of which nothing is known."""


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
        """See `training.scale`."""
        return self.path / "scale.json"

    @property
    def process_logs(self) -> pathlib.Path:
        """Logs of the processes, kept after a failure."""
        return self.path / "process_logs"


def _require_wandb(config: WandbConfig, folder: pathlib.Path) -> None:
    """Refuses settings of Weights & Biases by which it would stop.

    Args:
        config: of a run that uses it.
        folder: in which it keeps its files.

    Raises:
        BadInput: naming the variable or the flag.
    """
    import wandb
    from wandb.sdk.lib.wbauth import check_api_key

    require(
        str(folder) == as_utf8(str(folder)),
        f"--mode {config.mode}: Weights & Biases keeps no files in {folder}, which is not UTF-8: "
        "choose another --root-dir, or set WANDB_DIR",
    )
    for name in sorted(os.environ):
        if name.startswith("WANDB_"):
            with _refused_by_wandb(name):
                wandb.Settings().update_from_env_vars({name: os.environ[name]})
    with _refused_by_wandb("--project"):
        wandb.Settings(project=config.project)
    with _refused_by_wandb("its settings file"):
        key = wandb.api.api_key
    if config.mode != "online":
        return
    require(
        bool(key),
        "--mode online needs a key of Weights & Biases: run `wandb login`, or set WANDB_API_KEY; "
        "--mode offline needs none",
    )
    problem = check_api_key(key)
    require(
        not problem, f"the key of Weights & Biases, as WANDB_API_KEY has it, is none: {problem}"
    )


@contextlib.contextmanager
def _refused_by_wandb(what: str) -> Iterator[None]:
    import pydantic
    import wandb

    try:
        yield
    except pydantic.ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]  # All of it would show the value.
        raise BadInput(f"Weights & Biases cannot use {what}: {reason}") from None
    except wandb.errors.UsageError as error:
        raise BadInput(f"Weights & Biases cannot use {what}: {error}") from None


def require_usable(place: Place, wandb: WandbConfig) -> None:
    """Refuses at once what a run would fail by after it has been begun.

    Args:
        place: of the run, or where its folder will be made.
        wandb: of the run.

    Raises:
        BadInput: the place cannot be written, or Weights & Biases is to be used and would stop.
    """
    _require_writable(place.path, str(place), "--root-dir")
    if wandb.mode != "disabled":
        folder = pathlib.Path(os.environ.get("WANDB_DIR") or place.path)
        _require_writable(folder, str(folder), "WANDB_DIR")
        _require_wandb(wandb, folder.absolute())


def _require_writable(path: pathlib.Path, place: str, setting: str) -> None:
    folder = nearest(path)
    try:
        try_to_write(folder)
    except OSError as error:
        raise BadInput(
            f"{place} cannot be written, {folder}: {error.strerror}; give this user the right to "
            f"write there, or choose another {setting}"
        ) from error


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
        OSError: it may not be read, or `root_dir` is a file.
    """
    place = storage.find(run, root_dir, "run", "config.json")
    return RunFolder(place.path, place.url)


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
    learner_steps_per_second: float = 0.0
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
    written_by: str = ""
    """Program and version; empty before there was such a field."""

    def write(self, path: pathlib.Path) -> None:
        """Writes it, with the time and the program's version."""
        self.updated, self.written_by = time.time(), program()
        write_json(path, dataclasses.asdict(self))


def read_status(run: RunFolder) -> dict[str, Any]:
    """A run's status, as in `Status`.

    A run that says that it is under way, but whose process is gone or has been silent for a
    minute, has the state "lost". One that does not say its kind, as old ones do not, is a
    training.

    Raises:
        BadInput: there is none, or it is damaged.
        PermissionError: it may not be read.
    """
    absent = {
        field.name: field.default
        for field in dataclasses.fields(Status)
        if field.default is not dataclasses.MISSING
    }
    status = absent | {"name": run.name, "kind": "train"} | read_json(run.status)
    for name in (field.name for field in dataclasses.fields(Status)):
        wanted = {"note_f1": (int, float, type(None)), "started": (int, float)}.get(name)
        is_right = name in status and (
            isinstance(status[name], wanted)
            if wanted
            else isinstance(status[name], str) == (name in _TEXTS)
            and isinstance(status[name], (str, int, float))
        )
        require(is_right, f"{run.status} is damaged: {name} is {status.get(name, 'missing')}")
    if status["state"] in ACTIVE and _is_lost(status):
        status["state"] = "lost"
    return status


def read_statuses(root_dir: str) -> list[dict[str, Any]]:
    """The status of every run below `root_dir`, oldest first; see `read_status`.

    One whose status is damaged, or may not be read, has a state of `UNKNOWN`, and counts of zero.

    Raises:
        OSError: `root_dir` is no folder, or may not be read.
    """
    statuses = []
    for folder in matching(Place.of(root_dir).fetch("*/status.json"), "*"):
        try:
            if folder.is_dir() and matching(folder, RunFolder(folder).status.name):
                statuses.append(read_status(RunFolder(folder)))
        except (BadInput, OSError) as error:
            state = "unreadable" if isinstance(error, PermissionError) else "damaged"
            unknown = Status(folder.name, "unknown", state, 0.0, process=-1, host="")
            statuses.append(dataclasses.asdict(unknown))
    return sorted(statuses, key=lambda status: status["started"])


def best_checkpoint(run: RunFolder) -> str | None:
    """Name of the checkpoint that played best in its evaluation, of those that are kept.

    By note-event F1, and of equal ones by the return.
    """
    played = []
    for file in matching(run.evaluations, "*/metrics.json"):
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
