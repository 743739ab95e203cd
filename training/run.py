"""The folder of a run, which holds all files of the run.

RUN/config.json      all settings
RUN/songs.json       the songs
RUN/logbook.jsonl    one line per log interval and per evaluation
RUN/status.json      the current status of the run
RUN/checkpoints/     step_000012345/: the newest checkpoints and the best one
RUN/replay/          the journal of the replay, see `replay.journal`
RUN/unhealthy/       step_000012345.safetensors: the batch of a learner step with invalid numbers
RUN/eval/            step_000012345/: metrics, performance, MIDI, video
RUN/comparison.json  the comparison before and after a fine-tuning
RUN/report.html      the report on the run
RUN/wandb.json       the run's id in Weights & Biases
RUN/scale.json       a requested number of actors, until the run has read it
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
from common.storage import Location
from training.config import RunConfig, WandbConfig, to_json

if TYPE_CHECKING:  # The MIDI library takes seconds to import, and this module does not need it.
    from piano.repertoire import Repertoire

_SECONDS_UNTIL_LOST = 60.0
ACTIVE = ("starting", "training", "evaluating")
"""States of a run that is under way."""
UNKNOWN = ("damaged", "unreadable")
"""States that stand for an unknown state of a run."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: pathlib.Path
    url: str = ""
    """URL of the original if the folder is a local copy; otherwise empty."""

    @property
    def location(self) -> Location:
        """Folder and URL of the run."""
        return Location(self.path, self.url)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def logbook(self) -> pathlib.Path:
        """Logbook as JSON lines."""
        return self.path / "logbook.jsonl"

    @property
    def status(self) -> pathlib.Path:
        """Current status of the run."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder with one subfolder per checkpoint."""
        return self.path / "checkpoints"

    @property
    def evaluations(self) -> pathlib.Path:
        """Folder with one subfolder per evaluation."""
        return self.path / "eval"

    @property
    def replay(self) -> pathlib.Path:
        """Folder of the replay's journal."""
        return self.path / "replay"

    @property
    def unhealthy(self) -> pathlib.Path:
        """Folder with the batches of learner steps with invalid numbers."""
        return self.path / "unhealthy"

    @property
    def wandb(self) -> pathlib.Path:
        """File with the run's id in Weights & Biases."""
        return self.path / "wandb.json"

    @property
    def report(self) -> pathlib.Path:
        """Report on the run."""
        return self.path / "report.html"

    @property
    def comparison(self) -> pathlib.Path:
        """Comparison before and after a fine-tuning."""
        return self.path / "comparison.json"

    @property
    def scale_request(self) -> pathlib.Path:
        """File with a requested number of actors, see `training.scale`."""
        return self.path / "scale.json"

    @property
    def process_logs(self) -> pathlib.Path:
        """Folder with the logs of the processes, kept after a failure."""
        return self.path / "process_logs"


