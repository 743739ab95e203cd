"""Evaluation of a checkpoint, independent of the run that trained it."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common.errors import require, require_range
from common.files import PackedFolder, paths_of, write_files
from piano.config import EnvironmentConfig, RecordingConfig, SongConfig
from training.config import given
from training.trained_policy import TrainedPolicy

if TYPE_CHECKING:
    from piano.song import Song


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Plays a checkpoint and writes metrics, a video with sound and a MIDI file.

    The flags of song and environment default to those of the checkpoint's training. Flags of the
    environment that are given must agree with the checkpoint. A song that is given must have the
    same length and kind of fingering.
    """

    load_checkpoint: str
    """Checkpoint to play: folder or URL of a checkpoint or of a run, or the name of a run in
    the folder of the runs. For a run, the newest checkpoint is played."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""
    record_dir: pathlib.Path = pathlib.Path("eval")
    """Folder for the recordings, which get a subfolder named after the checkpoint."""
    eval_episodes: int = 1
    """Number of episodes. The metrics are means over all of them, and the first is recorded."""
    song: Annotated[SongConfig, tyro.conf.arg(name="")] = SongConfig()
    environment: Annotated[EnvironmentConfig, tyro.conf.arg(name="")] = EnvironmentConfig()
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        require_range(self, "eval_episodes", least=1, most=10_000)


def with_flags_of_checkpoint(arguments: Sequence[str]) -> EvaluateConfig | None:
    """Returns the defaults of `pianist eval`, taken from the checkpoint named in `arguments`.

    Args:
        arguments: Arguments of `pianist eval`.

    Returns:
        Config with the settings of the checkpoint; None if no checkpoint is named.

    Raises:
        BadInput: The checkpoint does not exist or is damaged.
    """
    path = given(arguments, "--load-checkpoint")
    if path is None:
        return None
    root_dir = given(arguments, "--root-dir") or EvaluateConfig.root_dir
    trained = TrainedPolicy.find(path, root_dir).config
    song = trained.song
    if given(arguments, "--midi-file") or given(arguments, "--environment-name"):
        # A part of the checkpoint's piece means nothing in another piece.
        song = dataclasses.replace(song, midi_file=(), excerpt="", bars="", tracks=(), channels=())
    elif given(arguments, "--excerpt") or given(arguments, "--bars"):
        song = dataclasses.replace(song, excerpt="", bars="")
    return EvaluateConfig(
        load_checkpoint=path,
        root_dir=root_dir,
        song=song,
        environment=trained.environment,
        recording=trained.recording,
    )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Plays a checkpoint, computes metrics and writes recordings.

    Returns:
        Path of the checkpoint, title of the song, metrics by name, and paths of the recordings.

    Raises:
        BadInput: The song or the flags do not fit the checkpoint.
    """
    policy = TrainedPolicy.find(config.load_checkpoint, config.root_dir)
    folder = policy.checkpoint
    _require_same_environment(config.environment, policy.config.environment, folder)

    from actors.evaluator import Evaluator  # Slow, so the checks come first.
    from piano.repertoire import Repertoire

    songs = policy.songs
    if config.song != policy.config.song:
        songs = _other_songs(config, songs, folder)
    repertoire = Repertoire(songs, config.environment)
    print(f"playing {repertoire.title} by {folder}", file=sys.stderr)
    evaluator = Evaluator(repertoire, policy.config.learner.agent_config)
    for line in evaluator.what_is_missing():
        print(line, file=sys.stderr)
    evaluation = evaluator.evaluate(PackedFolder.pack(folder), config.eval_episodes)
    written = evaluation.write(config.record_dir)
    for number, played in enumerate(evaluation.songs):
        files = evaluator.record(number, played.performance, config.recording)
        write_files(written / played.subfolder, files)
    return {
        "checkpoint": str(folder),
        "song": repertoire.title,
        "metrics": evaluation.metrics,
        "files": paths_of(written),
    }


def _require_same_environment(
    given: EnvironmentConfig, trained: EnvironmentConfig, folder: pathlib.Path
) -> None:
    for field in dataclasses.fields(EnvironmentConfig):
        here, there = getattr(given, field.name), getattr(trained, field.name)
        require(
            here == there,
            f"--{field.name.replace('_', '-')} is {here}, but checkpoint {folder} was trained "
            f"with {there}: leave the flag out",
        )


def _other_songs(
    config: EvaluateConfig, trained: list["Song"], folder: pathlib.Path
) -> list["Song"]:
    """Loads the songs that the flags name, and checks that the policy can play them.

    A song must be as long as one that the policy was trained on, with the same kind of fingering.
    """
    from piano.song import load_songs

    seconds = config.environment.control_timestep
    known = ", ".join(f"{song.title} with {len(song.trajectory(seconds))}" for song in trained)
    songs = load_songs(config.song)
    for song in songs:
        for line in song.repairs:
            print(line, file=sys.stderr)
        steps = song.trajectory(seconds)
        alike = [other for other in trained if len(other.trajectory(seconds)) == len(steps)]
        require(
            bool(alike),
            f"{song.title} has {len(steps)} control steps, but checkpoint {folder} was trained "
            f"on {known}",
        )
        require(
            song.has_fingering == trained[0].has_fingering,
            f"{song.title} has {'a' if song.has_fingering else 'no'} fingering, but checkpoint "
            f"{folder} was trained on {known}, which {'has none' if song.has_fingering else 'has'}",
        )
        differing = min(
            sum(
                {note.key for note in one} != {note.key for note in other}
                for one, other in zip(steps.notes, others.trajectory(seconds).notes, strict=True)
            )
            for others in alike
        )
        if differing:
            print(
                f"{song.title} differs in {differing} of {len(steps)} control steps from what "
                "this checkpoint was trained on",
                file=sys.stderr,
            )
    return songs
