"""How much one replay server, one parameter server and one learner carry, by number of actors."""

import contextlib
import functools
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import psutil
import ray

from actors.repertoire import Repertoire
from benchmarks.rounds import Figures, alternate, announce, machine
from benchmarks.saturation import saturation
from benchmarks.stand_ins import MEMORY_SHARE, Group, Work, sample, write
from benchmarks.subscriber import Subscriber
from benchmarks.twinkle import load_repertoire, played_episode
from cluster import ray_session
from cluster.parts import remote, start_replay
from cluster.waiting import answer
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.live_inputs import LiveInputs
from learner.parameters import ParameterServer, Published
from learner.sac import initial_state
from replay.client import Replay, Sampler
from replay.config import ReplayConfig

_ENVIRONMENTS = 4
_BATCH_SIZE = 256
_WARM_UP = 1_000
_SUBSCRIBER_BYTES = 150_000_000  # Of a Ray worker that has nothing but Ray in it.
_SUBSCRIBERS_AT_ONCE = 8
_START_SECONDS = 180.0


def measure(
    rounds: int, seconds: float, actors: Sequence[int], step_seconds: float
) -> dict[str, Any]:
    """Measures writing, sampling, parameters on their way, and learning; all on this machine.

    The actors are stand-ins that take no processor for playing, each a process of its own.
    Where memory does not carry as many as asked for, fewer run, and the answer says how many.

    Args:
        rounds: that count; of every figure the median is taken.
        seconds: of each measurement.
        actors: the numbers of them to be measured.
        step_seconds: that a step of an environment takes.

    Returns:
        `replay`, `parameters` and `learner` with what was measured; `saturation` with what
        follows for runs of other sizes; see `benchmarks.saturation`.
    """
    repertoire = load_repertoire()
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
    ):
        replay = start_replay(
            ReplayConfig(warmstart_steps=_WARM_UP, update_to_data_ratio="free"),
            repertoire.piano(0),
        )
        figures: dict[str, Any] = {
            "replay": _replay(repertoire, replay, rounds, seconds, actors, step_seconds),
            "learner": _learner(repertoire, replay, rounds, seconds),
        }
        ray.kill(replay.server)
        figures["parameters"] = _parameters(repertoire, rounds, actors)
    figures |= {"step_seconds": step_seconds, "rounds": rounds, "seconds": seconds}
    return figures | {"saturation": saturation(figures), "machine": machine()}


# --- Writing and sampling -------------------------------------------------------------------


def _replay(
    repertoire: Repertoire,
    replay: Replay,
    rounds: int,
    seconds: float,
    actors: Sequence[int],
    step_seconds: float,
) -> dict[str, Any]:
    server, sampler = _process_of(replay.server), replay.sampler()
    episode = played_episode(repertoire.piano(0))
    with contextlib.closing(Group()) as writers:
        for number in range(1, max(actors) + 1):
            if not writers.add(write, replay.address, episode, _ENVIRONMENTS, step_seconds):
                announce(f"memory carries {number - 1} of {max(actors)} actors")
                break
            if number % 32 == 0:
                announce(f"{number} of {max(actors)} actors started")
        _warm_up(writers)
        numbers = sorted({min(number, len(writers)) for number in actors})
        alone = {
            number: functools.partial(
                _work, server, functools.partial(writers.work, seconds, number)
            )
            for number in numbers
        }
        together = {
            number: functools.partial(_together, seconds, writers, number, sampler)
            for number in numbers
        }
        measured = alternate(
            {
                "sampling": functools.partial(
                    _work, server, lambda: [sample(sampler, _BATCH_SIZE, seconds)]
                )
            }
            | {f"{number} actors write": side for number, side in alone.items()}
            | {f"{number} actors write beside sampling": side for number, side in together.items()},
            rounds,
        )
        return {
            "actors_run": len(writers),
            "environments_per_actor": _ENVIRONMENTS,
            "batch_size": _BATCH_SIZE,
            "megabytes_per_actor": writers.bytes_each / 1e6,
            "sampling": measured["sampling"],
            "writing": [
                {"actors": number, "offered_per_second": number / step_seconds}
                | measured[f"{number} actors write"]
                for number in numbers
            ],
            "writing_and_sampling": [
                {"actors": number} | measured[f"{number} actors write beside sampling"]
                for number in numbers
            ],
        }


