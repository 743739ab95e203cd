"""Recording segments of a run's checkpoints, to be rated: a Ray job."""

import dataclasses
import itertools
import pathlib
import random
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import ray
import ray.util
import tqdm
import tyro

from actors import graphics, recording
from actors.config import RecordingConfig
from actors.repertoire import Repertoire
from actors.song import Song
from cluster import ray_session, run
from cluster.config import TrainConfig, from_json, to_json
from cluster.parts import remote
from cluster.placement import Placement, placement
from learner import checkpoint
from replay.errors import BadInput, require, require_range
from replay.files import PackedFolder
from rlhf.collection import Collection, PlannedSegment
from rlhf.player import Player

_EPISODE_SECONDS = 3600.0
# Ray begins a player anew that has died, and gives it its episode again.
_RESTARTS = 3


@dataclasses.dataclass(frozen=True)
class SegmentsConfig:
    """Records performances of a run's checkpoints with noise, to be rated.

    Every checkpoint plays at every noise level and temperature as often as --seeds says. A
    collection that was broken off is completed by the same command.
    """

    run: tyro.conf.Positional[str]
    """The run: its folder or URL, or its name below --root-dir."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""
    checkpoints: tuple[int, ...] = ()
    """Learner steps of the checkpoints that play; by default all that the run has kept."""
    noise: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Standard deviations of the Gaussian noise added to the actions, which go from -1 to 1."""
    temperature: tuple[float, ...] = (0.0,)
    """Factors on the policy's own standard deviation: 0 plays its most central actions, 1 plays
    as in training."""
    seeds: int = 2
    """Performances of each combination; one where nothing in it is random."""
    window_seconds: float | None = None
    """Length of the segments in seconds; by default whole pieces."""
    actors: int = 0
    """Processes that play and record; 0 takes one for each core of the cluster."""
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        for name, most in (("noise", 2.0), ("temperature", 10.0)):
            values = getattr(self, name)
            require(
                len(values) > 0 and all(0 <= value <= most for value in values),
                f"--{name} is {values}, must be one or more numbers from 0 to {most:g}",
            )
            require(len(set(values)) == len(values), f"--{name} is {values}: one value comes twice")
        require_range(self, "seeds", least=1, most=1000)
        require_range(self, "window_seconds", least=0.5, most=3600)
        require_range(self, "actors", least=0, most=4096)


def segments(config: SegmentsConfig) -> dict[str, Any]:
    """Records a collection, or completes one.

    Returns:
        The collection's path, and how many segments it has.

    Raises:
        BadInput: there is no such run or checkpoint, or nothing is to be done.
    """
    folder = run.find(config.run, config.root_dir)
    checkpoints = _choose_checkpoints(folder, config.checkpoints)
    # Of the checkpoint, as the settings of a fine-tuned run are not those of the training.
    description = checkpoint.load_description(checkpoints[-1])
    where = f"checkpoint {checkpoints[-1]}"
    trained = from_json(TrainConfig, description.get("config"), where)
    # The segment goes on after a wrong key: raters are to hear all of it.
    environment = dataclasses.replace(trained.environment, wrong_press_termination=False)
    trained = dataclasses.replace(trained, environment=environment)
    songs = [Song.from_json(values) for values in description.get("songs", [])]
    repertoire = Repertoire(songs, environment)
    address = ray_session.cluster_address()
    collection = _unfinished(folder, config) or _begin(folder, config, trained, songs, checkpoints)
    missing = collection.missing()
    kept = {path.name: path for path in checkpoint.list_checkpoints(folder.checkpoints)}
    gone = sorted({segment.checkpoint for segment in missing} - set(kept))
    require(
        not gone,
        f"{collection.path} cannot be completed: the run no longer has {', '.join(gone)}; remove "
        "that collection to begin another",
    )
    print(
        f"{len(missing)} of {len(collection.planned)} segments to record in {collection.path}",
        file=sys.stderr,
    )
    for line in recording.what_is_missing():
        print(line, file=sys.stderr)
    episodes = [list(group) for _, group in itertools.groupby(missing, _episode_of)]
    with (
        folder.place.uploaded(),
        ray_session.connect(address, folder.process_logs),
    ):
        placed = placement(on_cluster=address is not None)
        players = config.actors or placed.actors_that_fit()
        _record(
            collection,
            [(kept[episode[0].checkpoint], episode) for episode in episodes],
            (repertoire, trained.learner.agent_config),
            config.recording,
            placed,
            min(players, len(episodes)),
        )
    return {"collection": str(collection.path), "segments": len(collection.planned)}


