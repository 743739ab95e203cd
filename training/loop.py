"""The training loop of one set of parts: gives them their slices and watches over them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray

from common.waiting import Patience, get_result
from learner.learner import LearnReport
from piano.repertoire import Repertoire
from training import resume, scale
from training.active_run import ActiveRun
from training.config import TrainConfig, to_json
from training.disk import Disk
from training.evaluations import Evaluations
from training.journaling import Journaling
from training.metrics_window import MetricsWindow
from training.parts import SLICE_SECONDS, Parts
from training.progress import Progress
from training.saver import Saver
from training.stop_signals import StopSignals

_STALL_SECONDS = 120.0


class _Slice(NamedTuple):
    """A slice of the learner's work that is under way."""

    report: ray.ObjectRef
    patience: Patience


class TrainingLoop:
    """Trains with running parts until the run has ended.

    Args:
        config: Settings of the run.
        repertoire: Songs to play.
        parts: Parts of the run, which have started.
        resumed: State that the parts resumed from.
        active: Run that keeps status, logbook and evaluations.
        disk: Disk of the run's folder.
        progress: Progress on the terminal.
        stop_signals: Signals that end the loop.
    """

    def __init__(
        self,
        config: TrainConfig,
        repertoire: Repertoire,
        parts: Parts,
        resumed: resume.Resumed,
        active: ActiveRun,
        disk: Disk,
        progress: Progress,
        stop_signals: StopSignals,
    ):
        self._config = config
        self._parts = parts
        self._active = active
        self._status = active.status
        self._progress = progress
        self._stop_signals = stop_signals
        self._steps_before = resumed.environment_steps
        self._journaling = Journaling(
            parts.replay.servers,
            active.folder.replay,
            config.replay.most_kept,
            resumed.environment_steps,
            disk.may_be_full,
        )
        description = {
            "config": to_json(config),
            "songs": [song.to_json() for song in repertoire.songs],
        }
        self._saver = Saver(active.folder, parts.learner, self._journaling, disk, description)
        self._evaluations = Evaluations(config, parts, active, progress.say)
        self._window = MetricsWindow(self._status.environment_steps, self._status.learner_steps)
        self._slice = self._begin_slice()

    @property
    def has_saved(self) -> bool:
        """Whether the loop has written a checkpoint."""
        return self._saver.has_saved

    def result(self) -> dict[str, Any]:
        """Returns the results of the newest evaluation; see `Evaluations.result`."""
        return self._evaluations.result()

    def train(self, on_first_step: Callable[[], None]) -> None:
        """Trains until the run has all its steps or minutes, or a signal ends it.

        Args:
            on_first_step: Function that is called when the parts have begun to train.

        Raises:
            PartFailed: A part died that cannot be replaced alone.
            UnhealthyStep: A learner step had invalid numbers.
        """
        config, status = self._config, self._status
        next_log = _next_multiple(status.environment_steps, config.log_interval)
        next_evaluation = _next_multiple(status.environment_steps, config.eval_interval)
        stall = _StallWatch()
        while self._done() < 1 and not self._stop_signals.received():
            ray.wait([*self._parts.pool.futures, self._slice.report], timeout=SLICE_SECONDS)
            self._window.add_collected(self._parts.pool.reports(), status.learner_steps)
            if ray.wait([self._slice.report], timeout=0)[0]:
                self._end_slice()
                self._slice = self._begin_slice()
            else:
                self._slice.patience.look()
            self._scale()
            self._update_status()
            if status.state == "starting" and status.environment_steps:
                self._active.set_state("training")
                on_first_step()
            if status.environment_steps >= next_log:
                next_log = _next_multiple(status.environment_steps, config.log_interval)
                self._log()
            self._evaluations.look()
            self._journaling.look(status.environment_steps)
            if status.environment_steps >= next_evaluation and status.learner_steps:
                next_evaluation = _next_multiple(status.environment_steps, config.eval_interval)
                if not self._evaluations.is_pending:
                    self._evaluations.begin(self._save())
            elif self._saver.is_due and status.learner_steps:
                self._save()
            if stall.seconds(status.environment_steps, status.learner_steps) > _STALL_SECONDS:
                stall = _StallWatch()
                self._progress.say(
                    f"no step for {_STALL_SECONDS:.0f} s: {status.actors_running} of "
                    f"{status.actors_wanted} actors running, {status.replay_size} transitions "
                    f"in replay, learner at step {status.learner_steps}"
                )

    def finish(self) -> None:
        """Saves the final policy and, unless a signal ended the training, evaluates it."""
        status = self._status
        self._parts.pool.stop()
        status.actors_placed = status.actors_running = status.actors_pending = 0
        self._end_slice()
        self._update_status()
        if status.learner_steps and self._stop_signals.received():
            self._save()
        elif status.learner_steps:
            self._active.set_state("evaluating")
            self._evaluations.finish(self._save)
        self._log()
        self._journaling.finish()

    def _done(self) -> float:
        """Returns the completed share of the run by steps or minutes; 1 is the end.

        Minutes count from the start of the run. They cannot end it before the first learner step.
        """
        minutes = self._active.logbook.seconds / 60 if self._status.learner_steps else 0.0
        return max(
            self._status.environment_steps / self._config.max_steps,
            minutes / (self._config.max_minutes or float("inf")),
        )

    def _begin_slice(self) -> _Slice:
        anneal = self._config.learner.agent_config.anneal_lr
        annealing = max(0.0, 1 - self._done()) if anneal else 1.0
        return _Slice(
            self._parts.learner.learn.remote(SLICE_SECONDS, annealing),
            Patience("Learner", "the learner does not answer"),
        )

    def _end_slice(self) -> None:
        """Receives the report of the learner's slice."""
        report: LearnReport = get_result(self._slice.report, "Learner", "the learner died")
        self._window.add_learnt(report)
        self._status.learner_steps = report.step
        self._status.replay_size = report.replay_size

    def _scale(self) -> None:
        """Reads a request for another number of actors, and asks the autoscaler for resources."""
        pool, status = self._parts.pool, self._status
        wanted = scale.take_request(self._active.folder)
        if wanted is not None and wanted != pool.wanted:
            self._progress.say(f"scaling from {pool.wanted} to {wanted} actors")
            pool.resize(wanted)
        status.actors_wanted, status.actors_running = pool.wanted, pool.running
        status.actors_placed = pool.placed
        status.actors_pending = pool.wanted - status.actors_placed
        self._parts.autoscaler.ask(pool.wanted if status.actors_pending else 0)
        pending = status.actors_pending
        status.actors_pending_because = self._parts.autoscaler.why_pending() if pending else ""

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
        self._active.write_status()
        self._progress.show(status, self._window.episode_return, self._window.learner_fractions())

    def _log(self) -> None:
        status = self._status
        steps = status.environment_steps, status.learner_steps
        rates = {
            "train/environment_steps_per_second": status.environment_steps_per_second,
            "learner/steps_per_second": status.learner_steps_per_second,
            "replay/size": status.replay_size,
        }
        self._active.log(*steps, rates | self._window.values())
        self._window.begin_again(*steps)

    def _save(self) -> ray.ObjectRef:
        return self._saver.save(self._status.environment_steps)


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
