"""Fine-tuning a policy on preferences: a Ray job."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import ray
import scipy.stats
import tqdm
import tyro

from actors.config import RecordingConfig
from actors.evaluator import Evaluation, Evaluator, Metrics
from actors.repertoire import Repertoire
from actors.song import Song
from cluster import ray_session, run
from cluster.config import (
    TrainConfig,
    WandbConfig,
    from_json,
    require_seed_and_name,
    to_json,
)
from cluster.logbook import Logbook
from cluster.parts import answer, remote
from cluster.placement import Placement, placement
from cluster.report.page import write_report
from learner import checkpoint
from learner.config import Platform
from replay.errors import require, require_range
from replay.files import PackedFolder, write_files, write_json
from replay.storage import Place
from rlhf import preferences
from rlhf.collection import Collection, Trajectory
from rlhf.cpl import CPLConfig
from rlhf.fine_tuner import FineTuner, TuneReport
from rlhf.player import Audition, Player
from rlhf.ratings import Ratings
from rlhf.simulated_raters import QUALITIES

_START_SECONDS = 600.0
_SLICE_STEPS = 100
_SLICE_SECONDS = 3600.0
_EVALUATION_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """Fine-tunes a policy on people's preferences, by contrastive preference learning (CPL)."""

    collection: tyro.conf.Positional[str]
    """The rated collection: its folder or URL, or a run's, of which the newest is taken."""
    load_checkpoint: str
    """The policy to begin with: a checkpoint's folder or URL, or a run's, of which the newest is
    taken."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs. In a job that was submitted to a cluster relative ones
    are below the home folder."""
    name: str = ""
    """Name of the run and of its folder; made up from song, seed and time if not given."""
    seed: int = 42
    """Seed of everything random."""
    max_steps: int = 500
    """Steps in all."""
    eval_interval: int = 250
    """Steps between evaluations; each is of a checkpoint saved for it."""
    auditions: int = 12
    """Performances before and after that are rated beside the central one, with the noise and
    temperatures of the collection and other seeds."""
    raters: tuple[str, ...] = ()
    """Whose ratings count; by default those of all people. Simulated raters have to be named."""
    validation_fraction: float = 0.2
    """Share of the segments that is held out, to see whether preferences are understood."""
    platform: Platform = "auto"
    """What learns: an NVIDIA GPU, Apple's Metal, or processors; `auto` takes the first there is."""
    cpl: Annotated[CPLConfig, tyro.conf.arg(name="")] = CPLConfig()
    wandb: Annotated[WandbConfig, tyro.conf.arg(name="")] = WandbConfig()
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require_range(self, "max_steps", "eval_interval", least=1)
        require_range(self, "auditions", least=0, most=1000)
        require(
            0 <= self.validation_fraction < 1,
            f"--validation-fraction is {self.validation_fraction}, must be 0 or more, below 1",
        )
        require_seed_and_name(self)


def fine_tune(config: FineTuneConfig) -> dict[str, Any]:
    """Fine-tunes, and compares before with after.

    Returns:
        The run's name and folder, the new checkpoint, and before and after: metrics and
        simulated ratings of the central performance, and means of those drawn.

    Raises:
        BadInput: collection, ratings and checkpoint cannot be used together; nothing has been
            started or written, unless a file of them turns out to be damaged.
        RuntimeError: the fine-tuning broke down; see `rlhf.fine_tuner.NotFinite`.
    """
    collection = Collection.open(Place.of(config.collection).fetch())
    weight = _preferences(collection, config.raters)
    training, validation = preferences.split(weight, config.validation_fraction, config.seed)
    weights = {"training": training, "validation": validation}
    base = checkpoint.find(Place.of(config.load_checkpoint).fetch())
    description = checkpoint.load_description(base)
    trained = from_json(TrainConfig, description.get("config"), f"checkpoint {base}")
    songs = [Song.from_json(values) for values in description.get("songs", [])]
    _require_same(collection, trained, songs, base)
    trajectories = {segment.name: segment.trajectory() for segment in collection.segments()}
    repertoire = Repertoire(songs, trained.environment)
    address = ray_session.cluster_address()
    folder = run.create(config, "CPL", repertoire)
    print(
        f"{repertoire.title}; run {folder.path}; {len(preferences.pairs(training))} preferences "
        f"to learn from, {len(preferences.pairs(validation))} held out",
        file=sys.stderr,
    )
    with (
        folder.place.uploaded(),
        ray_session.connect(address, folder.process_logs),
        contextlib.closing(Logbook(folder, config)) as logbook,
    ):
        where = placement(address is not None, config.platform)
        job = _FineTuning(config, folder, logbook, collection, base, description, trained, where)
        return job.run(repertoire, trajectories, weights)


