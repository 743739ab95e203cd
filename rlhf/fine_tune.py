"""Fine-tuning of a policy on preferences, as a Ray job."""

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import ray
import tqdm
import tyro

from actors.evaluator import Evaluation, Evaluator
from common import ray_session, storage
from common.errors import require, require_range
from common.files import PackedFolder, write_json
from common.waiting import get_result, said_if_long
from learner.config import Platform
from piano.config import RecordingConfig
from piano.repertoire import Repertoire
from rlhf import earlier_rounds, judge, preferences, style
from rlhf.cpl import CPLConfig
from rlhf.fine_tuner import FEWEST_HELD_OUT, FineTuner, Loaded, TuneReport
from rlhf.guard import Guard, Line, Settled, judged
from rlhf.player import Player
from rlhf.rounds import Round, read_rated
from rlhf.simulated_raters import QUALITIES, listened_for
from rlhf.variation import Variation
from training import run
from training.active_run import ActiveRun
from training.config import WandbConfig, require_seed_and_name, to_json
from training.logbook import Logbook
from training.parts import remote
from training.placement import Placement, placement
from training.recordings import Recordings
from training.trained_policy import TrainedPolicy

_START_SECONDS = 600.0
_SLICE_STEPS = 10
_SLICE_SECONDS = 3600.0
_EVALUATION_SECONDS = 3600.0
_PLAYERS = 2
# Minimum control steps and minimum performances of the demonstrations that teach a style.
_DEMONSTRATED_STEPS, _FEWEST_DEMONSTRATIONS = 2500, 2


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """Fine-tunes a policy on people's preferences, by contrastive preference learning (CPL)."""

    collections: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="COLLECTION [COLLECTION ...]", help_behavior_hint="(required)"),
    ]
    """Rated collections of one or more rounds. Each is a folder or URL of a collection or of a run,
    or a run's name in the folder of the runs; a run stands for its newest collection. Each pair is
    scored relative to the policy that its round began with."""
    load_checkpoint: str
    """Policy to begin with: folder or URL of a checkpoint or of a run, or a run's name in the
    folder of the runs; a run stands for its newest checkpoint."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs. In a job on a cluster, a relative folder is relative to
    the home folder."""
    name: str = ""
    """Name of the run and of its folder; by default built from song, seed and time."""
    seed: int = 42
    """Random seed of the fine-tuning."""
    max_steps: int = 50
    """Maximum number of fine-tuning steps. The result comes from the step with the lowest loss on
    held-out pairs. More steps memorize the answers, at the cost of correct notes."""
    eval_interval: int = 250
    """Steps between evaluations; each evaluation also saves a checkpoint."""
    eval_episodes: int = 24
    """Number of lightly varied performances by which start and result are compared at the end.
    Their seeds are not used for any earlier choice."""
    guard_performances: int = 12
    """Number of performances by which each candidate is judged. The result is the candidate
    furthest from the start whose mean note-event F1 is at most 0.01 lower. With 0 the tuned policy
    is returned unjudged."""
    raters: tuple[str, ...] = ()
    """Names of the raters whose answers count; by default all people. Simulated raters count only
    if they are named."""
    attribute: str = ""
    """Attribute whose answers count, see --attribute of `pianist rate`; by default quality as a
    whole."""
    style: bool = True
    """Whether `relative-cpl` first looks for a style that the answers favor: strength and
    smoothness of movement, length of keys held, timing of attacks. If a style is favored and keeps
    the notes, the policy learns it, and that is the result. Otherwise the answers tune the whole
    network."""
    validation_fraction: float = 0.2
    """Share of the passages that is held out to choose the best step. The last step counts if fewer
    than ten pairs are held out, for example with 0."""
    platform: Platform = "auto"
    """Device that learns: an NVIDIA GPU, Apple's Metal, or the CPU; `auto` takes the first that is
    available."""
    cpl: Annotated[CPLConfig, tyro.conf.arg(name="")] = CPLConfig()
    wandb: Annotated[WandbConfig, tyro.conf.arg(name="")] = WandbConfig()
    recording: Annotated[RecordingConfig, tyro.conf.arg(name="")] = RecordingConfig()

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        require(bool(self.collections), "COLLECTION is missing: name a rated one, or several")
        require_range(self, "max_steps", "eval_interval", least=1)
        require_range(self, "eval_episodes", "guard_performances", least=0, most=1000)
        require(
            0 <= self.validation_fraction < 1,
            f"--validation-fraction is {self.validation_fraction}, must be 0 or more, below 1",
        )
        require_seed_and_name(self)


