"""Recording of renditions by a run's checkpoints for rating, as a Ray job."""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import ray
import ray.util
import tqdm
import tyro

from common import ray_session
from common.errors import BadInput, require, require_range
from common.files import PackedFolder, matching
from common.ray_errors import part_failed
from common.waiting import Patience, get_result, said_if_long
from learner import checkpoint
from piano import graphics, recording
from piano.config import RecordingConfig
from piano.environment import Snapshot
from piano.repertoire import Repertoire
from rlhf import passages, renditions, starts
from rlhf.collection import Collection, PlannedSegment
from rlhf.passages import Passage
from rlhf.player import Player, Rehearsal
from training import run
from training.config import TrainConfig, to_json
from training.parts import remote
from training.placement import placement
from training.trained_policy import TrainedPolicy

_SECONDS = 3600.0
_LOOK_SECONDS = 1.0
# Ray restarts a player that has died, and retries its segment.
_RESTARTS = 3


@dataclasses.dataclass(frozen=True)
class SegmentsConfig:
    """Records renditions of passages by a run's checkpoints, to be rated.

    All renditions of a passage begin from the same moment of the newest checkpoint's deterministic
    performance. By default the first of them goes on as that checkpoint plays, one in five is by
    an older checkpoint, and the rest vary throughout: four of five in style (two of: strength and
    smoothness changed by up to 25%, attacks up to a quarter of a control step later, keys held up
    to half a control step longer or shorter), the others by an offset, by other last-layer
    weights or by the policy's own sampling (0.3 to 0.6 of its standard deviation).

    With --noise or --temperature each checkpoint plays with independent noise instead.

    The passages in which most notes are missed or wrong are recorded first, and can be rated as
    soon as they are there. A collection that was interrupted is completed by the same command.
    """

    run: tyro.conf.Positional[str]
    """The run: its folder or URL, or its name below --root-dir."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""
    checkpoints: tuple[int, ...] = ()
    """Learner steps of the checkpoints that play; by default all that the run has kept."""
    passages: int | None = None
    """Passages in all, spread evenly over the songs; by default one for every two windows' time,
    but 7 to 14 of them, as far as there is room."""
    renditions: int | None = None
    """Segments of each passage: 7 by default; with --noise or --temperature one of each
    combination of checkpoint, noise and temperature."""
    window_seconds: float = 2.0
    """Length of a passage, which is judged and learnt from."""
    lead_in_seconds: float = 1.0
    """What is heard before each passage, but neither judged nor learnt from."""
    from_seconds: Annotated[float, tyro.conf.arg(name="from")] = 0.0
    """Take passages from here on, in seconds of the song."""
    to_seconds: Annotated[float | None, tyro.conf.arg(name="to")] = None
    """Take passages up to here, in seconds; by default up to the song's end."""
    whole_pieces: bool = False
    """Record whole songs instead of passages."""
    noise: tuple[float, ...] = ()
    """Standard deviations of independent noise added to the actions, which go from -1 to 1."""
    temperature: tuple[float, ...] = ()
    """Factors on the policy's own standard deviation, for independent samples: 0 plays its most
    central actions, 1 plays as in training."""
    seed: int = 0
    """Seed of everything random."""
    video: bool = True
    """Render a video of each segment; without one, raters see the notes and hear the sound."""
    actors: int | Literal["auto"] = "auto"
    """Processes that play and record; `auto` takes one for each core of the cluster."""
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        for name, most in (("noise", 2.0), ("temperature", 10.0)):
            values = getattr(self, name)
            require(
                all(0 <= value <= most for value in values),
                f"--{name} is {values}, must be numbers from 0 to {most:g}",
            )
            require(len(set(values)) == len(values), f"--{name} is {values}: one value comes twice")
        require_range(self, "passages", least=1, most=10_000)
        require_range(self, "renditions", least=1, most=1000)
        require_range(self, "window_seconds", least=0.5, most=3600)
        require_range(self, "lead_in_seconds", least=0, most=60)
        require_range(self, "seed", least=0)
        if self.actors != "auto":
            require_range(self, "actors", least=1, most=4096)
        end = math.inf if self.to_seconds is None else self.to_seconds
        require(
            0 <= self.from_seconds < end,
            f"--from is {self.from_seconds:g} and --to {end:g}: must be 0 or more, and the latter "
            "greater",
        )
        require(
            not self.whole_pieces or (self.passages, self.from_seconds, end) == (None, 0, math.inf),
            "--whole-pieces records whole songs: it goes without --passages, --from and --to",
        )


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
    base = TrainedPolicy.open(checkpoints[-1])
    # The segment goes on after a wrong key: raters are to hear all of it.
    environment = dataclasses.replace(base.config.environment, wrong_press_termination=False)
    trained = dataclasses.replace(base.config, environment=environment)
    repertoire = Repertoire(base.songs, environment)
    address = ray_session.cluster_address()
    collection = _unfinished(folder, config) or _begin(
        folder, config, trained, repertoire, checkpoints
    )
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
    for line in recording.what_is_missing() if config.video else ():
        print(line, file=sys.stderr)
    with (
        folder.place.uploaded(),
        ray_session.connect(address, folder.process_logs),
    ):
        placed = placement(on_cluster=address is not None)
        player_class = remote(
            Player, **placed.actor, max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )
        shared = [ray.put(argument) for argument in (repertoire, trained.learner.agent_config)]
        wanted = placed.actors_that_fit() if config.actors == "auto" else config.actors
        players = [player_class.remote(*shared) for _ in range(min(wanted, len(missing)))]
        _record(collection, players, _rehearse(collection, players), kept, config)
    return {"collection": str(collection.path), "segments": len(collection.planned)}