def _require_wandb(config: WandbConfig, folder: pathlib.Path) -> None:
    """Rejects settings with which Weights & Biases would fail.

    Args:
        config: Settings of Weights & Biases, which the run uses.
        folder: Folder for the files of Weights & Biases.

    Raises:
        BadInput: A setting does not work. The message names the variable or the flag.
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
        reason = error.errors(include_url=False)[0]["msg"]  # The full error shows the value.
        raise BadInput(f"Weights & Biases cannot use {what}: {reason}") from None
    except wandb.errors.UsageError as error:
        raise BadInput(f"Weights & Biases cannot use {what}: {error}") from None


def require_usable(location: Location, wandb: WandbConfig) -> None:
    """Checks early for problems that would make a run fail after its start.

    Args:
        location: Location of the run, or of the folder that will hold it.
        wandb: Settings of Weights & Biases.

    Raises:
        BadInput: The location is not writable, or Weights & Biases is enabled and would fail.
    """
    _require_writable(location.path, str(location), "--root-dir")
    if wandb.mode != "disabled":
        folder = pathlib.Path(os.environ.get("WANDB_DIR") or location.path)
        _require_writable(folder, str(folder), "WANDB_DIR")
        _require_wandb(wandb, folder.absolute())


def _require_writable(path: pathlib.Path, shown: str, setting: str) -> None:
    folder = nearest(path)
    try:
        try_to_write(folder)
    except OSError as error:
        raise BadInput(
            f"{shown} cannot be written, {folder}: {error.strerror}; give this user the right to "
            f"write there, or choose another {setting}"
        ) from error


def new_name(method: str, title: str, seed: int) -> str:
    """Returns a name for a new run, which holds the time.

    Args:
        method: Method of learning.
        title: Title of the songs; empty if it is unknown.
        seed: Random seed of the run.
    """
    piece = "-".join(title.split()).replace("/", "-")[:80]
    return "-".join(filter(None, (method, piece, str(seed), time.strftime("%Y%m%d-%H%M%S"))))


def create(config: RunConfig, method: str, repertoire: "Repertoire") -> RunFolder:
    """Creates the folder of a new run, and writes settings and songs to it.

    Args:
        config: Settings of the run.
        method: Prefix of the name if the settings contain no name.
        repertoire: Songs to play.

    Raises:
        BadInput: The name is taken, or the folder cannot be created.
    """
    name = config.name or new_name(method, repertoire.title, config.seed)
    location = Location.of(config.root_dir) / name
    location.fetch("config.json")  # An existing run of this name gets a local folder.
    run = RunFolder(location.path, location.url)
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
    """Finds an existing run.

    Args:
        run: Folder or URL of the run, or its name below `root_dir`.
        root_dir: Folder or URL that holds the runs.

    Raises:
        BadInput: The run does not exist.
        OSError: The user may not read the run, or `root_dir` is a file.
    """
    location = storage.find(run, root_dir, "run", "config.json")
    return RunFolder(location.path, location.url)


@dataclasses.dataclass
class Status:
    """The current status of a run, which the run itself writes every few seconds."""

    name: str
    kind: str
    """Kind of the run: train or cpl."""
    state: str
    """State of the run: starting, training, evaluating, finished, stopped or failed."""
    started: float
    """Start time in Unix seconds."""
    environment_steps: int = 0
    max_steps: int = 0
    learner_steps: int = 0
    environment_steps_per_second: float = 0.0
    learner_steps_per_second: float = 0.0
    replay_size: int = 0
    actors_wanted: int = 0
    actors_placed: int = 0
    """Number of wanted actors whose process exists."""
    actors_running: int = 0
    """Number of wanted actors that play."""
    actors_pending: int = 0
    """Number of wanted actors that are not placed."""
    actors_pending_because: str = ""
    note_f1: float | None = None
    """Note F1 of the last evaluation."""
    process: int = dataclasses.field(default_factory=os.getpid)
    host: str = dataclasses.field(default_factory=socket.gethostname)
    updated: float = 0.0
    """Time of the last update in Unix seconds."""
    written_by: str = ""
    """Program and version; empty for runs of versions without this field."""

    def write(self, path: pathlib.Path) -> None:
        """Writes the status with the current time and the program's version.

        Args:
            path: Path of the file.
        """
        self.updated, self.written_by = time.time(), program()
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: pathlib.Path, **absent: Any) -> "Status":
        """Reads what `write` wrote, or what another version of the program wrote.

        Unknown fields are ignored.

        Args:
            path: Path of the file.
            absent: Values of missing fields that have no default.

        Raises:
            BadInput: The file is missing or damaged.
            PermissionError: The user may not read the file.
        """
        saved = absent | read_json(path)
        known = {}
        for field in dataclasses.fields(cls):
            value = known[field.name] = saved.get(field.name, field.default)
            wanted: Any = field.type
            if wanted not in (str, int):
                wanted = wanted | int  # A float may be written without a fraction.
            shown = "missing" if value is dataclasses.MISSING else value
            require(isinstance(value, wanted), f"{path} is damaged: {field.name} is {shown}")
        return cls(**known)


def read_status(run: RunFolder) -> Status:
    """Reads the status of a run.

    The state is "lost" if the status says that the run is under way, but the run's process on
    this machine is gone or a run on another machine has been silent for a minute. Old runs lack a
    kind and count as training runs.

    Args:
        run: Folder of the run.

    Raises:
        BadInput: The status is missing or damaged.
        PermissionError: The user may not read the status.
    """
    status = Status.read(run.status, name=run.name, kind="train")
    if status.state in ACTIVE and _is_lost(status):
        status.state = "lost"
    return status


def read_statuses(root_dir: str) -> list[Status]:
    """Reads the status of every run below `root_dir`, oldest first; see `read_status`.

    A run whose status is damaged or unreadable has one of the states `UNKNOWN` and zero counts.

    Args:
        root_dir: Folder or URL that holds the runs.

    Raises:
        OSError: `root_dir` is not a folder, or the user may not read it.
    """
    statuses = []
    for folder in matching(Location.of(root_dir).fetch("*/status.json"), "*"):
        try:
            if folder.is_dir() and matching(folder, RunFolder(folder).status.name):
                statuses.append(read_status(RunFolder(folder)))
        except (BadInput, OSError) as error:
            state = "unreadable" if isinstance(error, PermissionError) else "damaged"
            statuses.append(Status(folder.name, "unknown", state, 0.0, process=-1, host=""))
    return sorted(statuses, key=lambda status: status.started)


def best_checkpoint(run: RunFolder) -> str | None:
    """Returns the name of the existing checkpoint with the best evaluation; None if there is none.

    Note F1 decides, then the episode return.

    Args:
        run: Folder of the run.
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


def _is_lost(status: Status) -> bool:
    if status.host == socket.gethostname():
        return not psutil.pid_exists(status.process)
    return time.time() - status.updated > _SECONDS_UNTIL_LOST
