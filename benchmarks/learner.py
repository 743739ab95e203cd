"""Time per learner step: ours, the baseline's, its bare matrix products, and SBX's."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import baseline, peers
from benchmarks.rounds import Figures, alternate, machine
from benchmarks.twinkle import load_repertoire, played_episode
from learner import sac
from learner.active_inputs import ActiveInputs
from learner.config import LearnerConfig
from learner.learner import Shape, assemble_batch, compile_steps, updates_at_once
from learner.ring import Ring, draw, gather
from piano.repertoire import Repertoire
from piano.task_spec import TaskSpec
from replay.packing import pack_chunk, packed_size

_BATCH_SIZE = 256
_CAPACITY = 100_000
_UNIT = "milliseconds"


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Measures all sides in alternating rounds, one at a time.

    Args:
        rounds: Number of rounds that count.
        seconds: Seconds per measurement.

    Returns:
        Milliseconds per update of every side, and ratios: `baseline_over_ours`; `share_of_floor`,
        the time of the baseline's bare matrix products over ours, which can exceed 1 because our
        update omits inputs that are always 0; `share_of_floor_of_active_inputs`, the same for the
        products without these inputs; SBX's times over ours.
    """
    repertoire, config = load_repertoire(), LearnerConfig()
    piano = repertoire.piano(0)
    layout, action_dim = piano.layout, piano.action_dim
    active = ActiveInputs(layout, repertoire.table)
    ring = _full_ring(piano)
    ours = _ours(repertoire, ring, seconds)
    indices = draw(ring.window, _CAPACITY, (_BATCH_SIZE,), jax.random.PRNGKey(0))
    steps = np.asarray(gather(ring.rings, indices))
    batch = assemble_batch(steps, repertoire.table, layout)
    plain = _repeat(
        lambda state: baseline.update(state, batch, config)[0],
        baseline.initial_state(config, layout.observation_dim, action_dim, seed=0),
        seconds,
    )
    with contextlib.ExitStack() as stack:
        sides: dict[str, Callable[[], Figures]] = {
            "ours": ours,
            "baseline": plain,
            "products": _products(config, layout.observation_dim, action_dim, seconds),
            "products_of_active_inputs": _products(
                config, active.layout.observation_dim, action_dim, seconds
            ),
        }
        if peers.installed():
            sizes = (layout.observation_dim, action_dim, _BATCH_SIZE)
            sides |= {
                f"sbx_{name}": stack.enter_context(peers.sbx(name, *sizes, seconds))
                for name in ("sac", "droq")
            }
        milliseconds = {name: figures[_UNIT] for name, figures in alternate(sides, rounds).items()}
    mine = milliseconds["ours"]
    return {
        "milliseconds": milliseconds,
        "baseline_over_ours": milliseconds["baseline"] / mine,
        "share_of_floor": milliseconds["products"] / mine,
        "share_of_floor_of_active_inputs": milliseconds["products_of_active_inputs"] / mine,
        **{
            f"{name}_over_ours": value / mine
            for name, value in milliseconds.items()
            if name.startswith("sbx")
        },
        "inputs": layout.observation_dim,
        "active_inputs": active.layout.observation_dim,
        "batch_size": _BATCH_SIZE,
        "rounds": rounds,
        "machine": machine(),
    }


def step_milliseconds(rounds: int, seconds: float) -> float:
    """Measures the milliseconds of our learner step alone, on this process's device."""
    repertoire = load_repertoire()
    ours = _ours(repertoire, _full_ring(repertoire.piano(0)), seconds)
    return alternate({"ours": ours}, rounds)["ours"][_UNIT]


def _ours(repertoire: Repertoire, ring: Ring, seconds: float) -> Callable[[], Figures]:
    """Returns the measurement of our learner step, as in a training with a full replay."""
    config, piano = LearnerConfig(), repertoire.piano(0)
    active = ActiveInputs(piano.layout, repertoire.table)
    whole = sac.initial_state(config, piano.layout.observation_dim, piano.action_dim, seed=0)
    begun = active.prune(whole)
    shape = Shape(config, active.layout, updates_at_once(), _BATCH_SIZE)
    table = jax.device_put(active.table)
    update = compile_steps(begun, ring.rings, table, shape)
    return _repeat(
        lambda state: update(state, ring.rings, ring.window, table, np.float32(1))[0],
        begun,
        seconds,
        updates_at_once(),
    )


def _full_ring(piano: TaskSpec) -> Ring:
    """Returns a ring that is filled with repetitions of a played episode."""
    layout, episode = piano.layout, played_episode(piano)
    chunk = pack_chunk(episode, episode[0].observation)
    size = packed_size((layout.frames, layout.proprioception_dim), piano.action_dim)
    ring = Ring(_CAPACITY, size)
    while ring.taken_in < _CAPACITY:
        ring.put(chunk)
    ring.flush()
    return ring


def _repeat(
    step: Callable[[Any], Any], state: Any, seconds: float, at_once: int = 1
) -> Callable[[], Figures]:
    """Returns a measurement that repeats `step` for some seconds, with `at_once` steps per call."""

    def run() -> Figures:
        nonlocal state
        started, number = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            state = step(state)
            jax.block_until_ready(state.key)
            number += at_once
        return {_UNIT: 1000 * elapsed / number}

    return run


def _products(
    config: LearnerConfig, observation_dim: int, action_dim: int, seconds: float
) -> Callable[[], Figures]:
    """Returns the measurement of only the matrix products of an update."""
    random = np.random.default_rng(0)

    def matrix(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    shapes = _product_shapes(config, observation_dim, action_dim)
    pairs = [(matrix(m, k), matrix(k, n)) for m, k, n in shapes]
    multiply = jax.jit(lambda pairs: [left @ right for left, right in pairs])

    def run() -> Figures:
        started, number = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            jax.block_until_ready(multiply(pairs))
            number += 1
        return {_UNIT: 1000 * elapsed / number}

    return run


def _product_shapes(
    config: LearnerConfig, observation_dim: int, action_dim: int
) -> list[tuple[int, int, int]]:
    """Returns (m, k, n) of every product (m, k) @ (k, n) that an update needs."""
    agent, batch = config.agent_config, _BATCH_SIZE

    def forward(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
        return [(batch, k, n) for k, n in itertools.pairwise(sizes)]

    def to_weights(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
        return [(k, batch, n) for k, n in itertools.pairwise(sizes)]

    def to_inputs(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
        return [(batch, n, k) for k, n in itertools.pairwise(sizes)]

    actor = [observation_dim, *agent.hidden_dims, 2 * action_dim]
    critic = [observation_dim + action_dim, *agent.hidden_dims, 1]
    hidden = critic[1:]
    of_a_critic = [
        *(3 * forward(critic)),  # Targets, critic loss, actor loss.
        *(to_weights(critic) + to_inputs(hidden)),  # Critic loss.
        *(to_inputs(hidden) + to_inputs([action_dim, hidden[0]])),  # Actor loss.
    ]
    of_the_actor = [*(2 * forward(actor)), *to_weights(actor), *to_inputs(actor[1:])]
    return agent.num_qs * of_a_critic + of_the_actor
