"""The parts of a training run, each of which is a Ray actor, and their start."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psutil
import ray

from actors.actor import Actor
from actors.evaluator import Evaluator
from actors.pool import ActorPool
from common.cores import Processors, available_cores, split_cores
from common.files import PackedFolder
from common.waiting import get_result, said_if_long, to_standard_error
from learner.device import gpu_is_here
from learner.learner import Learner, Started
from learner.parameters import ParameterServer
from piano.repertoire import Repertoire
from replay import journal
from replay.client import Replay
from replay.config import ReplayConfig
from replay.server import ReplayServer
from training.config import TrainConfig
from training.placement import placement
from training.resume import NOTHING, Resumed
from training.scale import Autoscaler

SLICE_SECONDS = 1.0
START_SECONDS = 180.0
_STOP_SECONDS = 1.0
# Ray gives these names to the processes of the parts. Ray's own helpers have similar names and
# end together with Ray.
_PROCESSES = tuple(
    f"ray::{part.__name__}" for part in (ReplayServer, ParameterServer, Evaluator, Learner, Actor)
)
_NICENESS = 10  # The evaluator yields to actors and learner.


@dataclasses.dataclass
class Parts:
    """The handles of the Ray actors that make up a run."""

    replay: Replay
    """Client of the replay servers."""
    parameter_server: Any
    learner: Any
    evaluator: Any
    pool: ActorPool
    autoscaler: Autoscaler
    _start_evaluator: Callable[[], Any]

    def replace_evaluator(self) -> None:
        """Kills the evaluator and starts a new one."""
        ray.kill(self.evaluator)
        self.evaluator = self._start_evaluator()


@contextlib.contextmanager
def running(
    config: TrainConfig,
    actors: int,
    repertoire: Repertoire,
    on_cluster: bool,
    announce: Callable[[str], None],
    resumed: Resumed = NOTHING,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Parts]:
    """Starts all parts of a run, waits for learner and evaluator, and ends the parts on exit.

    Args:
        config: Settings of the run.
        actors: Number of actors at the start.
        repertoire: Songs to play.
        on_cluster: Whether Ray runs on a cluster, rather than being started by this process.
        announce: Function that prints a line for people.
        resumed: State to resume from.
        stopping: Function that returns whether the run should stop, which aborts the start.

    Raises:
        PartFailed: A part did not start.
        Stopped: The run was stopped before all parts had started.
        BadInput: The checkpoint does not fit the settings, or a device or library that they name
            is missing.
    """
    with contextlib.ExitStack() as started:
        started.callback(_wait_until_gone)
        waiter = _Waiter(announce, stopping)
        yield _start(config, actors, repertoire, on_cluster, announce, resumed, waiter, started)


class _Waiter(NamedTuple):
    """Waits for parts to start."""

    announce: Callable[[str], None] = to_standard_error
    """Function that prints a line for people."""
    stopping: Callable[[], bool] = lambda: False
    """Function that returns whether the run should stop."""

    def get(self, future: ray.ObjectRef, part: type, what: str, waits_for: str) -> Any:
        """Returns the value of a future, with a message if it takes long.

        See `common.waiting.get_result`.
        """
        with said_if_long(waits_for, self.announce):
            return get_result(
                future,
                part.__name__,
                what,
                START_SECONDS,
                most_used=float("inf"),
                stopping=self.stopping,
            )


def _start(
    config: TrainConfig,
    actors: int,
    repertoire: Repertoire,
    on_cluster: bool,
    announce: Callable[[str], None],
    resumed: Resumed,
    waiter: _Waiter,
    started: contextlib.ExitStack,
) -> Parts:
    piano = repertoire.piano(0)
    layout = piano.layout
    where = placement(on_cluster, config.platform)

    def part(cls: type, options: dict[str, Any], *arguments: Any) -> Any:
        handle = remote(cls, **options).remote(*arguments)
        started.callback(ray.kill, handle)
        return handle

    beside_learner = where.beside_learner | {"max_concurrency": ReplayServer.CALLS_AT_ONCE}
    servers = [
        part(ReplayServer, beside_learner, config.replay)
        for _ in range(config.replay.replay_servers)
    ]
    replay = _connect(servers, waiter)
    if not all(replay.addresses) and config.replay.replay == "auto":
        announce(
            "Reverb is not installed here (it has wheels for Linux on x86-64 with Python up to "
            "3.11 only): a queue in a Ray actor takes its place"
        )
    learner_cores, actor_cores = _cores(config, on_cluster)
    # On a cluster, each actor has requested one processor.
    share = len(actor_cores or available_cores()) // max(1, actors)
    threads = 1 if on_cluster else max(1, share)
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
        config.replay,
        parameter_server,
    )
    actor_class = remote(Actor, **where.actor)

    def start_actor(number: int) -> Any:
        return actor_class.remote(
            shared_repertoire,
            config.learner.agent_config,
            config.actor.environments_per_actor,
            number,
            (config.seed, resumed.environment_steps),
            replay,
            parameter_server,
            Processors(threads, actor_cores),
        )

    learning = learner.start.remote(
        learner_cores, resumed.checkpoint, journal.count(resumed.journal)
    )
    learner_started = Learner, "the learner did not start", "the learner to start"
    if resumed.checkpoint is not None or resumed.journal:
        # Actors act at random until the learner has published its policy, and their transitions
        # could displace the restored ones.
        waiter.get(learning, *learner_started)
    for path in resumed.journal:
        restored = learner.restore.remote(PackedFolder.pack(path))
        waiter.get(restored, Learner, "the replay was not restored", "the replay to be restored")
    pool = ActorPool(start_actor, actors, SLICE_SECONDS, announce)
    started.callback(pool.stop)
    autoscaler = Autoscaler(where, on_cluster)
    started.callback(autoscaler.ask, 0)
    learns: Started = waiter.get(learning, *learner_started)
    missing = waiter.get(
        evaluator.what_is_missing.remote(),
        Evaluator,
        "the evaluator did not start",
        "the evaluator to start",
    )
    announce(
        f"learner on {learns.device} with a replay of {learns.capacity:,} transitions, {actors} "
        f"actor(s) with {config.actor.environments_per_actor} environment(s) each"
    )
    for line in missing:
        announce(line)
    return Parts(replay, parameter_server, learner, evaluator, pool, autoscaler, start_evaluator)


def _cores(config: TrainConfig, on_cluster: bool) -> tuple[list[int], list[int]]:
    """Returns the cores of learner and actors; empty lists if both may use all cores.

    If the run holds a ratio of steps, the side that is ahead waits and leaves all cores to the
    other side.
    """
    if on_cluster or config.replay.ratio is not None or gpu_is_here(config.platform):
        return [], []
    return split_cores()


def start_replay(config: ReplayConfig) -> Replay:
    """Starts empty replay servers.

    Args:
        config: Settings of the replay.

    Raises:
        PartFailed: A replay server did not start.
    """
    options = {"num_cpus": 0, "max_concurrency": ReplayServer.CALLS_AT_ONCE}
    servers = [remote(ReplayServer, **options).remote(config) for _ in range(config.replay_servers)]
    return _connect(servers, _Waiter())


def _connect(servers: list[Any], waiter: _Waiter) -> Replay:
    addresses = [
        waiter.get(
            server.address.remote(),
            ReplayServer,
            "the replay server did not start",
            "the replay server to start",
        )
        for server in servers
    ]
    return Replay(servers, addresses)


def remote(what: Any, **options: Any) -> Any:
    """Calls `ray.remote`, whose types mypy cannot follow."""
    return ray.remote(**options)(what)


def _wait_until_gone() -> None:
    """Waits until the parts on this machine have ended, and kills those that do not end."""
    deadline = time.monotonic() + _STOP_SECONDS
    for process in _ray_actors_of_this_process():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()  # A suspended process cannot end.
    while (left := _ray_actors_of_this_process()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _ray_actors_of_this_process() -> list[psutil.Process]:
    """Returns the Ray actors below this process that still run; none if Ray runs elsewhere."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            is_part = process.name().startswith(_PROCESSES)
            if is_part and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive
