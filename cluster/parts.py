"""The parts of a training run, each a Ray actor, and how they are started and asked."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
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
from cluster.resume import NOTHING, Resumed
from cluster.scale import Autoscaler
from learner.cores import shared_out
from learner.learner import Learner, UnhealthyStep
from learner.parameters import ParameterServer
from replay import journal
from replay.client import Replay
from replay.config import ReplayConfig
from replay.errors import BadInput
from replay.files import PackedFolder
from replay.server import ReplayServer

SLICE_SECONDS = 1.0
_START_SECONDS = 180.0
ANSWER_SECONDS = 60.0
_STOP_SECONDS = 10.0
# As Ray names their processes. Ray's own helpers are named alike, and go with Ray itself.
_PROCESSES = tuple(
    f"ray::{part.__name__}" for part in (ReplayServer, ParameterServer, Evaluator, Learner, Actor)
)
_NICENESS = 10  # The evaluator gives way to actors and learner.


class PartFailed(RuntimeError):
    """A part died, or does not answer."""


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
    _start_evaluator: Callable[[], Any]

    def replace_evaluator(self) -> None:
        """Ends the evaluator, and starts another."""
        ray.kill(self.evaluator)
        self.evaluator = self._start_evaluator()


@contextlib.contextmanager
def running(
    config: TrainConfig,
    repertoire: Repertoire,
    on_cluster: bool,
    announce: Callable[[str], None],
    resumed: Resumed = NOTHING,
) -> Iterator[Parts]:
    """Starts every part of a run, waits until learner and evaluator are ready; ends all of them.

    Args:
        config: of the run.
        repertoire: to be played.
        on_cluster: whether Ray is a cluster's, not our own.
        announce: takes lines for people.
        resumed: what they go on with, if anything.

    Raises:
        PartFailed: a part did not start.
        BadInput: the checkpoint does not fit the configuration, or what is wanted is not there.
    """
    with contextlib.ExitStack() as started:
        started.callback(_wait_until_gone)
        yield _start(config, repertoire, on_cluster, announce, resumed, started)


def _start(
    config: TrainConfig,
    repertoire: Repertoire,
    on_cluster: bool,
    announce: Callable[[str], None],
    resumed: Resumed,
    started: contextlib.ExitStack,
) -> Parts:
    piano = repertoire.piano(0)
    layout = piano.layout
    where = placement(on_cluster, config.platform)

    def part(cls: type, options: dict[str, Any], *arguments: Any) -> Any:
        handle = remote(cls, **options).remote(*arguments)
        started.callback(ray.kill, handle)
        return handle

    server = part(
        ReplayServer,
        where.beside_learner | {"max_concurrency": ReplayServer.CALLS_AT_ONCE},
        *_replay_arguments(config.replay, piano),
        resumed.environment_steps,
        journal.count(resumed.journal),
    )
    replay = _connect(server)
    if not replay.address and config.replay.replay == "auto":
        announce(
            "Reverb is not installed here (it has wheels for Linux on x86-64 only): transitions "
            "are kept in the replay server's memory"
        )
    learner_cores, actor_cores = _cores(config, on_cluster)
    parameter_server = part(ParameterServer, where.beside_learner)
    shared_repertoire = ray.put(repertoire)

    def start_evaluator() -> Any:
        agent_config = config.learner.agent_config
        return part(Evaluator, where.beside_learner, shared_repertoire, agent_config, _NICENESS)

    evaluator = start_evaluator()
    learner = part(
        Learner,
        where.learner,
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

    # Before anybody plays: what is played might leave no room for it.
    for path in resumed.journal:
        restored = replay.server.restore.remote(PackedFolder.pack(path))
        answer(restored, "the replay was not restored", _START_SECONDS)
    learning = learner.start.remote(learner_cores, resumed.checkpoint)
    if resumed.checkpoint is not None:  # Until it has published its policy actors act at random.
        ray.wait([learning], timeout=_START_SECONDS)
    pool = ActorPool(start_actor, config.actor.actors, SLICE_SECONDS, announce)
    started.callback(pool.stop)
    autoscaler = Autoscaler(where, on_cluster)
    started.callback(autoscaler.ask, 0)
    device = answer(learning, "the learner did not start", _START_SECONDS)
    missing = answer(
        evaluator.what_is_missing.remote(), "the evaluator did not start", _START_SECONDS
    )
    announce(
        f"learner on {device}, {config.actor.actors} actor(s) with "
        f"{config.actor.environments_per_actor} environment(s) each"
    )
    for line in missing:
        announce(line)
    return Parts(replay, parameter_server, learner, evaluator, pool, autoscaler, start_evaluator)


def _cores(config: TrainConfig, on_cluster: bool) -> tuple[list[int], list[int]]:
    """Cores of learner and actors; none where they do not fight over them.

    Where a ratio is held, whoever lags gets all: the other side waits for it.
    """
    learns_on_cpu = config.platform == "cpu" or not ray.cluster_resources().get("GPU")
    if on_cluster or config.replay.ratio is not None or not learns_on_cpu:
        return [], []
    return shared_out()


def start_replay(config: ReplayConfig, piano: PianoModel) -> Replay:
    """Starts an empty replay server for transitions of a piano.

    Args:
        config: of the server.
        piano: that is played.

    Raises:
        PartFailed: it did not start.
    """
    options = {"num_cpus": 0, "max_concurrency": ReplayServer.CALLS_AT_ONCE}
    return _connect(remote(ReplayServer, **options).remote(*_replay_arguments(config, piano)))


def _replay_arguments(config: ReplayConfig, piano: PianoModel) -> tuple[Any, ...]:
    layout = piano.layout
    return config, (layout.frames, layout.proprioception_dim), piano.action_dim


def _connect(server: Any) -> Replay:
    address = answer(server.address.remote(), "the replay server did not start", _START_SECONDS)
    return Replay(server, address)


def answer(future: ray.ObjectRef, what: str, seconds: float = ANSWER_SECONDS) -> Any:
    """The future's value.

    Args:
        future: of a call of a part.
        what: is wrong, if there is none.
        seconds: to wait at most.

    Raises:
        PartFailed: saying `what`, if there is no value in time or the part failed or died.
        BadInput: raised by the part.
        UnhealthyStep: raised by the learner.
    """
    try:
        return ray.get(future, timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BadInput | UnhealthyStep):
            raise error.cause from None
        raise PartFailed(f"{what}: {error.cause!r}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise PartFailed(f"{what}: no answer within {seconds:.0f} s") from error
    except ray.exceptions.RayError as error:
        raise PartFailed(f"{what}: {str(error).strip().splitlines()[0]}") from error


def remote(what: Any, **options: Any) -> Any:
    """`ray.remote`, which mypy cannot follow."""
    return ray.remote(**options)(what)


def _wait_until_gone() -> None:
    """Waits until the parts on this machine are gone, and ends at last those that do not go."""
    deadline = time.monotonic() + _STOP_SECONDS
    while (left := _ray_actors_of_this_process()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


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