def _preferences(collection: Collection, raters: Sequence[str]) -> np.ndarray:
    segments = collection.segments()
    require(
        collection.ratings.is_file(),
        f"the collection {collection.path} has not been rated: pianist rate shows it to people",
    )
    names = [segment.name for segment in segments]
    with contextlib.closing(Ratings(collection.ratings, names)) as ratings:
        known = ratings.raters()
        people = [rater.name for rater in known if rater.kind == "person"]
        absent = sorted(set(raters) - {rater.name for rater in known})
        there = ", ".join(f"{rater.name!r}" for rater in known) or "nobody"
        require(not absent, f"--raters: {absent} did not rate {collection.path}, but {there}")
        require(
            bool(raters or people),
            f"no person has rated {collection.path}; --raters names simulated ones: {there}",
        )
        chosen = set(raters or people)
        return preferences.preferences(
            names,
            [rating for rating in ratings.ratings() if rating.rater.name in chosen],
            [answer for answer in ratings.comparisons() if answer.rater.name in chosen],
        )


def _require_same(
    collection: Collection, trained: TrainConfig, songs: Sequence[Song], base: pathlib.Path
) -> None:
    """Refuses a checkpoint that does not see and do what the collection holds."""
    where = f"the collection {collection.path}"
    recorded = from_json(TrainConfig, collection.manifest.get("config"), where)
    require(
        [song.to_json() for song in songs] == collection.manifest.get("songs"),
        f"{where} is of another song than checkpoint {base}",
    )
    for field in dataclasses.fields(trained.environment):
        here, there = (getattr(config.environment, field.name) for config in (recorded, trained))
        require(
            here == there or field.name == "wrong_press_termination",
            f"{where} was recorded with --{field.name.replace('_', '-')} {here}, checkpoint "
            f"{base} was trained with {there}",
        )


