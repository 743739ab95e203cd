"""Control steps per second of robopianist's environment, ours, bare physics and a whole actor."""

import contextlib
import copy
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import mujoco
import numpy as np
import ray

from actors.actor import Actor
from benchmarks.delivery import receiving
from benchmarks.rounds import Figures, alternate, machine
from benchmarks.twinkle import CONFIG, load_repertoire, wandering_actions
from common import ray_session
from common.cores import Processors, available_cores
from learner.active_inputs import ActiveInputs
from learner.config import LearnerConfig
from learner.parameters import ParameterServer, Published
from learner.ring import ring_bytes
from learner.sac import initial_state
from piano.environment import PianoEnvironment
from piano.reference_environment import ReferenceEnvironment
from piano.repertoire import Repertoire
from piano.task_spec import TaskSpec
from replay.config import ReplayConfig
from replay.packing import packed_size
from training.parts import remote, start_replay

_ENVIRONMENTS_PER_CORE = 8
_KEPT = 100_000
_UNIT = "control steps a second"


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures all sides in alternating rounds.

    Args:
        rounds: Number of rounds that count.
        seconds: Seconds per measurement.

    Returns:
        Control steps per second of every side, the ratios in the README, bytes per transition, and
        the machine.
    """
    repertoire = load_repertoire()
    piano = repertoire.piano(0)
    scene = piano.scene
    reference = ReferenceEnvironment(repertoire.songs[0], CONFIG)
    cores = available_cores()
    environments = [PianoEnvironment(piano) for _ in cores]
    actions = wandering_actions(piano)

    # Bare physics gets the controls that result from the actions, and robopianist's model
    # including its sensors.
    controls = _controls(environments[0], actions)
    reference_model = copy.copy(scene.model)
    reference_model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_SENSOR)

    def play_reference() -> None:
        reference.reset()
        for action in actions:
            reference.step(action)

    def play_fast(environment: PianoEnvironment) -> None:
        environment.reset()
        for action in actions:
            environment.step(action)

    def play_physics(data: mujoco.MjData) -> None:
        mujoco.mj_copyData(data, reference_model, scene.first_data)
        for control in controls:
            data.ctrl[:] = control
            mujoco.mj_step(reference_model, data, scene.substeps)

    def rate(episodes: Sequence[Callable[[], None]]) -> Callable[[], Figures]:
        return lambda: {_UNIT: _rate(episodes, len(actions), seconds)}

    reference_side = rate([play_reference])
    fast = [functools.partial(play_fast, environment) for environment in environments]
    physics = [functools.partial(play_physics, mujoco.MjData(reference_model)) for _ in cores]
    with _actor(len(cores), repertoire) as actor_rate:
        sides = alternate(
            {
                "reference": _on_one_core(cores, reference_side),
                "fast": _on_one_core(cores, rate(fast[:1])),
                "physics": _on_one_core(cores, rate(physics[:1])),
                "fast_all_cores": rate(fast),
                "physics_all_cores": rate(physics),
                "actor": lambda: {_UNIT: actor_rate(seconds)},
            },
            rounds,
        )
    steps = {name: figures[_UNIT] for name, figures in sides.items()}
    return {
        "fast_over_physics": steps["fast"] / steps["physics"],
        "fast_over_reference": steps["fast"] / steps["reference"],
        "all_cores_over_one_core": steps["fast_all_cores"] / steps["fast"],
        "actor_over_physics": steps["actor"] / steps["physics_all_cores"],
        "bytes_per_transition": _bytes_per_transition(piano),
        "control_steps_per_second": steps,
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine(),
    }


def whole_actor_per_second(rounds: int, seconds: float) -> float:
    """Measures control steps per second of a whole actor on one core, without other load."""
    repertoire = load_repertoire()
    cores = available_cores()
    os.sched_setaffinity(0, cores[-1:])  # Also applies to Ray and its processes.
    try:
        with _actor(1, repertoire) as rate:
            figures = alternate({"actor": lambda: {_UNIT: rate(seconds)}}, rounds)
    finally:
        os.sched_setaffinity(0, cores)
    return figures["actor"][_UNIT]


def _controls(environment: PianoEnvironment, actions: np.ndarray) -> np.ndarray:
    environment.reset()
    controls = []
    for action in actions:
        environment.step(action)
        controls.append(environment.data.ctrl.copy())
    return np.array(controls)


def _rate(episodes: Sequence[Callable[[], None]], length: int, seconds: float) -> float:
    """Repeats episodes of `length` steps, one thread each; returns control steps per second."""
    started = time.perf_counter()

    def play(episode: Callable[[], None]) -> int:
        steps = 0
        while time.perf_counter() - started < seconds:
            episode()
            steps += length
        return steps

    with ThreadPoolExecutor(len(episodes)) as threads:
        steps = sum(threads.map(play, episodes))
    return steps / (time.perf_counter() - started)


def _on_one_core(cores: list[int], measure_rate: Callable[[], Figures]) -> Callable[[], Figures]:
    def on_one_core() -> Figures:
        os.sched_setaffinity(0, cores[-1:])
        try:
            return measure_rate()
        finally:
            os.sched_setaffinity(0, cores)

    return on_one_core


@contextlib.contextmanager
def _actor(cores: int, repertoire: Repertoire) -> Iterator[Callable[[float], float]]:
    """Runs a real actor with a real replay server, and a reader that takes all transitions.

    Yields:
        Function that measures the actor's control steps per second for some seconds.
    """
    piano, config = repertoire.piano(0), LearnerConfig()
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session.connect(None, pathlib.Path(folder) / "logs"),
    ):
        replay = start_replay(ReplayConfig(update_to_data_ratio="free", replay_capacity=_KEPT))
        server = remote(ParameterServer, num_cpus=0).remote()
        whole = initial_state(config, piano.layout.observation_dim, piano.action_dim, seed=0)
        parameters = jax.device_get(ActiveInputs(piano.layout, repertoire.table).prune(whole).actor)
        ray.get(server.publish.remote(Published(0, time.time(), [ray.put(parameters)])))
        actor = remote(Actor, num_cpus=1).remote(
            repertoire,
            config.agent_config,
            _ENVIRONMENTS_PER_CORE * cores,
            0,
            (0, 0),
            replay,
            server,
            Processors(threads=cores),
        )

        def rate(seconds: float) -> float:
            report = ray.get(actor.collect.remote(seconds), timeout=60 + 10 * seconds)
            return report.steps / report.seconds

        rate(2.0)  # Takes the parameters and compiles the policy.
        with receiving(replay):
            yield rate
        for handle in (actor, server, *replay.servers):
            ray.kill(handle)


def _bytes_per_transition(piano: TaskSpec) -> int:
    """Returns the size of a transition in the replay if chunks are full."""
    layout, capacity = piano.layout, ReplayConfig().most_kept
    size = packed_size((layout.frames, layout.proprioception_dim), piano.action_dim)
    return round(ring_bytes(capacity, size) / capacity)
