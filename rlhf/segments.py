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
    """Records renditions of passages by a run's checkpoints for rating.

    All renditions of a passage begin at the same moment of the newest checkpoint's deterministic
    performance. By default the first rendition continues that performance, and one in five is by
    an older checkpoint. The rest vary the newest checkpoint throughout. Four of five vary in
    style, by two of: strength (up to 15%), smoothness (up to 35% of the previous action), timing
    of attacks (up to a quarter of a control step), and length of keys held (up to half a control
    step). The others vary by an offset, by other last-layer weights or by the policy's own
    sampling (0.3 to 0.6 of its standard deviation).

    With --noise or --temperature each checkpoint plays with independent noise instead.

    Passages with the most missed or wrong notes are recorded first, and can be rated as soon as
    they are recorded. The same command completes a collection that was interrupted.
    """

    run: tyro.conf.Positional[str]
    """Run whose checkpoints play: its folder or URL, or its name in --root-dir."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""
    checkpoints: tuple[int, ...] = ()
    """Learner steps of the checkpoints that play; by default all checkpoints of the run."""
    passages: int | None = None
    """Total number of passages, spread evenly over the songs; by default one per two windows, but
    7 to 14 as far as the songs have space."""
    renditions: int | None = None
    """Number of segments per passage. The default is 7; with --noise or --temperature it is one per
    combination of checkpoint, noise and temperature."""
    window_seconds: float = 2.0
    """Length in seconds of a passage, which is judged and learned from."""
    lead_in_seconds: float = 1.0
    """Length in seconds of the lead-in, which is heard before each passage but neither judged nor
    learned from."""
    from_seconds: Annotated[float, tyro.conf.arg(name="from")] = 0.0
    """Time in the song, in seconds, from which passages are taken."""
    to_seconds: Annotated[float | None, tyro.conf.arg(name="to")] = None
    """Time in the song, in seconds, up to which passages are taken; by default the end."""
    whole_pieces: bool = False
    """Whether to record whole songs instead of passages."""
    noise: tuple[float, ...] = ()
    """Standard deviations of independent noise that is added to the actions (range -1 to 1)."""
    temperature: tuple[float, ...] = ()
    """Factors on the policy's own standard deviation for independent samples: 0 plays
    deterministically, 1 plays as in training."""
    seed: int = 0
    """Random seed of the collection."""
    video: bool = True
    """Whether to render a video of each segment; without it, raters see the notes and hear the
    sound."""
    actors: int | Literal["auto"] = "auto"
    """Number of processes that play and record; `auto` takes one per core of the cluster."""
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
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
        The collection's path and its number of segments.

    Raises:
        BadInput: The run or a checkpoint does not exist, the songs do not fit the settings, or the
            collection is damaged.
    """
    folder = run.find(config.run, config.root_dir)
    checkpoints = _choose_checkpoints(folder, config.checkpoints)
    # The checkpoint knows the training settings; a fine-tuned run's own settings are different.
    base = TrainedPolicy.open(checkpoints[-1])
    # A segment continues after a wrong key, so that raters hear all of it.
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
        folder.location.uploaded(),
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
    """Has the base policy play deterministically to find starts and order of the segments.

    Returns:
        The missing segments and their starts, passage by passage, most mistakes first.

    Raises:
        BadInput: Base or starts of the collection are damaged.
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
    # Starts that were saved are kept: another machine would play slightly differently.
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
    # If pictures cannot be made here, a message has already said so.
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
    """Waits for the next recorded segment.

    Raises:
        PartFailed: A player died repeatedly, or no player makes progress.
        BadInput: A player raised it.
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
    """Returns the settings that determine the segments, without place and speed of recording."""
    settings = to_json(config)
    return {name: settings[name] for name in settings if name not in ("run", "root_dir", "actors")}


def _unfinished(folder: run.RunFolder, config: SegmentsConfig) -> Collection | None:
    """Returns the run's newest collection with these settings, if it is incomplete."""
    for path in reversed(matching(folder.path / "collections", "*")):
        try:
            collection = Collection.open(path)
        except BadInput:  # Interrupted before it had a manifest.
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
    """Plans all segments of a collection, passage by passage.

    Args:
        config: Settings of the collection.
        due_keys: Keys due in each song, (T, 88) bool.
        step_seconds: Seconds per control step.
        checkpoints: Names of the checkpoints that play, the newest last.

    Raises:
        BadInput: The songs have no space for the passages, or there are too few renditions.
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
