"""The training run: keeps all parts working and decides when training ends.

Actors and learner work in slices of about a second and then report. This loop gives them the next
slice. Therefore only the loop decides when training ends, it notices the death of a part within a
slice, and every wait has a time limit.

The pool replaces an actor that dies, and this module replaces an evaluator. If another part dies
or the learner's numbers become invalid, all parts restart from the last checkpoint and the
replay's journal, as in a resumed run.
"""

import contextlib
import errno
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import safetensors.numpy

from actors.evaluator import Evaluation
from common import ray_session, terminal
from common.cores import actors_here
from common.errors import OutOfMemory, PartFailed
from common.files import paths_of, write_files
from common.health import UnhealthyStep
from common.waiting import Patience, Stopped, get_result, said_if_long
from learner import checkpoint
from learner.device import gpu_is_here
from learner.learner import LearnReport
from piano.repertoire import Repertoire
from piano.song import load_songs
from training import parts, resume, run, scale
from training.config import TrainConfig, to_json
from training.journaling import Journaling
from training.logbook import Logbook
from training.memory import MemoryWait, needed_by
from training.metrics_window import MetricsWindow
from training.parts import SLICE_SECONDS
from training.placement import placement
from training.progress import Progress
from training.recordings import Recordings
from training.sizes import require_room

_EVALUATION_SECONDS = 1800.0
_STALL_SECONDS = 120.0
_CHECKPOINTS_KEPT = 5
_CHECKPOINT_SECONDS = 300.0
"""Longest time between checkpoints in seconds."""
_FAILURES_ALLOWED = 3
"""Largest number of failures of parts without a checkpoint in between."""
_UNHEALTHY_ALLOWED = 2
"""Largest number of learner steps with invalid numbers in the whole run."""


def train(
    config: TrainConfig,
    write_report: Callable[[pathlib.Path], pathlib.Path],
    resumed: run.RunFolder | None = None,
) -> dict[str, Any]:
    """Runs a training with its evaluations and its report.

    Args:
        config: Settings of the run.
        write_report: Function from a run's folder to the file with its report, which it writes.
        resumed: Folder of the run to resume; None for a new run.

    Returns:
        Name, folder and state ("finished" or "stopped") of the run, its step counts and best
        checkpoint, and metrics and files of the last evaluation.

    Raises:
        BadInput: Song, name or flags are unusable. Nothing was started or written.
        PartFailed: Parts of the run died repeatedly.
        UnhealthyStep: The learner's numbers became invalid repeatedly.
    """
    address = ray_session.cluster_address()
    with said_if_long("hands and piano to be built"):
        if resumed:
            repertoire = resume.reopen(config, resumed)
        else:
            repertoire = Repertoire(load_songs(config.song), config.environment)
        require_room(config, repertoire.piano(0), on_cluster=address is not None)
    if resumed:
        resume.keep_settings(config, resumed)
    folder = resumed or run.create(config, "SAC", repertoire)
    progress = Progress(config.max_steps, config.max_minutes, config.tqdm_bar)
    progress.say(f"{repertoire.title}; run {folder.path}")
    for line in [line for song in repertoire.songs for line in song.repairs]:
        progress.say(line)
    with (
        contextlib.closing(progress),
        folder.place.uploaded(),
        ray_session.connect(address, folder.process_logs),
        contextlib.closing(Logbook(folder, config)) as logbook,
    ):
        on_cluster = address is not None
        actors = _number_of_actors(config, on_cluster)
        run_ = _TrainingRun(config, actors, repertoire, folder, progress, logbook)
        return run_.train(on_cluster, write_report)


def _number_of_actors(config: TrainConfig, on_cluster: bool) -> int:
    if config.actor.actors != "auto":
        return config.actor.actors
    if on_cluster:
        return placement(on_cluster, config.platform).actors_beside_learner()
    return actors_here(learns_on_cpu=not gpu_is_here(config.platform))


