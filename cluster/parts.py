"""The parts of a training run, each a Ray actor, and how they are started and asked."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import psutil
import ray

from actors.actor import Actor
from actors.evaluator import Evaluator
from actors.piano_model import PianoModel
from actors.pool import ActorPool
from actors.repertoire import Repertoire
from cluster.config import TrainConfig
from cluster.placement import placement
from cluster.run import RunFolder
from cluster.scale import Autoscaler
from learner.cores import shared_out
from learner.learner import Learner
from learner.parameters import ParameterServer
from replay.client import Replay
from replay.config import ReplayConfig
from replay.errors import BadInput
from replay.server import ReplayServer

SLICE_SECONDS = 1.0
_START_SECONDS = 180.0
_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 10.0
# As Ray names their processes. Ray's own helpers are named alike, and go with Ray itself.
_PROCESSES = tuple(
    f"ray::{part.__name__}" for part in (ReplayServer, ParameterServer, Evaluator, Learner, Actor)
)
_NICENESS = 10  # The evaluator gives way to actors and learner.


@dataclasses.dataclass
class Parts:
    """Handles of the Ray actors that make up a run."""

    replay: Replay
    """To the replay."""
    parameter_server: Any
    learner: Any
    evaluator: Any
    pool: ActorPool
    autoscaler: Autoscaler

    def stop(self) -> None:
        """Ends all parts, and waits until those of this machine are gone."""
        self.pool.stop()
        self.autoscaler.ask(0)
        for handle in (self.evaluator, self.learner, self.parameter_server, self.replay.server):
            ray.kill(handle)
        deadline = time.monotonic() + _STOP_SECONDS
        while _ray_actors_of_this_process() and time.monotonic() < deadline:
            time.sleep(0.1)


def start(
    config: TrainConfig,
    repertoire: Repertoire,
    folder: RunFolder,
    on_cluster: bool,
    announce: Callable[[str], None],
) -> Parts:
    """Starts every part of a run and waits until learner and evaluator are ready.

    Args:
        config: of the run.
        repertoire: to be played.
        folder: of the run.
        on_cluster: whether Ray is a cluster's, not our own.
        announce: takes lines for people.

    Raises:
        RuntimeError: a part did not start.
    """
    piano = repertoire.piano(0)
    layout = piano.layout
    where = placement(on_cluster, config.platform)
    replay = start_replay(config.replay, piano, folder.replay, **where.beside_learner)
    if not replay.address and config.replay.replay == "auto":
        announce(
            "Reverb is not installed here (it has wheels for Linux on x86-64 only): transitions "
            "are kept in the replay server's memory"
        )
    learner_cores, actor_cores = _cores(config, on_cluster)
    parameter_server = remote(ParameterServer, **where.beside_learner).remote()
    shared_repertoire = ray.put(repertoire)
    evaluator = remote(Evaluator, **where.beside_learner).remote(
        shared_repertoire,
        config.learner.agent_config,
        _NICENESS,
    )
    learner = remote(Learner, **where.learner).remote(
        config.learner,
        layout,
        repertoire.table,
        piano.action_dim,
        config.seed,
        replay,
        config.replay.batch_size,
        parameter_server,
    )
    actor_class = remote(Actor, **where.actor)

    def start_actor(number: int) -> Any:
        return actor_class.remote(
            shared_repertoire,
            config.learner.agent_config,
            config.actor.environments_per_actor,
            number,
            config.seed,
            replay,
            parameter_server,
            actor_cores,
        )

    pool = ActorPool(start_actor, config.actor.actors, SLICE_SECONDS, announce)
    device = answer(
        learner.start.remote(learner_cores), "the learner did not start", _START_SECONDS
    )
    missing = answer(
        evaluator.what_is_missing.remote(), "the evaluator did not start", _START_SECONDS
    )
    announce(
        f"learner on {device}, {config.actor.actors} actor(s) with "
        f"{config.actor.environments_per_actor} environment(s) each"
    )
    for line in missing:
        announce(line)
    autoscaler = Autoscaler(where, on_cluster)
    return Parts(replay, parameter_server, learner, evaluator, pool, autoscaler)


def _cores(config: TrainConfig, on_cluster: bool) -> tuple[list[int], list[int]]:
    """Cores of learner and actors; none where they do not fight over them.

    Where a ratio is held, whoever lags gets all: the other side waits for it.
    """
    learns_on_cpu = config.platform == "cpu" or not ray.cluster_resources().get("GPU")
    if on_cluster or config.replay.ratio is not None or not learns_on_cpu:
        return [], []
    return shared_out()


def start_replay(
    config: ReplayConfig, piano: PianoModel, folder: pathlib.Path, **options: Any
) -> Replay:
    """Starts a replay server for transitions of a piano.

    Args:
        config: of the server.
        piano: that is played.
        folder: for Reverb's own files.
        options: of its Ray actor.

    Raises:
        RuntimeError: it did not start.
    """
    server = remote(ReplayServer, **options, max_concurrency=ReplayServer.CALLS_AT_ONCE).remote(
        config,
        (piano.layout.frames, piano.layout.proprioception_dim),
        piano.action_dim,
        folder,
    )
    address = answer(server.address.remote(), "the replay server did not start", _START_SECONDS)
    return Replay(server, address)


def answer(future: ray.ObjectRef, what: str, seconds: float = _ANSWER_SECONDS) -> Any:
    """The future's value.

    Args:
        future: of a call of a part.
        what: is wrong, if there is none.
        seconds: to wait at most.

    Raises:
        RuntimeError: saying `what`, if there is no value in time or the part failed or died.
        BadInput: raised by the part.
    """
    try:
        return ray.get(future, timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BadInput):
            raise error.cause from None
        raise RuntimeError(f"{what}: {error.cause!r}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise RuntimeError(f"{what}: no answer within {seconds:.0f} s") from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"{what}: {str(error).strip().splitlines()[0]}") from error


def remote(what: Any, **options: Any) -> Any:
    """`ray.remote`, which mypy cannot follow."""
    return ray.remote(**options)(what)


def _ray_actors_of_this_process() -> list[psutil.Process]:
    """Ray actors below this process that still run; none where Ray is a cluster elsewhere."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            is_part = process.name().startswith(_PROCESSES)
            if is_part and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive
