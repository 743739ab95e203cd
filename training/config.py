"""The flags of a training run: its own and those of all packages, without prefixes."""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

import tyro

from actors.config import ActorConfig
from common.errors import BadInput, require, require_range
from common.files import as_utf8
from learner.config import LearnerConfig, Platform
from piano.config import EnvironmentConfig, RecordingConfig, SongConfig
from replay.config import ReplayConfig


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Settings of Weights & Biases."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """Mode of Weights & Biases. The environment variable WANDB_DIR sets the folder of its
    files."""
    project: str = "robopianist"
    """Project in Weights & Biases."""
    entity: str = ""
    """User or team in Weights & Biases."""
    tags: str = ""
    """Tags in Weights & Biases, separated by commas."""
    notes: str = ""
    """Notes in Weights & Biases."""

    def __post_init__(self) -> None:
        """Rejects text that Weights & Biases cannot store.

        Raises:
            BadInput: A value is not UTF-8. The message names the flag and its value.
        """
        for name in ("project", "entity", "tags", "notes"):
            _require_utf8(f"--{name}", getattr(self, name))


class RunConfig(Protocol):
    """The settings that every kind of run has. Each implementation is a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def root_dir(self) -> str:
        """Folder or URL that holds the runs."""

    @property
    def name(self) -> str:
        """Name of the run; generated if empty."""

    @property
    def seed(self) -> int:
        """Random seed of the run."""

    @property
    def wandb(self) -> WandbConfig:
        """Settings of Weights & Biases for the run."""


def require_seed_and_name(config: RunConfig) -> None:
    """Rejects a seed out of range and a name that is not a valid folder name.

    Raises:
        BadInput: The seed or the name is invalid. The message names the flag and its value.
    """
    require_range(config, "seed", least=0, most=2**31 - 1)
    _require_utf8("--name", config.name)
    require(
        not config.name or (pathlib.PurePath(config.name).name == config.name != ".."),
        f"--name is {config.name!r}, must be a plain folder name",
    )


def _require_utf8(flag: str, text: str) -> None:
    require(text == as_utf8(text), f"{flag} is {text!r}, must be UTF-8")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Trains two Shadow hands to play a song."""

    resume: str = ""
    """Run to resume: its folder, its URL, or its name below --root-dir. Other flags change its
    settings."""
    preset: Literal["default", "auto", "few-cores", "many-actors", "gpu-box"] = "default"
    """Recipe for the settings that are not given. `default` follows robopianist-rl.
    `few-cores` learned Twinkle fastest on two cores, and `gpu-box` on one GPU with 16 cores.
    `many-actors` needed the fewest learner steps where actors are plentiful (docs/results.md).
    `auto` selects many-actors on a Ray cluster, gpu-box on a machine with a GPU, and few-cores
    elsewhere."""
    root_dir: str = "runs"
    """Folder or URL (s3://, gs://, ...) that holds the runs. For a job on a cluster, a relative
    path starts at the home folder."""
    name: str = ""
    """Name of the run and its folder. The default is generated from song, seed and time."""
    seed: int = 42
    """Random seed of the run."""
    max_steps: int = 1_000_000
    """Total number of environment steps, including warm-up. Training ends within two seconds of
    reaching it."""
    max_minutes: float | None = None
    """Time limit in minutes, from the start of the run to its last evaluation. Training also ends
    at --max-steps."""
    log_interval: int = 1_000
    """Number of environment steps between lines of the logbook."""
    eval_interval: int = 10_000
    """Number of environment steps between evaluations. Each evaluation plays a new checkpoint."""
    eval_episodes: int = 1
    """Number of episodes per evaluation."""
    record_every: int = 1
    """Number of evaluations per recording (video with sound, MIDI). The first and the last
    evaluation are always recorded."""
    tqdm_bar: bool = False
    """Show a progress bar instead of lines."""
    platform: Platform = "auto"
    """Device of the learner: an NVIDIA GPU, Apple's Metal, or the CPU. `auto` takes the first
    one available."""
    wandb: Annotated[WandbConfig, tyro.conf.arg(name="")] = WandbConfig()
    song: Annotated[SongConfig, tyro.conf.arg(name="")] = SongConfig()
    environment: Annotated[EnvironmentConfig, tyro.conf.arg(name="")] = EnvironmentConfig()
    actor: Annotated[ActorConfig, tyro.conf.arg(name="")] = ActorConfig()
    replay: Annotated[ReplayConfig, tyro.conf.arg(name="")] = ReplayConfig()
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")] = LearnerConfig()
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        require_range(self, "max_steps", "log_interval", "eval_interval", least=1)
        require_range(self, "eval_episodes", "record_every", least=1)
        require(
            self.max_steps > self.replay.warmstart_steps,
            f"--max-steps is {self.max_steps}, must be more than --warmstart-steps "
            f"({self.replay.warmstart_steps}), or nothing is learnt",
        )
        require(
            self.max_minutes is None or self.max_minutes > 0,
            f"--max-minutes is {self.max_minutes}, must be above 0",
        )
        require_seed_and_name(self)


def given(arguments: Sequence[str], flag: str) -> str | None:
    """Returns the value of a flag in unparsed arguments, or None if the flag is absent.

    Args:
        arguments: Arguments of a command.
        flag: Flag with its hyphens, such as "--root-dir".
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    spellings = dict.fromkeys((flag, f"--{flag[2:].replace('-', '_')}"))
    parser.add_argument(*spellings, dest="value", nargs="?")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def to_json(config: Any) -> dict[str, Any]:
    """Converts a config dataclass to JSON values with all text as UTF-8; see `from_json`."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return as_utf8(str(value)) if isinstance(value, str | pathlib.PurePath) else value

    return dataclasses.asdict(
        config, dict_factory=lambda pairs: {name: plain(value) for name, value in pairs}
    )


def from_json(values: Any, where: str) -> TrainConfig:
    """Converts the values of `to_json` back to settings of a training.

    Args:
        values: JSON values that `to_json` returned, as read from a file.
        where: Name of the file for messages.

    Raises:
        BadInput: A setting is unknown, has a value of another type, or is out of range.
    """
    import pydantic

    try:
        config: TrainConfig = _reader().model_validate_json(json.dumps({"config": values})).config
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["type"] == "value_error":
            raise BadInput(f"the settings in {where}: {fault['ctx']['error']}") from None
        is_unknown = fault["type"] == "unexpected_keyword_argument"
        problem = "there is no such setting" if is_unknown else fault["msg"]
        name = ".".join(str(part) for part in fault["loc"][1:])
        if not name:
            raise BadInput(f"the configuration in {where} is damaged: {problem}") from None
        raise BadInput(f"the setting {name} in {where} is {fault['input']!r}: {problem}") from None
    return config


@functools.cache
def _reader() -> Any:
    """Returns a model with `config`, whose rules also hold for the dataclasses in it."""
    import pydantic

    rules = pydantic.ConfigDict(extra="forbid", strict=True)
    return pydantic.create_model("File", __config__=rules, config=(TrainConfig, ...))