def _rehearse(collection: Collection, players: list[Any]) -> list[tuple[PlannedSegment, Snapshot]]:
    """Has the base policy play deterministically: that decides where and in what order to begin.

    Returns:
        The missing segments and their starts, passage by passage, those with most mistakes first.

    Raises:
        BadInput: base or starts of the collection are damaged.
    """
    steps: dict[int, set[int]] = {}
    for segment in collection.planned:
        song, step = starts.start_of(segment)
        steps.setdefault(song, set()).add(step)
    if collection.base is None:
        raise BadInput(f"{collection.path} is damaged: it has lost its base policy")
    base = ray.put(PackedFolder.pack(collection.base))
    futures = {
        song: players[song % len(players)].rehearse.remote(base, song, of_song)
        for song, of_song in steps.items()
    }
    with said_if_long("players to start and to play"):
        rehearsals: dict[int, Rehearsal] = {
            song: get_result(
                future, "Player", "the newest checkpoint could not be played", _SECONDS, _SECONDS
            )
            for song, future in futures.items()
        }
    # Once they are kept, they hold: another machine would play a little differently.
    if not (collection.path / starts.FILE).is_file():
        starts.write(
            collection.path,
            {
                (song, step): snapshot
                for song, rehearsal in rehearsals.items()
                for step, snapshot in rehearsal.snapshots.items()
            },
        )
    kept = starts.read(collection.path)
    missing = collection.missing()
    require(
        all(starts.start_of(segment) in kept for segment in missing),
        f"{collection.path / starts.FILE} is damaged: not all segments begin there",
    )
    performances = {song: rehearsal.performance for song, rehearsal in rehearsals.items()}
    order = passages.worst_first([segment.passage for segment in missing], performances)
    missing.sort(key=lambda segment: order.index(segment.passage))
    return [(segment, kept[starts.start_of(segment)]) for segment in missing]


def _record(
    collection: Collection,
    players: list[Any],
    planned: Sequence[tuple[PlannedSegment, Snapshot]],
    checkpoints: Mapping[str, pathlib.Path],
    config: SegmentsConfig,
) -> None:
    pool = ray.util.ActorPool(players)
    packed = {
        name: ray.put(PackedFolder.pack(checkpoints[name]))
        for name in {segment.checkpoint for segment, _ in planned}
    }
    for segment, start in planned:
        pool.submit(
            lambda player, task: player.record.remote(*task, config.recording, config.video),
            (packed[segment.checkpoint], segment, start),
        )
    # Otherwise it has been said.
    pictures = config.video and graphics.why_no_pictures() is None
    with tqdm.tqdm(total=len(planned), unit="segment", dynamic_ncols=True) as bar:
        while pool.has_next():
            recorded = _next_recorded(pool)
            collection.add(recorded)
            if pictures and "video.mp4" not in recorded.files:
                pictures = False
                bar.write(
                    f"segment {recorded.name} has no video, and others may have none: OpenGL "
                    "does not work on each machine; `pianist doctor` says where",
                    file=sys.stderr,
                )
            bar.update()


def _next_recorded(pool: ray.util.ActorPool) -> PackedFolder:
    """The segment that is recorded next.

    Raises:
        PartFailed: a player died again and again, or none moves.
        BadInput: raised by a player.
    """
    patience = Patience("Player", "no segment was recorded", _SECONDS, _SECONDS)
    while True:
        try:
            recorded: PackedFolder = pool.get_next_unordered(timeout=_LOOK_SECONDS)
        except TimeoutError:
            patience.look()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BadInput):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            what = "segments are missing, which the same command records"
            raise part_failed(what, error) from error
        else:
            return recorded


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
    for path in reversed(matching(folder.path / "collections", "*")):
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
    repertoire: Repertoire,
    checkpoints: Sequence[pathlib.Path],
) -> Collection:
    description = {
        "run": folder.name,
        "settings": _settings(config),
        "config": to_json(trained),
        "songs": [song.to_json() for song in repertoire.songs],
    }
    due_keys = [repertoire.due_keys(number) for number in range(len(repertoire.songs))]
    step_seconds = trained.environment.control_timestep
    planned = plan(config, due_keys, step_seconds, [path.name for path in checkpoints])
    base = checkpoint.snapshot(PackedFolder.pack(checkpoints[-1]))
    return Collection.create(folder.path / "collections", description, planned, base)


def plan(
    config: SegmentsConfig,
    due_keys: Sequence[np.ndarray],
    step_seconds: float,
    checkpoints: Sequence[str],
) -> list[PlannedSegment]:
    """All segments of a collection, passage by passage.

    Args:
        config: decides which.
        due_keys: of each song, (T, 88) bool.
        step_seconds: of a control step.
        checkpoints: names of those that play, the newest last.

    Raises:
        BadInput: the songs have no room for the passages, or the passages have not enough
            renditions.
    """

    def steps(seconds: float) -> int:
        return round(seconds / step_seconds)

    if config.whole_pieces:
        chosen = [Passage(song, 0, len(due)) for song, due in enumerate(due_keys)]
    else:
        size = max(1, steps(config.window_seconds))
        end = None if config.to_seconds is None else steps(config.to_seconds)
        chosen = passages.choose(due_keys, size, config.passages, steps(config.from_seconds), end)
    if config.noise or config.temperature:
        noise, temperature = config.noise or (0.0,), config.temperature or (0.0,)
        how = renditions.independent(checkpoints, config.renditions, noise, temperature)
        played = [how] * len(chosen)
    else:
        count = config.renditions or renditions.DEFAULT
        played = renditions.lasting(checkpoints, len(chosen), count, config.seed)
    return renditions.plan(chosen, played, steps(config.lead_in_seconds), config.seed)