def fine_tune(
    config: FineTuneConfig, write_report: Callable[[pathlib.Path], pathlib.Path]
) -> dict[str, Any]:
    """Fine-tunes a policy and compares it before and after.

    Args:
        config: Settings of the run.
        write_report: Function that writes the report of a run's folder and returns its path.

    Returns:
        The run's name and folder, the new checkpoint, and the values before and after: metrics and
        simulated ratings of the deterministic performance, and means of the varied performances.

    Raises:
        BadInput: Collections, ratings and checkpoint cannot be used together. Nothing has then been
            started or written, unless one of their files turns out to be damaged.
        RuntimeError: The fine-tuning failed; see `rlhf.fine_tuner.NotFinite`.
    """
    run.require_usable(storage.Location.of(config.root_dir), config.wandb)
    collections = earlier_rounds.open_collections(config.collections, config.root_dir)
    rated = read_rated(collections, config.raters, config.attribute)
    training, validation = preferences.split(
        rated.weight, config.validation_fraction, config.seed, rated.passages
    )
    weights = {"training": training, "validation": validation}
    base = TrainedPolicy.find(config.load_checkpoint, config.root_dir)
    songs = base.songs
    for collection in collections:
        earlier_rounds.require_same(collection, base, songs)
    loaded = earlier_rounds.load_rounds(collections)
    favored = None
    if config.style and config.cpl.is_relative and config.guard_performances:
        favored = style.fit(
            [variation for one in collections for variation in one.base_variations()], rated.weight
        )
    repertoire = Repertoire(songs, base.config.environment)
    address = ray_session.cluster_address()
    folder = run.create(config, "CPL", repertoire)
    print(
        f"{repertoire.title}; run {folder.path}; {len(preferences.pairs(training))} preferences "
        f"to learn from, {len(preferences.pairs(validation))} held out",
        file=sys.stderr,
    )
    with (
        folder.location.uploaded(),
        ray_session.connect(address, folder.process_logs),
        contextlib.closing(Logbook(folder, config)) as logbook,
    ):
        where = placement(address is not None, config.platform)
        job = _FineTuning(config, folder, logbook, base, where, write_report)
        return job.run(repertoire, loaded, weights, rated.answers, favored)


