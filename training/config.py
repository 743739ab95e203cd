"""The flags of a training run: its own, and those of every package, without prefixes."""

import argparse
import dataclasses
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import tyro

from actors.config import ActorConfig
from common.errors import BadInput, require, require_range
from common.files import as_utf8
from learner.config import LearnerConfig, Platform
from piano.config import EnvironmentConfig, RecordingConfig, SongConfig
from replay.config import ReplayConfig

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Where Weights & Biases keeps the run, if it does."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """Whether Weights & Biases is used; WANDB_DIR says where it keeps its files."""
    project: str = "robopianist"
    """Project there."""
    entity: str = ""
    """User or team there."""
    tags: str = ""
    """Tags there, with commas between them."""
    notes: str = ""
    """Notes there."""

    def __post_init__(self) -> None:
        """Refuses what Weights & Biases cannot have.

        Raises:
            BadInput: naming the flag and its value.
        """
        for name in ("project", "entity", "tags", "notes"):
            _require_utf8(f"--{name}", getattr(self, name))


class RunConfig(Protocol):
    """What the settings of every kind of run have; they are a dataclass, too."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def root_dir(self) -> str:
        """Folder or URL that holds the runs."""

    @property
    def name(self) -> str:
        """Of the run; made up if empty."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    @property
    def wandb(self) -> WandbConfig:
        """Whether and where Weights & Biases keeps it."""


def require_seed_and_name(config: RunConfig) -> None:
    """Refuses a seed out of range, and a name that cannot be a folder's.

    Raises:
        BadInput: naming the flag, its value and the range.
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
    """Go on with this run, its folder or URL or its name below --root-dir, as if nothing had
    happened; what is given besides changes its settings."""
    preset: Literal["default", "auto", "few-cores", "many-actors", "gpu-box"] = "default"
    """A recipe for settings that are not given. `default` is what robopianist-rl's users know;
    `few-cores` learnt Twinkle fastest on two cores, `gpu-box` on one GPU with 16 cores,
    `many-actors` with fewest learner steps where actors are plentiful (docs/results.md). `auto`
    takes what suits: many-actors on a Ray cluster, gpu-box beside a GPU, few-cores elsewhere."""
    root_dir: str = "runs"
    """Folder or URL (s3://, gs://, ...) that holds the runs. In a job that was submitted to a
    cluster a relative one is below the home folder."""
    name: str = ""
    """Name of the run and of its folder; made up from song, seed and time if not given."""
    seed: int = 42
    """Seed of everything random."""
    max_steps: int = 1_000_000
    """Environment steps in all, warm-up included; training ends within two seconds of them."""
    max_minutes: float | None = None
    """Minutes until the last evaluation, at most, however many steps that is."""
    log_interval: int = 1_000
    """Environment steps between lines of the logbook."""
    eval_interval: int = 10_000
    """Environment steps between evaluations; each is of a checkpoint saved for it."""
    eval_episodes: int = 1
    """Episodes in an evaluation."""
    record_every: int = 1
    """Evaluations from one recording (video with sound, MIDI) to the next; the first and the last
    are recorded in any case."""
    tqdm_bar: bool = False
    """A progress bar instead of lines."""
    platform: Platform = "auto"
    """What learns: an NVIDIA GPU, Apple's Metal, or processors; `auto` takes the first there is."""
    wandb: Annotated[WandbConfig, tyro.conf.arg(name="")] = WandbConfig()
    song: Annotated[SongConfig, tyro.conf.arg(name="")] = SongConfig()
    environment: Annotated[EnvironmentConfig, tyro.conf.arg(name="")] = EnvironmentConfig()
    actor: Annotated[ActorConfig, tyro.conf.arg(name="")] = ActorConfig()
    replay: Annotated[ReplayConfig, tyro.conf.arg(name="")] = ReplayConfig()
    learner: Annotated[LearnerConfig, tyro.conf.arg(name="")] = LearnerConfig()
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
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
    """The value of a flag among arguments that are not parsed yet; None if it is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    spellings = dict.fromkeys((flag, f"--{flag[2:].replace('-', '_')}"))
    parser.add_argument(*spellings, dest="value", nargs="?")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON values, all text as UTF-8; see `from_json`."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return as_utf8(str(value)) if isinstance(value, str | pathlib.PurePath) else value

    return dataclasses.asdict(
        config, dict_factory=lambda pairs: {name: plain(value) for name, value in pairs}
    )


def from_json(cls: type[Config], values: Any, where: str) -> Config:
    """The config that `to_json` described.

    Args:
        cls: the config dataclass.
        values: what `to_json` returned, after a way through a file.
        where: the file, for messages.

    Raises:
        BadInput: a field is unknown or has a value of another type.
    """
    require(isinstance(values, dict), f"the configuration in {where} is damaged")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    require(not unknown, f"the configuration in {where} has unknown settings: {unknown}")
    converted = {
        name: _convert(hints[name], value, f"{name} in {where}") for name, value in values.items()
    }
    return cls(**converted)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for one in arguments:
            if (one is type(None) and value is None) or (
                typing.get_origin(one) is Literal and value in typing.get_args(one)
            ):
                return value
        return _convert(arguments[0], value, where)  # The others are `None` and names.
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is Literal and value in arguments:
        return value
    if hint is pathlib.Path and isinstance(value, str):
        return pathlib.Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise BadInput(f"the setting {where} has the value {value!r}, which is of another type")
