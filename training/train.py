"""The training run: starts its parts, and starts them again after a failure.

Actors and learner work in slices of about a second and then report. `training.loop` gives them the
next slice. Therefore only the loop decides when training ends, it notices the death of a part
within a slice, and every wait has a time limit.

The pool replaces an actor that dies, and `training.evaluations` replaces an evaluator. If another
part dies or the learner's numbers become invalid, all parts restart from the last checkpoint and
the replay's journal, as in a resumed run.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import safetensors.numpy

from common import ray_session
from common.cores import actors_here
from common.errors import OutOfMemory, PartFailed
from common.files import write_files
from common.health import UnhealthyStep
from common.waiting import Stopped, said_if_long
from learner import checkpoint
from learner.device import gpu_is_here
from piano.repertoire import Repertoire
from piano.song import load_songs
from training import parts, resume, run
from training.active_run import ActiveRun
from training.config import TrainConfig
from training.disk import Disk
from training.logbook import Logbook
from training.loop import TrainingLoop
from training.memory import MemoryWait, needed_by
from training.placement import placement
from training.progress import Progress
from training.sizes import require_room
from training.stop_signals import StopSignals

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
        folder.location.uploaded(),
        ray_session.connect(address, folder.process_logs),
        contextlib.closing(Logbook(folder, config)) as logbook,
    ):
        on_cluster = address is not None
        actors = _number_of_actors(config, on_cluster)
        training = _Training(config, actors, repertoire, folder, progress, logbook, on_cluster)
        return training.run(write_report)


def _number_of_actors(config: TrainConfig, on_cluster: bool) -> int:
    if config.actor.actors != "auto":
        return config.actor.actors
    if on_cluster:
        return placement(on_cluster, config.platform).actors_beside_learner()
    return actors_here(learns_on_cpu=not gpu_is_here(config.platform))


class _Training:
    """One run: its attempts to train, each with parts of its own."""

    def __init__(
        self,
        config: TrainConfig,
        actors: int,
        repertoire: Repertoire,
        folder: run.RunFolder,
        progress: Progress,
        logbook: Logbook,
        on_cluster: bool,
    ):
        self._config = config
        self._repertoire = repertoire
        self._folder = folder
        self._progress = progress
        self._on_cluster = on_cluster
        self._status = run.Status(
            name=folder.name,
            kind="train",
            state="starting",
            started=time.time(),
            max_steps=config.max_steps,
            actors_wanted=actors,
        )
        self._disk = Disk(progress.say)
        self._active = ActiveRun(folder, logbook, self._status, self._disk.may_be_full)
        self._stop_signals = StopSignals(progress.say, lambda: self._loop is not None)
        self._memory = MemoryWait(
            None if on_cluster else needed_by(actors), progress.say, self._stop_signals.received
        )
        self._loop: TrainingLoop | None = None
        self._failures = self._unhealthy = 0
        self._evaluated: dict[str, Any] = {}

    def run(self, write_report: Callable[[pathlib.Path], pathlib.Path]) -> dict[str, Any]:
        """Trains until the run has ended; see `train`."""
        # This reads the status of a resumed run before it is overwritten.
        resumed = self._find_whole() if self._config.resume else resume.NOTHING
        self._active.set_state("starting")
        try:
            with self._stop_signals.handled():
                while not self._attempt(resumed):
                    resumed = self._find_whole()
        except BaseException:
            self._active.set_state("failed")
            if checkpoint.list_checkpoints(self._folder.checkpoints):
                self._progress.say(f"resume it with: {self._resume_command}")
            raise
        return self._finish(write_report)

    def _finish(self, write_report: Callable[[pathlib.Path], pathlib.Path]) -> dict[str, Any]:
        """Writes the report, and returns the result of the run."""
        result: dict[str, Any] = {"run": self._folder.name, "folder": str(self._folder.path)}
        is_stopped = self._stop_signals.received()
        if self._loop is not None:
            with self._disk.may_be_full("the report"):
                result["report"] = str(write_report(self._folder.path))
        self._active.set_state("stopped" if is_stopped else "finished")
        result |= {
            **self._evaluated,
            "state": self._status.state,
            "environment_steps": self._status.environment_steps,
            "learner_steps": self._status.learner_steps,
            "best_checkpoint": run.best_checkpoint(self._folder),
        }
        return result | ({"to_go_on": self._resume_command} if is_stopped else {})

    def _attempt(self, resumed: resume.Resumed) -> bool:
        """Starts the parts from a saved state and trains; returns whether the run has ended.

        Raises:
            PartFailed: Parts failed too often.
            UnhealthyStep: Learner steps had invalid numbers too often.
        """
        self._loop = None
        try:
            with parts.running(
                self._config,
                self._status.actors_wanted,
                self._repertoire,
                self._on_cluster,
                self._progress.say,
                resumed,
                stopping=self._stop_signals.received,
            ) as running:
                self._loop = TrainingLoop(
                    self._config,
                    self._repertoire,
                    running,
                    resumed,
                    self._active,
                    self._disk,
                    self._progress,
                    self._stop_signals,
                )
                self._train(self._loop)
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
        self._active.set_state("starting")
        # After a stop signal the run does not restart its parts, because its state is saved.
        return self._stop_signals.received()

    def _train(self, loop: TrainingLoop) -> None:
        try:
            loop.train(on_first_step=self._memory.trains)
            loop.finish()
        finally:
            self._evaluated |= loop.result()
            if loop.has_saved:
                self._failures = 0

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
            known = run.read_status(self._folder).environment_steps
        resumed, damaged = resume.find(self._folder, self._config.replay.most_kept, known)
        for line in damaged:
            self._progress.say(f"{line}: the one before is taken")
        self._progress.say(f"resuming from {resumed}")
        self._status.environment_steps = resumed.environment_steps
        self._status.learner_steps = resumed.learner_steps
        return resumed

    @property
    def _resume_command(self) -> str:
        return f"pianist train --resume {self._folder.url or self._folder.path}"

    def _keep_for_study(self, step: UnhealthyStep) -> None:
        with self._disk.may_be_full("what is to be studied"):
            content = safetensors.numpy.save({"batch": step.batch})
            write_files(self._folder.unhealthy, {f"step_{step.step:09d}.safetensors": content})