class _FineTuning:
    """One run: its parts and the loop that drives them."""

    def __init__(
        self,
        config: FineTuneConfig,
        folder: run.RunFolder,
        logbook: Logbook,
        base: TrainedPolicy,
        where: Placement,
        write_report: Callable[[pathlib.Path], pathlib.Path],
    ):
        self._where = where
        self._write_report = write_report
        self._config = config
        self._folder = folder
        self._base = base
        self._description = {
            name: value for name, value in base.description.items() if name != "learner_steps"
        } | {"fine_tuned_from": str(base.checkpoint), "cpl": to_json(config)}
        self._earlier = earlier_rounds.chain(base)
        self._measured: dict[int, dict[str, float]] = {}
        self._recordings = Recordings(config.recording, logbook)
        self._status = run.Status(
            name=folder.name,
            kind="cpl",
            state="starting",
            started=time.time(),
            max_steps=config.max_steps,
        )
        self._active = ActiveRun(folder, logbook, self._status, contextlib.nullcontext)

    def run(
        self,
        repertoire: Repertoire,
        loaded: list[Round],
        weights: dict[str, np.ndarray],
        answers: dict[str, int],
        favored: style.Style | None,
    ) -> dict[str, Any]:
        self._active.set_state("starting")
        try:
            self._start(repertoire, loaded, weights)
            self._active.set_state("evaluating")
            saved = self._save(0.0)
            start, learning = PackedFolder.pack(saved), None
            heard = self._guard.hear(start)
            before = self._evaluate(saved) | heard
            settled = self._follow(favored, start, heard) if favored else None
            if settled is None:
                self._active.set_state("training")
                self._loop()
                learning = self._stop(weights)
                self._active.set_state("evaluating")
                settled = self._guard.settle(start, heard, self._line())
            if settled is None:
                settled = Settled("", 0.0, self._packed(0.0), heard)
            saved = settled.packed.write(self._folder.checkpoints.absolute())
            after = self._evaluate(saved) | settled.heard
            self._recordings.end(_EVALUATION_SECONDS)
            comparison = {
                "before": before,
                "after": after,
                "improved": settled.share > 0,
                "line": settled.line,
                "share": settled.share,
                "answers": answers,
                "style": favored and _describe(favored),
                "guard": self._guard.told(),
                "learning": learning,
                "rounds": [
                    *self._earlier,
                    {
                        "run": self._folder.name,
                        "answers": answers,
                        "line": settled.line,
                        "share": settled.share,
                        "before": before["drawn"],
                        "after": after["drawn"],
                    },
                ],
            }
            self._say(settled)
            write_json(self._folder.comparison, comparison)
        except KeyboardInterrupt:
            self._active.set_state("stopped")
            raise
        except BaseException:
            self._active.set_state("failed")
            raise
        report = str(self._write_report(self._folder.path))
        self._active.set_state("finished")
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
        loaded: list[Round],
        weights: dict[str, np.ndarray],
    ) -> None:
        trained, piano, where = self._base.config, repertoire.piano(0), self._where
        self._tuner = remote(FineTuner, **where.learner).remote(
            loaded,
            PackedFolder.pack(self._base.checkpoint),
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
        player_class = remote(Player, **beside)
        self._players = [player_class.remote(shared, agent_config) for _ in range(_PLAYERS)]
        learnt_from = filter(None, map(listened_for, self._config.raters))
        self._guard = Guard(
            self._players,
            tuple(dict.fromkeys([*learnt_from, *QUALITIES])),
            self._config.eval_episodes,
            self._config.guard_performances,
        )
        self._episode_lengths = [
            repertoire.piano(song).episode_length for song in range(len(repertoire.songs))
        ]
        with said_if_long("the fine-tuner to start"):
            begun: Loaded = get_result(
                self._tuner.load.remote(),
                "FineTuner",
                "the fine-tuner did not start",
                _START_SECONDS,
                most_used=float("inf"),
            )
        print(f"fine-tuning on {begun.device}", file=sys.stderr)
        wanted = self._config.cpl.members
        if self._config.cpl.is_relative and begun.members < wanted:
            print(
                f"the preferences are too few to tune {wanted} members, each on a part of them: "
                "one policy learns from all",
                file=sys.stderr,
            )

    # --- Fine-tuning ------------------------------------------------------------------------

    def _loop(self) -> None:
        config = self._config
        self._log({})
        with tqdm.tqdm(total=config.max_steps, unit="step", dynamic_ncols=True) as bar:
            step = 0
            while step < config.max_steps:
                until_evaluation = config.eval_interval - step % config.eval_interval
                steps = min(_SLICE_STEPS, until_evaluation, config.max_steps - step)
                report: TuneReport = get_result(
                    self._tuner.tune.remote(steps),
                    "FineTuner",
                    "the fine-tuning broke down",
                    _SLICE_SECONDS,
                )
                step = self._status.learner_steps = report.step
                self._status.learner_steps_per_second = report.steps_per_second
                self._active.write_status()
                self._log(
                    {f"cpl/{name}": value for name, value in report.metrics.items()}
                    | {"learner/steps_per_second": report.steps_per_second}
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
                self._recordings.end(seconds=0)

    def _log(self, values: Mapping[str, float]) -> None:
        measured = self._measured[self._status.learner_steps] = get_result(
            self._tuner.measure.remote(), "FineTuner", "the fine-tuner died", _SLICE_SECONDS
        )
        self._write({f"cpl/{name}": value for name, value in measured.items()} | dict(values))

    def _stop(self, weights: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns to the step with the lowest held-out loss, and reports what was learned."""
        best = get_result(
            self._tuner.stop.remote(), "FineTuner", "the fine-tuner died", _SLICE_SECONDS
        )
        step = self._status.learner_steps if best is None else best
        counts = {name: len(preferences.pairs(weight)) for name, weight in weights.items()}
        if best is None:
            line = (
                f"the policies of the last step, {step}, are taken: to choose a step by held-out "
                f"pairs takes {FEWEST_HELD_OUT} of them, and there are {counts['validation']}"
            )
        else:
            line = (
                f"the policies of step {step} of {self._config.max_steps} are taken: the loss on "
                f"{counts['validation']} held-out pairs was least"
            )
        print(line, file=sys.stderr)
        return {
            "pairs": counts,
            "step": step,
            "chosen_by_held_out": best is not None,
            "max_steps": self._config.max_steps,
            "start": self._measured[0],
            "result": self._measured[step],
        }

    def _write(self, values: Mapping[str, float | None]) -> None:
        self._active.log(self._base.environment_steps, self._status.learner_steps, values)

    def _save(self, share: float = 1.0) -> pathlib.Path:
        written: pathlib.Path = self._packed(share).write(self._folder.checkpoints.absolute())
        return written

    def _packed(self, share: float) -> PackedFolder:
        packed = self._tuner.checkpoint.remote(self._description, share)
        given: PackedFolder = get_result(packed, "FineTuner", "the fine-tuner gave no checkpoint")
        return given

    # --- Evaluation -------------------------------------------------------------------------

    def _evaluate(self, saved: pathlib.Path) -> dict[str, Any]:
        """Plays and records the deterministic performance.

        Returns:
            Paths of checkpoint and evaluation, and metrics.
        """
        with said_if_long("an evaluation"):
            evaluation: Evaluation = get_result(
                self._evaluator.evaluate.remote(PackedFolder.pack(saved)),
                "Evaluator",
                "the evaluation failed",
                _EVALUATION_SECONDS,
            )
        folder = self._active.keep(
            evaluation, self._base.environment_steps, self._status.learner_steps
        )
        self._recordings.begin(self._evaluator, evaluation, folder)
        return {
            "checkpoint": str(saved),
            "evaluation": str(folder),
            "metrics": evaluation.metrics,
        }

    # --- Choice of the result ---------------------------------------------------------------

    def _follow(
        self, favored: style.Style, start: PackedFolder, heard: dict[str, Any]
    ) -> Settled | None:
        """Returns a policy in the favored style, if it keeps the notes."""
        print(f"the answers favor {favored.variation(1.0).describe()}", file=sys.stderr)

        def candidate(share: float) -> tuple[PackedFolder, Variation]:
            return start, judged(favored.variation(share))

        shares = [share for share in judge.STYLE_SHARES if share <= favored.furthest_share]
        line = Line("style", shares, candidate, lambda share: self._imitate(start, favored, share))
        return self._guard.settle(start, heard, line)

    def _imitate(self, start: PackedFolder, favored: style.Style, share: float) -> PackedFolder:
        """Trains a policy that plays without variation as the start does in the style."""
        shared, variation = ray.put(start), favored.variation(share)
        count = math.ceil(_DEMONSTRATED_STEPS / sum(self._episode_lengths))
        with said_if_long("the style to be learnt"):
            futures = [
                self._players[number % _PLAYERS].demonstrate.remote(
                    shared, judged(variation), self._config.seed + number
                )
                for number in range(max(count, _FEWEST_DEMONSTRATIONS))
            ]
            shown = [
                one
                for future in futures
                for one in get_result(
                    future, "Player", "a demonstration failed", _EVALUATION_SECONDS
                )
            ]
            description = {"share": share, "style": dataclasses.asdict(variation)}
            packed, (first, last) = get_result(
                self._tuner.imitate.remote(shown, self._description | description),
                "FineTuner",
                "the imitation broke down",
                _SLICE_SECONDS,
            )
        self._write({"cpl/imitation_loss_before": first, "cpl/imitation_loss_after": last})
        given: PackedFolder = packed
        return given

    def _line(self) -> Line:
        """Returns the candidates between the start and the average of the tuned policies."""

        def candidate(share: float) -> tuple[PackedFolder, Variation]:
            return self._packed(share), judge.JUDGED

        return Line("cpl", judge.TUNED_SHARES, candidate, self._packed)

    def _say(self, settled: Settled) -> None:
        line = {
            "": "no candidate keeps the notes of the start, which stays what eval plays",
            "style": f"the result plays in the favored style, {settled.share:g} of its unit",
            "cpl": f"the result is {settled.share:g} of the way from the start to the tuned "
            "policies' mean",
        }[settled.line]
        print(line, file=sys.stderr)


def _describe(favored: style.Style) -> dict[str, Any]:
    """Returns the style as JSON values for the comparison."""
    return {
        "knobs": {
            name: {**knob._asdict(), "kept": knob.kept} for name, knob in favored.knobs.items()
        },
        "pairs": favored.pairs,
        "accuracy": favored.accuracy,
        "chance": favored.chance,
        "unit": dataclasses.asdict(favored.variation(1.0)),
    }
