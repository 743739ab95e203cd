"""Capacity of one replay server, one parameter server and one learner, by number of actors."""

import contextlib
import functools
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import psutil
import ray

from benchmarks.delivery import deliver, process_of, receiving
from benchmarks.rounds import Figures, alternate, announce, machine
from benchmarks.saturation import saturation
from benchmarks.stand_ins import MEMORY_SHARE, Group, write
from benchmarks.subscriber import Subscriber
from benchmarks.twinkle import load_repertoire, played_episode
from benchmarks.written_episode import write_episodes
from common import ray_session
from common.waiting import get_result
from learner.active_inputs import ActiveInputs
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.parameters import ParameterServer, Published
from learner.ring import Ring
from learner.sac import initial_state
from piano.repertoire import Repertoire
from replay.client import Replay
from replay.config import ReplayConfig
from replay.packing import packed_size
from training.parts import remote, start_replay

_ENVIRONMENTS = 4
_CONFIG = ReplayConfig(
    replay="reverb", update_to_data_ratio="free", warmstart_steps=1_000, replay_capacity=100_000
)
_SUBSCRIBER_BYTES = 150_000_000  # Memory of a Ray worker with only Ray in it.
_SUBSCRIBERS_AT_ONCE = 8
_START_SECONDS = 180.0


def measure(
    rounds: int, seconds: float, actors: Sequence[int], step_seconds: float
) -> dict[str, Any]:
    """Measures transfer of transitions and parameters, and learning, all on this machine.

    The actors are stand-ins in separate processes that use no processor time for playing. This
    process reads their transitions in place of the learner, into a ring on its device. If memory
    does not suffice for the requested actors, fewer run, and the answer contains their number.

    Args:
        rounds: Number of rounds that count; each figure is a median over them.
        seconds: Seconds per measurement.
        actors: Numbers of actors to measure.
        step_seconds: Seconds that a step of an environment takes.

    Returns:
        Measurements as `replay`, `parameters` and `learner`; extrapolation to runs of other sizes
        as `saturation`, see `benchmarks.saturation`.
    """
    repertoire = load_repertoire()
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
    ):
        figures: dict[str, Any] = {
            "replay": _replay(repertoire, rounds, seconds, actors, step_seconds),
            "learner": _learner(repertoire, rounds, seconds),
            "parameters": _parameters(repertoire, rounds, actors),
        }
    figures |= {"step_seconds": step_seconds, "rounds": rounds, "seconds": seconds}
    return figures | {"saturation": saturation(figures), "machine": machine()}


# --- From the actors to the learner ---------------------------------------------------------


def _replay(
    repertoire: Repertoire,
    rounds: int,
    seconds: float,
    actors: Sequence[int],
    step_seconds: float,
) -> dict[str, Any]:
    piano, replay = repertoire.piano(0), start_replay(_CONFIG)
    episode, server = played_episode(piano), process_of(replay.servers[0])
    layout = piano.layout
    size = packed_size((layout.frames, layout.proprioception_dim), piano.action_dim)
    with (
        contextlib.closing(Group()) as writers,
        receiving(replay, Ring(_CONFIG.most_kept, size)) as receiver,
    ):
        arguments = (replay.addresses[0], episode, _ENVIRONMENTS, step_seconds)
        for number in range(1, max(actors) + 1):
            if not writers.add(write, *arguments):
                announce(f"memory carries {number - 1} of {max(actors)} actors")
                break
            if number % 32 == 0:
                announce(f"{number} of {max(actors)} actors started")
        numbers = sorted({min(number, len(writers)) for number in actors})
        sides = {
            f"{number} actors": functools.partial(
                deliver, functools.partial(writers.work, seconds, number), receiver, server
            )
            for number in numbers
        }
        measured = alternate(sides, rounds)
        figures = {
            "actors_run": len(writers),
            "environments_per_actor": _ENVIRONMENTS,
            "megabytes_per_actor": writers.bytes_each / 1e6,
            "by_actors": [
                {"actors": number, "offered_per_second": number / step_seconds}
                | measured[f"{number} actors"]
                for number in numbers
            ],
        }
    _end(replay)
    return figures