class _Disk:
    """Writes that may fail because the disk is full, without stopping the training."""

    def __init__(self, progress: Progress):
        self._say = progress.say
        self._full: set[str] = set()

    @contextlib.contextmanager
    def may_be_full(self, what: str) -> Iterator[None]:
        """Prints one message when the disk has no space for `what`, and one when it has again."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if what not in self._full:
                self._full.add(what)
                self._say(f"the disk is full: {what} cannot be written; training continues")
        else:
            if what in self._full:
                self._full.remove(what)
                self._say(f"there is room on the disk again for {what}")


class _TrainingRun:
    """One run: its counts, and the loop that keeps its parts working."""

    def __init__(
        self,
        config: TrainConfig,
        actors: int,
        repertoire: Repertoire,
        folder: run.RunFolder,
        progress: Progress,
        logbook: Logbook,
    ):
        self._config = config
        self._repertoire = repertoire
        self._folder = folder
        self._progress = progress
        self._logbook = logbook
        self._status = run.Status(
            name=folder.name,
            kind="train",
            state="starting",
            started=time.time(),
            max_steps=config.max_steps,
            actors_wanted=actors,
        )
        self._disk = _Disk(progress)
        self._stop_signal = 0
        self._has_started = False
        self._failures = self._unhealthy = 0
        self._evaluations = 0
        self._recordings = Recordings(config.recording, logbook, self._disk.may_be_full)
        self._result: dict[str, Any] = {"run": folder.name, "folder": str(folder.path)}

    def train(
        self, on_cluster: bool, write_report: Callable[[pathlib.Path], pathlib.Path]
    ) -> dict[str, Any]:
        # This reads the status of a resumed run before it is overwritten.
        resumed = self._find_whole() if self._config.resume else resume.NOTHING
        self._set_state("starting")
        needed = None if on_cluster else needed_by(self._status.actors_wanted)
        self._memory = MemoryWait(needed, self._progress.say, lambda: bool(self._stop_signal))
        try:
            with self._signals():
                while not self._run_parts(on_cluster, resumed):
                    resumed = self._find_whole()
        except BaseException:
            self._set_state("failed")
            if checkpoint.list_checkpoints(self._folder.checkpoints):
                self._progress.say(f"resume it with: {self._go_on}")
            raise
        if self._has_started:
            with self._disk.may_be_full("the report"):
                self._result["report"] = str(write_report(self._folder.path))
        if self._recordings.newest is not None:
            self._result["files"] = paths_of(self._recordings.newest)
        self._result["environment_steps"] = self._status.environment_steps
        self._result["learner_steps"] = self._status.learner_steps
        self._result["best_checkpoint"] = run.best_checkpoint(self._folder)
        self._set_state("stopped" if self._stop_signal else "finished")
        if self._stop_signal:
            self._result["to_go_on"] = self._go_on
        return self._result

    def _run_parts(self, on_cluster: bool, resumed: resume.Resumed) -> bool:
        """Starts the parts from a saved state and trains; returns whether the run has ended.

        Raises:
            PartFailed: Parts failed too often.
            UnhealthyStep: Learner steps had invalid numbers too often.
        """
        status = self._status
        self._has_started = False
        self._evaluation: ray.ObjectRef | None = None
        self._recordings.drop()
        self._steps_before = resumed.environment_steps
        try:
            with parts.running(
                self._config,
                status.actors_wanted,
                self._repertoire,
                on_cluster,
                self._progress.say,
                resumed,
                stopping=lambda: bool(self._stop_signal),
            ) as self._parts:
                self._has_started = True
                self._journaling = Journaling(
                    self._parts.replay.servers,
                    self._folder.replay,
                    self._config.replay.most_kept,
                    resumed.environment_steps,
                    self._disk.may_be_full,
                )
                self._window = MetricsWindow(status.environment_steps, status.learner_steps)
                self._loop()
                self._finish()
        except Stopped:
            return True
        except UnhealthyStep as step:
            self._unhealthy += 1
            self._keep_for_study(step)
            if self._unhealthy > _UNHEALTHY_ALLOWED:
                raise
            self._progress.say(f"{step}; its batch is in {self._folder.unhealthy}")
        except PartFailed as failure:
            if isinstance(failure, OutOfMemory) or self._memory.is_short:
                self._memory.wait(failure)
            else:
                self._count(failure)
        else:
            return True
        self._set_state("starting")
        # After a stop signal the run does not restart its parts, because its state is saved.
        return bool(self._stop_signal)

    def _count(self, failure: PartFailed) -> None:
        """Counts a failure, and raises it if there were too many."""
        self._failures += 1
        if self._failures > _FAILURES_ALLOWED:
            raise failure
        self._progress.say(str(failure))

    def _find_whole(self) -> resume.Resumed:
        """Finds the intact saved state that parts can resume from."""
        known = self._status.environment_steps
        if not known and self._folder.status.is_file():
            known = run.read_status(self._folder)["environment_steps"]
        resumed, damaged = resume.find(self._folder, self._config.replay.most_kept, known)
        for line in damaged:
            self._progress.say(f"{line}: the one before is taken")
        self._progress.say(f"resuming from {resumed}")
        self._status.environment_steps = resumed.environment_steps
        self._status.learner_steps = resumed.learner_steps
        return resumed

    @property
    def _go_on(self) -> str:
        return f"pianist train --resume {self._folder.url or self._folder.path}"

    def _keep_for_study(self, step: UnhealthyStep) -> None:
        with self._disk.may_be_full("what is to be studied"):
            content = safetensors.numpy.save({"batch": step.batch})
            write_files(self._folder.unhealthy, {f"step_{step.step:09d}.safetensors": content})

    # --- Training -----------------------------------------------------------------------

    def _loop(self) -> None:
        config, status = self._config, self._status
        self._learn()
        self._saved_at = time.monotonic()
        next_log = _next_multiple(status.environment_steps, config.log_interval)
        next_evaluation = _next_multiple(status.environment_steps, config.eval_interval)
        stall = _StallWatch()
        while self._done() < 1 and not self._stop_signal:
            ray.wait([*self._parts.pool.futures, self._learning], timeout=SLICE_SECONDS)
            self._window.add_collected(self._parts.pool.reports(), status.learner_steps)
            if ray.wait([self._learning], timeout=0)[0]:
                self._end_learning()
                self._learn()
            else:
                self._learner_patience.look()
            self._scale()
            self._update_status()
            if status.state == "starting" and status.environment_steps:
                self._set_state("training")
                self._memory.trains()
            if status.environment_steps >= next_log:
                next_log = _next_multiple(status.environment_steps, config.log_interval)
                self._log()
            self._end_evaluation(seconds=0)
            self._end_recordings(seconds=0)
            self._journaling.look(status.environment_steps)
            if status.environment_steps >= next_evaluation and status.learner_steps:
                next_evaluation = _next_multiple(status.environment_steps, config.eval_interval)
                if self._evaluation is None:
                    self._begin_evaluation()
            elif time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS and status.learner_steps:
                self._save()
            if stall.seconds(status.environment_steps, status.learner_steps) > _STALL_SECONDS:
                stall = _StallWatch()
                self._progress.say(
                    f"no step for {_STALL_SECONDS:.0f} s: {status.actors_running} of "
                    f"{status.actors_wanted} actors running, {status.replay_size} transitions "
                    f"in replay, learner at step {status.learner_steps}"
                )

    def _done(self) -> float:
        """Returns the completed share of the run by steps or minutes; 1 is the end.

        Minutes count from the start of the run. They cannot end it before the first learner step.
        """
        minutes = self._logbook.seconds / 60 if self._status.learner_steps else 0.0
        return max(
            self._status.environment_steps / self._config.max_steps,
            minutes / (self._config.max_minutes or float("inf")),
        )

    def _learn(self) -> None:
        """Starts the learner's next slice."""
        anneal = self._config.learner.agent_config.anneal_lr
        annealing = max(0.0, 1 - self._done()) if anneal else 1.0
        self._learning = self._parts.learner.learn.remote(SLICE_SECONDS, annealing)
        self._learner_patience = Patience("Learner", "the learner does not answer")

    def _scale(self) -> None:
        """Reads a request for another number of actors, and asks the autoscaler for resources."""
        pool, status = self._parts.pool, self._status
        wanted = scale.take_request(self._folder)
        if wanted is not None and wanted != pool.wanted:
            self._progress.say(f"scaling from {pool.wanted} to {wanted} actors")
            pool.resize(wanted)
        status.actors_wanted, status.actors_running = pool.wanted, pool.running
        status.actors_placed = pool.placed
        status.actors_pending = pool.wanted - status.actors_placed
        self._parts.autoscaler.ask(pool.wanted if status.actors_pending else 0)
        pending = status.actors_pending
        status.actors_pending_because = self._parts.autoscaler.why_pending() if pending else ""

    def _end_learning(self) -> None:
        """Receives the report of the learner's slice."""
        report: LearnReport = get_result(self._learning, "Learner", "the learner died")
        self._window.add_learnt(report)
        self._status.learner_steps = report.step
        self._status.replay_size = report.replay_size

    def _update_status(self) -> None:
        status = self._status
        inserted = [
            get_result(
                server.inserted.remote(), "ReplayServer", "the replay server does not answer"
            )
            for server in self._parts.replay.servers
        ]
        get_result(
            self._parts.parameter_server.version.remote(),
            "ParameterServer",
            "no parameters are passed on",
        )
        status.environment_steps = self._steps_before + sum(inserted)
        status.environment_steps_per_second, status.learner_steps_per_second = self._window.rates(
            status.environment_steps, status.learner_steps
        )
        self._write_status()
        self._progress.show(status, self._window.episode_return, self._window.learner_fractions())

    def _log(self) -> None:
        status = self._status
        self._write_line(
            status.environment_steps,
            status.learner_steps,
            {
                "train/environment_steps_per_second": status.environment_steps_per_second,
                "learner/steps_per_second": status.learner_steps_per_second,
                "replay/size": status.replay_size,
                **self._window.values(),
            },
        )
        self._window.begin_again(status.environment_steps, status.learner_steps)

    def _write_line(self, *line: Any) -> None:
        with self._disk.may_be_full("the logbook"):
            self._logbook.write(*line)

    # --- Checkpoints and evaluation -----------------------------------------------------

    def _save(self) -> ray.ObjectRef:
        """Saves a checkpoint with all data for its evaluation; returns a reference to it."""
        self._journaling.begin()
        packed = self._parts.learner.checkpoint.remote(
            {
                "environment_steps": self._status.environment_steps,
                "config": to_json(self._config),
                "songs": [song.to_json() for song in self._repertoire.songs],
            },
        )
        saved = get_result(packed, "Learner", "the learner gave no checkpoint")
        self._saved_at = time.monotonic()
        with self._disk.may_be_full("checkpoints"):
            saved.write(self._folder.checkpoints)
            self._failures = 0
        checkpoint.remove_all_but_newest(
            self._folder.checkpoints, _CHECKPOINTS_KEPT, run.best_checkpoint(self._folder)
        )
        return packed

    def _begin_evaluation(self) -> None:
        """Saves a checkpoint and starts its evaluation, which runs in parallel with training."""
        self._evaluation = self._parts.evaluator.evaluate.remote(
            self._save(), self._config.eval_episodes
        )
        self._evaluation_since = time.monotonic()

    def _end_evaluation(self, seconds: float, last: bool = False) -> None:
        """Waits `seconds` for the evaluation and processes its result.

        An evaluation that fails or takes too long leads to a new evaluator.
        """
        if self._evaluation is None:
            return
        waited = time.monotonic() - self._evaluation_since + seconds
        if not ray.wait([self._evaluation], timeout=seconds)[0] and waited < _EVALUATION_SECONDS:
            return
        try:
            evaluation: Evaluation = get_result(
                self._evaluation, "Evaluator", "an evaluation failed"
            )
        except PartFailed as failure:
            self._replace_evaluator(failure)
            return
        self._evaluation = None
        record = last or self._evaluations % self._config.record_every == 0
        self._evaluations += 1
        with self._disk.may_be_full("evaluations"):
            self._take(evaluation, record)

    def _replace_evaluator(self, failure: PartFailed) -> None:
        """Replaces the evaluator and drops its pending work, while training continues."""
        self._progress.say(f"the evaluator is replaced: {failure}")
        self._parts.replace_evaluator()
        self._evaluation = None
        self._recordings.drop()

    def _take(self, evaluation: Evaluation, record: bool) -> None:
        folder = evaluation.write(self._folder.evaluations)
        if record:
            self._recordings.begin(self._parts.evaluator, evaluation, folder)
        values = evaluation.metrics
        self._status.note_f1 = values["note_f1"]
        self._result["metrics"] = values
        self._write_line(
            evaluation.environment_steps,
            evaluation.learner_steps,
            {f"eval/{name}": value for name, value in values.items()},
        )
        self._progress.say(
            f"evaluation at {evaluation.environment_steps} steps: "
            f"note F1 {values['note_f1']:.2f}, frame F1 {values['f1']:.2f}, "
            f"return {values['episode_return']:.1f}"
        )

    def _end_recordings(self, seconds: float) -> None:
        """Waits at most `seconds` for all recordings, and writes those that are ready."""
        try:
            self._recordings.end(seconds)
        except PartFailed as failure:
            self._replace_evaluator(failure)

    # --- End ----------------------------------------------------------------------------

    def _finish(self) -> None:
        """Saves the final policy and, unless a signal ended the training, evaluates it."""
        self._parts.pool.stop()
        self._status.actors_placed = self._status.actors_running = 0
        self._status.actors_pending = 0
        self._end_learning()
        self._update_status()
        if self._status.learner_steps and self._stop_signal:
            self._save()
        elif self._status.learner_steps:
            self._set_state("evaluating")
            self._end_evaluation(_EVALUATION_SECONDS)
            self._begin_evaluation()
            self._end_evaluation(_EVALUATION_SECONDS, last=True)
            self._end_recordings(_EVALUATION_SECONDS)
        self._log()
        self._journaling.finish()

    def _set_state(self, state: str) -> None:
        self._status.state = self._result["state"] = state
        self._write_status()

    def _write_status(self) -> None:
        with self._disk.may_be_full("the status"):
            self._status.write(self._folder.status)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handles ending signals: the first saves a checkpoint, the second ends immediately."""

        def stop(number: int, _frame: Any) -> None:
            self._stop_signal = number
            terminal.let_go(number)
            saves = ": saving a checkpoint (again to leave at once)" if self._has_started else ""
            self._progress.say(f"stopping{saves}")
            for other in before:
                signal.signal(other, terminal.end)

        before = {number: signal.signal(number, stop) for number in terminal.ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _StallWatch:
    """Measures the seconds since a count last changed."""

    def __init__(self) -> None:
        self._counts: tuple[int, ...] = ()

    def seconds(self, *counts: int) -> float:
        if counts != self._counts:
            self._counts, self._moved = counts, time.monotonic()
        return time.monotonic() - self._moved


def _next_multiple(steps: int, interval: int) -> int:
    return (steps // interval + 1) * interval