def _record(
    collection: Collection,
    episodes: Sequence[tuple[pathlib.Path, list[PlannedSegment]]],
    player_arguments: tuple[Any, ...],
    recording_config: RecordingConfig,
    placed: Placement,
    players: int,
) -> None:
    player_class = remote(
        Player,
        **placed.actor,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )
    shared_arguments = [ray.put(argument) for argument in player_arguments]
    handles = [player_class.remote(*shared_arguments) for _ in range(players)]
    pool = ray.util.ActorPool(handles)
    packed = {
        folder: ray.put(PackedFolder.pack(folder))
        for folder in dict.fromkeys(folder for folder, _ in episodes)
    }
    for folder, planned in episodes:
        pool.submit(
            lambda player, episode: player.record.remote(*episode, recording_config),
            (packed[folder], planned),
        )
    total = sum(len(planned) for _, planned in episodes)
    pictures = graphics.why_no_pictures() is None  # Otherwise it has been said.
    with tqdm.tqdm(total=total, unit="segment", dynamic_ncols=True) as bar:
        while pool.has_next():
            try:
                recorded = pool.get_next_unordered(timeout=_EPISODE_SECONDS)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, BadInput):
                    raise error.cause from None
                raise
            except TimeoutError:
                raise RuntimeError(
                    f"no segment within {_EPISODE_SECONDS:.0f} s from {players} players"
                ) from None
            for segment in recorded:
                collection.add(segment)
                if pictures and "video.mp4" not in segment.files:
                    pictures = False
                    bar.write(
                        f"segment {segment.name} has no video, and others may have none: OpenGL "
                        "does not work on each machine; `pianist doctor` says where",
                        file=sys.stderr,
                    )
            bar.update(len(recorded))


def _choose_checkpoints(folder: run.RunFolder, steps: Sequence[int]) -> list[pathlib.Path]:
    kept = checkpoint.list_checkpoints(folder.checkpoints)
    require(bool(kept), f"the run {folder.path} has no checkpoint yet")
    by_step = {int(path.name.removeprefix("step_")): path for path in kept}
    absent = [step for step in steps if step not in by_step]
    require(
        not absent,
        f"--checkpoints: the run {folder.path} has no checkpoint of {absent}, but of "
        f"{', '.join(map(str, by_step))}",
    )
    return [by_step[step] for step in sorted(set(steps))] or kept


def _settings(config: SegmentsConfig) -> dict[str, Any]:
    """What decides the segments; where and how fast they are recorded does not."""
    settings = to_json(config)
    return {name: settings[name] for name in settings if name not in ("run", "root_dir", "actors")}


def _unfinished(folder: run.RunFolder, config: SegmentsConfig) -> Collection | None:
    """The run's newest collection of these settings, if it is not complete."""
    for path in sorted((folder.path / "collections").glob("*"), reverse=True):
        try:
            collection = Collection.open(path)
        except BadInput:  # Broken off before it had a manifest.
            continue
        if collection.manifest.get("settings") == _settings(config):
            return collection if collection.missing() else None
    return None


def _begin(
    folder: run.RunFolder,
    config: SegmentsConfig,
    trained: TrainConfig,
    songs: Sequence[Song],
    checkpoints: Sequence[pathlib.Path],
) -> Collection:
    description = {
        "run": folder.name,
        "settings": _settings(config),
        "config": to_json(trained),
        "songs": [song.to_json() for song in songs],
    }
    planned = plan(config, trained, songs, checkpoints)
    return Collection.create(folder.path / "collections", description, planned)


def plan(
    config: SegmentsConfig,
    trained: TrainConfig,
    songs: Sequence[Song],
    checkpoints: Sequence[pathlib.Path],
) -> list[PlannedSegment]:
    """All segments, episode by episode; their names are in an order that tells nothing."""
    step_seconds = trained.environment.control_timestep
    lengths = [len(song.trajectory(step_seconds)) for song in songs]
    planned = []
    for path, noise, temperature, seed, (song, length) in itertools.product(
        checkpoints, config.noise, config.temperature, range(config.seeds), enumerate(lengths)
    ):
        if seed and not noise and not temperature:
            continue  # The same performance again.
        for first, last in windows(length, step_seconds, config.window_seconds):
            planned.append(
                PlannedSegment(
                    name="",
                    checkpoint=path.name,
                    parameter_version=int(path.name.removeprefix("step_")),
                    noise=noise,
                    temperature=temperature,
                    seed=seed,
                    song=song,
                    first_step=first,
                    last_step=last,
                )
            )
    names = [f"{number:04d}" for number in range(1, len(planned) + 1)]
    random.Random(0).shuffle(names)
    return [
        dataclasses.replace(segment, name=name)
        for segment, name in zip(planned, names, strict=True)
    ]


def windows(
    length: int, step_seconds: float, window_seconds: float | None
) -> list[tuple[int, int]]:
    """First and last control step of each segment of a song of `length` control steps.

    A rest shorter than half a window is left out.
    """
    if window_seconds is None:
        return [(0, length)]
    size = max(1, round(window_seconds / step_seconds))
    found = [(first, min(first + size, length)) for first in range(0, length, size)]
    return [(first, last) for first, last in found if 2 * (last - first) >= size] or found[:1]


def _episode_of(segment: PlannedSegment) -> tuple[Any, ...]:
    return (
        segment.checkpoint,
        segment.noise,
        segment.temperature,
        segment.seed,
        segment.song,
    )
