"""The training run: keeps every part at work, and decides when it ends.

Actors, learner and evaluator work in slices of about a second and report; this loop gives
them the next slice. So it alone decides when training ends, it notices within a slice what
has died, and nobody waits for anybody without a time limit.
"""

import contextlib
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import ray

from actors.evaluator import Evaluation
from actors.repertoire import Repertoire
from actors.song import load_songs
from cluster import parts, ray_session, run, scale
from cluster.config import TrainConfig, to_json
from cluster.interval import Interval
from cluster.logbook import Logbook
from cluster.parts import SLICE_SECONDS, answer
from cluster.progress import Progress
from cluster.report.page import write_report
from learner import checkpoint
from learner.learner import LearnReport
from replay.files import paths_of, write_files

_EVALUATION_SECONDS = 1800.0
_STALL_SECONDS = 120.0
_CHECKPOINTS_KEPT = 5


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, evaluates and reports.

    Returns:
        The run's name, folder and state ("finished" or "stopped"), step counts, and the last
        evaluation's metrics and files.

    Raises:
        BadInput: song, name or flags cannot be used; nothing has been started or written.
        RuntimeError: a part died that cannot be replaced.
    """
    repertoire = Repertoire(load_songs(config.song), config.environment)
    address = ray_session.cluster_address()
    folder = run.create(config, "SAC", repertoire)
    progress = Progress(config.max_steps, config.max_minutes, config.tqdm_bar)
    progress.say(f"{repertoire.title}; run {folder.path}")
    for line in [line for song in repertoire.songs for line in song.mended]:
        progress.say(line)
    with (
        contextlib.closing(progress),
        folder.place.uploaded(),
        ray_session.connect(address, folder.process_logs),
        contextlib.closing(Logbook(folder, config)) as logbook,
    ):
        run_ = _TrainingRun(config, repertoire, folder, progress, logbook)
        return run_.train(on_cluster=address is not None)


class _TrainingRun:
    """One run: its counts, and the loop that keeps its parts at work."""

    def __init__(
        self,
        config: TrainConfig,
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
            actors_wanted=config.actor.actors,
        )
        self._interval = Interval()
        self._stop_signal = 0
        self._evaluation: ray.ObjectRef | None = None
        self._recordings: dict[ray.ObjectRef, _Recording] = {}
        self._result: dict[str, Any] = {"run": folder.name, "folder": str(folder.path)}

    def train(self, on_cluster: bool) -> dict[str, Any]:
        self._set_state("starting")
        try:
            with self._signals():
                self._parts = parts.start(
                    self._config, self._repertoire, self._folder, on_cluster, self._progress.say
                )
                try:
                    self._loop()
                    self._finish()
                finally:
                    self._parts.autoscaler.ask(0)
        except BaseException:
            self._set_state("failed")
            raise
        return self._result

    # --- Training -----------------------------------------------------------------------

    def _loop(self) -> None:
        config, status = self._config, self._status
        self._learn()
        next_log, next_evaluation = config.log_interval, config.eval_interval
        stall = _StallWatch()
        while self._done() < 1 and not self._stop_signal:
            ray.wait([*self._parts.pool.futures, self._learning], timeout=SLICE_SECONDS)
            self._interval.add_collected(self._parts.pool.reports(), status.learner_steps)
            if ray.wait([self._learning], timeout=0)[0]:
                self._end_learning()
                self._learn()
            self._scale()
            self._update_status()
            if status.state == "starting" and status.environment_steps:
                self._set_state("training")
            if status.environment_steps >= next_log:
                next_log = _next_multiple(status.environment_steps, config.log_interval)
                self._log()
            self._end_evaluation(seconds=0)
            self._end_recordings(seconds=0)
            if status.environment_steps >= next_evaluation and status.learner_steps:
                next_evaluation = _next_multiple(status.environment_steps, config.eval_interval)
                if self._evaluation is None:
                    self._begin_evaluation()
            if stall.seconds(status.environment_steps, status.learner_steps) > _STALL_SECONDS:
                stall = _StallWatch()
                self._progress.say(
                    f"no step for {_STALL_SECONDS:.0f} s: {status.actors_running} of "
                    f"{status.actors_wanted} actors running, {status.replay_size} transitions "
                    f"in replay, learner at step {status.learner_steps}"
                )

    def _done(self) -> float:
        """How much of the run is over, by its steps or its minutes: 1 is its end."""
        minutes = self._logbook.seconds / 60
        return max(
            self._status.environment_steps / self._config.max_steps,
            minutes / (self._config.max_minutes or float("inf")),
        )

    def _learn(self) -> None:
        """Begins the learner's next slice."""
        anneal = self._config.learner.agent_config.anneal_lr
        annealing = max(0.0, 1 - self._done()) if anneal else 1.0
        self._learning = self._parts.learner.learn.remote(SLICE_SECONDS, annealing)

    def _scale(self) -> None:
        """Takes notice of another number of actors that is wanted, and gets them a place."""
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
        """Takes the report of the learner's slice."""
        report: LearnReport = answer(self._learning, "the learner died")
        self._interval.add_learnt(report)
        self._status.learner_steps = report.step

    def _update_status(self) -> None:
        counts = answer(
            self._parts.replay.server.counts.remote(), "the replay server does not answer"
        )
        status = self._status
        status.environment_steps = counts["inserted"]
        status.replay_size = counts["size"]
        status.environment_steps_per_second, status.updates_per_second = self._interval.rates(
            status.environment_steps, status.learner_steps
        )
        status.write(self._folder.status)
        self._progress.show(
            status, self._interval.episode_return, self._interval.learner_fractions()
        )

    def _log(self) -> None:
        status = self._status
        self._logbook.write(
            status.environment_steps,
            status.learner_steps,
            {
                "train/environment_steps_per_second": status.environment_steps_per_second,
                "learner/updates_per_second": status.updates_per_second,
                "replay/size": status.replay_size,
                **self._interval.values(),
            },
        )
        self._interval.begin_again(status.environment_steps, status.learner_steps)

    # --- Checkpoints and evaluation -----------------------------------------------------

    def _save(self) -> ray.ObjectRef:
        """Saves a checkpoint, which holds all that its evaluation needs; returns it, packed."""
        packed = self._parts.learner.checkpoint.remote(
            {
                "environment_steps": self._status.environment_steps,
                "config": to_json(self._config),
                "songs": [song.to_json() for song in self._repertoire.songs],
            },
        )
        answer(packed, "the learner gave no checkpoint").write(self._folder.checkpoints)
        checkpoint.remove_all_but_newest(self._folder.checkpoints, _CHECKPOINTS_KEPT)
        return packed

    def _begin_evaluation(self) -> None:
        """Has a checkpoint saved, and played by the evaluator beside the training."""
        self._evaluation = self._parts.evaluator.evaluate.remote(
            self._save(), self._config.eval_episodes
        )

    def _end_evaluation(self, seconds: float) -> None:
        """Takes what the evaluator has to report, waiting `seconds` for it."""
        if self._evaluation is None or not ray.wait([self._evaluation], timeout=seconds)[0]:
            return
        evaluation: Evaluation = answer(self._evaluation, "the evaluation failed")
        self._evaluation = None
        folder = evaluation.write(self._folder.evaluations)
        for number, song in enumerate(evaluation.songs):
            future = self._parts.evaluator.record.remote(
                number, song.performance, self._config.recording
            )
            self._recordings[future] = _Recording(
                folder, folder / song.place, evaluation.environment_steps
            )
        values = evaluation.metrics
        self._status.note_f1 = values["note_f1"]
        self._result["metrics"] = values
        self._logbook.write(
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
        """Takes the recordings that are ready, waiting `seconds` for all of them."""
        if not self._recordings:
            return
        pending = list(self._recordings)
        for future in ray.wait(pending, num_returns=len(pending), timeout=seconds)[0]:
            recording = self._recordings.pop(future)
            write_files(recording.folder, answer(future, "the recording failed"))
            self._result["files"] = paths_of(recording.evaluation)
            if all(other.evaluation != recording.evaluation for other in self._recordings.values()):
                self._logbook.show_videos(recording.evaluation, recording.environment_steps)

    # --- End ----------------------------------------------------------------------------

    def _finish(self) -> None:
        """Keeps what was learnt and, unless a signal ended the training, plays it."""
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
            self._end_evaluation(_EVALUATION_SECONDS)
            self._end_recordings(_EVALUATION_SECONDS)
        self._log()
        self._parts.stop()
        self._result["report"] = str(write_report(self._folder.path))
        self._result["environment_steps"] = self._status.environment_steps
        self._result["learner_steps"] = self._status.learner_steps
        self._set_state("stopped" if self._stop_signal else "finished")

    def _set_state(self, state: str) -> None:
        self._status.state = self._result["state"] = state
        self._status.write(self._folder.status)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends training in good order, the second at once."""

        def stop(number: int, _frame: Any) -> None:
            self._stop_signal = number
            self._progress.say("stopping: saving a checkpoint (again to leave at once)")
            for other in before:
                signal.signal(other, signal.default_int_handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Recording(NamedTuple):
    """Sound and pictures under way."""

    evaluation: pathlib.Path
    """Folder of the evaluation."""
    folder: pathlib.Path
    """Within it, of the song."""
    environment_steps: int


class _StallWatch:
    """Seconds since a count last moved."""

    def __init__(self) -> None:
        self._counts: tuple[int, ...] = ()

    def seconds(self, *counts: int) -> float:
        if counts != self._counts:
            self._counts, self._moved = counts, time.monotonic()
        return time.monotonic() - self._moved


def _next_multiple(steps: int, interval: int) -> int:
    return (steps // interval + 1) * interval