def _work(server: psutil.Process, work: Callable[[], Sequence[Work]]) -> Figures:
    """What clients and the server do, and what each transition costs."""
    started, before, bytes_before = time.perf_counter(), _processor(server), _loopback_bytes()
    done = work()
    elapsed = time.perf_counter() - started
    # On a very busy machine nothing at all may come through in a short time.
    transitions = max(1, sum(one.transitions for one in done))
    return {
        "transitions_per_second": transitions / elapsed,
        "server_microseconds": 1e6 * (_processor(server) - before) / transitions,
        "client_microseconds": 1e6 * sum(one.processor_seconds for one in done) / transitions,
        "bytes": (_loopback_bytes() - bytes_before) / transitions,
    }


def _together(seconds: float, writers: Group, number: int, sampler: Sampler) -> Figures:
    writing = writers.begin(seconds, number)
    sampled = sample(sampler, _BATCH_SIZE, seconds)
    return {
        "written_per_second": sum(one.transitions for one in writers.end(writing, seconds))
        / seconds,
        "sampled_per_second": sampled.transitions / seconds,
    }


def _warm_up(writers: Group) -> None:
    """Fills the table so far that it can be sampled."""
    written = 0
    while written < 2 * _WARM_UP:
        written += sum(one.transitions for one in writers.work(2.0, 16))


def _processor(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def _process_of(handle: Any) -> psutil.Process:
    number = handle.__ray_call__.remote(lambda _: os.getpid())
    return psutil.Process(answer(number, "ReplayServer", "the replay server did not answer"))


# --- Parameters -----------------------------------------------------------------------------


def _parameters(repertoire: Repertoire, rounds: int, actors: Sequence[int]) -> dict[str, Any]:
    """Seconds from the learner's `put` until the actors have the parameters."""
    piano = repertoire.piano(0)
    whole = initial_state(LearnerConfig(), piano.layout.observation_dim, piano.action_dim, 0)
    live = LiveInputs(piano.layout, repertoire.table)
    parameters = jax.device_get(live.restrict(whole).actor)
    server = remote(ParameterServer, num_cpus=0).remote()
    start = remote(Subscriber, num_cpus=0).remote
    subscribers: list[Any] = []
    rows: list[dict[str, Any]] = []
    versions = itertools.count()
    for wanted in sorted(set(actors)):
        # One that has nothing to do would be told of every version all the same: they come later.
        while len(subscribers) < wanted and _memory_for(_SUBSCRIBERS_AT_ONCE * _SUBSCRIBER_BYTES):
            count = min(_SUBSCRIBERS_AT_ONCE, wanted - len(subscribers))
            more = [start(server) for _ in range(count)]
            for one in more:
                answer(
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
    time.sleep(0.5)  # All look already when it comes.
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


def _learner(repertoire: Repertoire, replay: Replay, rounds: int, seconds: float) -> dict[str, Any]:
    """Learner steps a second where there is always enough to sample."""
    server, piano = remote(ParameterServer, num_cpus=0).remote(), repertoire.piano(0)
    learner = remote(Learner, num_cpus=0).remote(
        LearnerConfig(),
        piano.layout,
        repertoire.table,
        piano.action_dim,
        0,
        replay,
        _BATCH_SIZE,
        server,
    )
    device = answer(learner.start.remote(), "Learner", "the learner did not start", _START_SECONDS)

    def learn() -> Figures:
        report = answer(
            learner.learn.remote(seconds), "Learner", "no learner step", 60 + 10 * seconds
        )
        return {"steps_per_second": report.steps / report.seconds}

    steps = alternate({"learner": learn}, rounds)["learner"]
    for handle in (learner, server):
        ray.kill(handle)
    return {"device": device, "batch_size": _BATCH_SIZE} | steps