def _end(replay: Replay) -> None:
    for server in replay.servers:
        ray.kill(server)


# --- Parameters -----------------------------------------------------------------------------


def _parameters(repertoire: Repertoire, rounds: int, actors: Sequence[int]) -> dict[str, Any]:
    """Measures the seconds from publication until the actors have the parameters."""
    piano = repertoire.piano(0)
    whole = initial_state(LearnerConfig(), piano.layout.observation_dim, piano.action_dim, 0)
    active = ActiveInputs(piano.layout, repertoire.table)
    parameters = jax.device_get(active.prune(whole).actor)
    server = remote(ParameterServer, num_cpus=0).remote()
    start = remote(Subscriber, num_cpus=0).remote
    subscribers: list[Any] = []
    rows: list[dict[str, Any]] = []
    versions = itertools.count()
    for wanted in sorted(set(actors)):
        # Idle subscribers would also receive every version, so each starts only when needed.
        while len(subscribers) < wanted and _memory_for(_SUBSCRIBERS_AT_ONCE * _SUBSCRIBER_BYTES):
            count = min(_SUBSCRIBERS_AT_ONCE, wanted - len(subscribers))
            more = [start(server) for _ in range(count)]
            for one in more:
                get_result(
                    one.__ray_ready__.remote(),
                    "Subscriber",
                    "an actor did not start",
                    _START_SECONDS,
                )
            subscribers += more
        if len(subscribers) < wanted:
            announce(f"memory carries {len(subscribers)} of {wanted} actors")
        name = f"parameters to {len(subscribers)} actors"
        publish = functools.partial(_publish, server, parameters, subscribers, versions)
        rows.append({"actors": len(subscribers)} | alternate({name: publish}, rounds)[name])
        if len(subscribers) < wanted:
            break
    for handle in (*subscribers, server):
        ray.kill(handle)
    return {
        "actors_run": len(subscribers),
        "bytes": sum(array.nbytes for array in jax.tree.leaves(parameters)),
        "by_actors": rows,
    }


def _publish(server: Any, parameters: Any, subscribers: list[Any], versions: Any) -> Figures:
    version = next(versions)
    waiting = [one.wait.remote(version, _START_SECONDS) for one in subscribers]
    time.sleep(0.5)  # All subscribers are waiting when it is published.
    published = time.monotonic()
    server.publish.remote(Published(version, time.time(), [ray.put(parameters)]))
    arrived = [moment - published for moment in ray.get(waiting, timeout=_START_SECONDS)]
    return {
        "seconds_until_half_have_them": statistics.median(arrived),
        "seconds_until_all_have_them": max(arrived),
    }


def _memory_for(size: float) -> bool:
    return size < MEMORY_SHARE * psutil.virtual_memory().available


# --- Learning -------------------------------------------------------------------------------


def _learner(repertoire: Repertoire, rounds: int, seconds: float) -> dict[str, Any]:
    """Measures learner steps per second after the warm-up, without new transitions."""
    server, piano = remote(ParameterServer, num_cpus=0).remote(), repertoire.piano(0)
    replay = start_replay(_CONFIG)
    learner = remote(Learner, num_cpus=0).remote(
        LearnerConfig(),
        piano.layout,
        repertoire.table,
        piano.action_dim,
        0,
        replay,
        _CONFIG,
        server,
    )
    learns = get_result(
        learner.start.remote(), "Learner", "the learner did not start", _START_SECONDS
    )
    write_episodes(replay.writer(), played_episode(piano), 2 * _CONFIG.warmstart_steps)

    def learn() -> Figures:
        report = get_result(
            learner.learn.remote(seconds), "Learner", "no learner step", 60 + 10 * seconds
        )
        return {"steps_per_second": report.steps / report.seconds}

    steps = alternate({"learner": learn}, rounds)["learner"]
    for handle in (learner, server):
        ray.kill(handle)
    _end(replay)
    return {"device": learns.device, "batch_size": _CONFIG.batch_size} | steps