class _FineTuning:
    """One run: its parts, and the loop that keeps them at work."""

    def __init__(
        self,
        config: FineTuneConfig,
        folder: run.RunFolder,
        logbook: Logbook,
        collection: Collection,
        base: pathlib.Path,
        description: dict[str, Any],
        trained: TrainConfig,
        where: Placement,
    ):
        self._where = where
        self._config = config
        self._folder = folder
        self._logbook = logbook
        self._collection = collection
        self._base = base
        self._trained = trained
        self._description = {
            name: value for name, value in description.items() if name != "learner_steps"
        } | {"fine_tuned_from": str(base), "cpl": to_json(config)}
        self._environment_steps = int(description.get("environment_steps", 0))
        self._recordings: dict[ray.ObjectRef, tuple[pathlib.Path, pathlib.Path]] = {}
        self._status = run.Status(
            name=folder.name,
            kind="cpl",
            state="starting",
            started=time.time(),
            max_steps=config.max_steps,
        )

    def run(
        self,
        repertoire: Repertoire,
        trajectories: dict[str, Trajectory],
        weights: dict[str, np.ndarray],
    ) -> dict[str, Any]:
        self._set_state("starting")
        try:
            self._start(repertoire, trajectories, weights)
            self._set_state("evaluating")
            before, after = self._judge(self._save()), None
            self._set_state("training")
            self._loop()
            self._set_state("evaluating")
            saved = self._save()
            after = self._judge(saved)
            self._end_recordings(_EVALUATION_SECONDS)
            comparison = {"before": before, "after": after}
            write_json(self._folder.comparison, comparison)
        except KeyboardInterrupt:
            self._set_state("stopped")
            raise
        except BaseException:
            self._set_state("failed")
            raise
        report = str(write_report(self._folder.path))
        self._set_state("finished")
        return {
            "run": self._folder.name,
            "folder": str(self._folder.path),
            "state": "finished",
            "checkpoint": str(saved),
            **comparison,
            "report": report,
        }

    def _start(
        self,
        repertoire: Repertoire,
        trajectories: dict[str, Trajectory],
        weights: dict[str, np.ndarray],
    ) -> None:
        trained, piano, where = self._trained, repertoire.piano(0), self._where
        self._tuner = remote(FineTuner, **where.learner).remote(
            trajectories,
            PackedFolder.pack(self._base),
            weights,
            self._config.cpl,
            trained.learner,
            piano.layout,
            repertoire.table,
            self._config.seed,
        )
        agent_config = trained.learner.agent_config
        shared = ray.put(repertoire)
        beside = where.beside_learner
        self._evaluator = remote(Evaluator, **beside).remote(shared, agent_config)
        self._player = remote(Player, **beside).remote(shared, agent_config)
        device = answer(self._tuner.load.remote(), "the fine-tuner did not start", _START_SECONDS)
        print(f"fine-tuning on {device}", file=sys.stderr)

    # --- Fine-tuning ------------------------------------------------------------------------

    def _loop(self) -> None:
        config = self._config
        self._log({})
        with tqdm.tqdm(total=config.max_steps, unit="step", dynamic_ncols=True) as bar:
            step = 0
            while step < config.max_steps:
                until_evaluation = config.eval_interval - step % config.eval_interval
                steps = min(_SLICE_STEPS, until_evaluation, config.max_steps - step)
                report: TuneReport = answer(
                    self._tuner.tune.remote(steps), "the fine-tuning broke down", _SLICE_SECONDS
                )
                step = self._status.learner_steps = report.step
                self._status.updates_per_second = report.steps_per_second
                self._status.write(self._folder.status)
                self._log(
                    {f"cpl/{name}": value for name, value in report.metrics.items()}
                    | {"learner/updates_per_second": report.steps_per_second}
                )
                bar.update(step - bar.n)
                bar.set_postfix_str(
                    ", ".join(
                        f"{name.replace('_', ' ')} {value:.3g}"
                        for name, value in report.metrics.items()
                        if name in ("loss", "preference_accuracy")
                    )
                )
                if step % config.eval_interval == 0 and step < config.max_steps:
                    self._evaluate(self._save())
                self._end_recordings(seconds=0)

    def _log(self, values: Mapping[str, float]) -> None:
        measured = answer(self._tuner.measure.remote(), "the fine-tuner died", _SLICE_SECONDS)
        self._write({f"cpl/{name}": value for name, value in measured.items()} | dict(values))

    def _write(self, values: Mapping[str, float | None]) -> None:
        self._logbook.write(self._environment_steps, self._status.learner_steps, values)

    def _save(self) -> pathlib.Path:
        packed = self._tuner.checkpoint.remote(self._description)
        written: pathlib.Path = answer(packed, "the fine-tuner gave no checkpoint").write(
            self._folder.checkpoints.absolute()
        )
        return written

    # --- Evaluation -------------------------------------------------------------------------

    def _evaluate(self, saved: pathlib.Path) -> tuple[pathlib.Path, Metrics]:
        """Plays the central performance, and has it recorded; folder and metrics."""
        evaluation: Evaluation = answer(
            self._evaluator.evaluate.remote(PackedFolder.pack(saved)),
            "the evaluation failed",
            _EVALUATION_SECONDS,
        )
        folder, values = evaluation.write(self._folder.evaluations), evaluation.metrics
        self._status.note_f1 = values["note_f1"]
        self._write({f"eval/{name}": value for name, value in values.items()})
        for number, played in enumerate(evaluation.songs):
            recorded = self._evaluator.record.remote(
                number, played.performance, self._config.recording
            )
            self._recordings[recorded] = (folder, folder / played.place)
        return folder, values

    def _judge(self, saved: pathlib.Path) -> dict[str, Any]:
        """Evaluates a checkpoint, and rates performances of it with the collection's noise."""
        folder, metrics = self._evaluate(saved)
        central, *drawn = (
            answer(future, "an audition failed", _EVALUATION_SECONDS)
            for future in self._auditions(saved)
        )
        performances = [performance for played in drawn for performance in played]
        return {
            "checkpoint": str(saved),
            "evaluation": str(folder),
            "metrics": metrics,
            "ratings": {
                name: float(np.mean([performance.ratings[name] for performance in central]))
                for name in QUALITIES
            },
            "drawn": _summary(performances) if performances else None,
        }

    def _auditions(self, saved: pathlib.Path) -> list[ray.ObjectRef]:
        """The central performance, and then as many as wanted, with seeds not used before."""
        planned = self._collection.planned
        # Without noise and temperature there is but the central one.
        conditions = sorted({(one.noise, one.temperature) for one in planned} - {(0.0, 0.0)})
        first_seed = 1 + max(segment.seed for segment in planned)
        play, packed = self._player.audition.remote, ray.put(PackedFolder.pack(saved))
        return [play(packed, 0.0, 0.0, 0)] + [
            play(packed, *conditions[number % len(conditions)], first_seed + number)
            for number in range(self._config.auditions if conditions else 0)
        ]

    def _end_recordings(self, seconds: float) -> None:
        """Takes the recordings that are ready, waiting `seconds` for all of them."""
        pending = list(self._recordings)
        if not pending:
            return
        for recorded in ray.wait(pending, num_returns=len(pending), timeout=seconds)[0]:
            evaluation, folder = self._recordings.pop(recorded)
            write_files(folder, answer(recorded, "the recording failed"))
            if all(other != evaluation for other, _ in self._recordings.values()):
                self._logbook.show_videos(evaluation, self._environment_steps)

    def _set_state(self, state: str) -> None:
        self._status.state = state
        self._status.write(self._folder.status)


def _summary(performances: Sequence[Audition]) -> dict[str, Any]:
    """Means over performances, with intervals."""
    return {
        "performances": len(performances),
        **{
            name: _mean([performance.metrics[name] for performance in performances])
            for name in ("note_f1", "f1", "episode_return")
        },
        "ratings": {
            name: _mean([performance.ratings[name] for performance in performances])
            for name in QUALITIES
        },
    }


def _mean(values: Sequence[float | None]) -> dict[str, float]:
    """Mean and, from three values on, the half width of its 95% interval (Student's t)."""
    numbers = np.array(values, np.float64)
    found = {"mean": float(np.mean(numbers))}
    if len(numbers) > 2:
        width = scipy.stats.sem(numbers) * scipy.stats.t.ppf(0.975, len(numbers) - 1)
        found["interval"] = float(width)
    return found
