"""Learning on Apple's GPU, as far as that can be tested without one."""

import functools
import importlib.metadata
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_cpl import AGENT, LAYOUT, TRAJECTORIES, WEIGHT, make_parameters, make_problem

from learner import device, device_check, policy, ring
from learner.learner import learner_steps
from replay.transition import Observation
from rlhf import cpl, imitation
from rlhf.cpl import CPLConfig

OPERATIONS = {
    line
    for line in (pathlib.Path(__file__).parent / "metaljax_operations.txt").read_text().splitlines()
    if not line.startswith("#")
}


@functools.cache
def cases():
    return {name: case for name, *case in arguments()}


def arguments():
    """Every compiled function of learner, policy and fine-tuning: its name, and what it takes."""
    problem, shape = device_check.example_steps()
    state, rings, _, table, _ = problem
    config, layout = shape.config, shape.layout
    yield "several learner steps", learner_steps, problem, {"shape": shape}
    _, one = device_check.example_steps(updates=1)
    yield "a learner step", learner_steps, problem, {"shape": one}
    block, starts = np.zeros((4, rings.steps.shape[1]), np.float32), np.zeros(4, np.int32)
    counts = np.array([4, 3], np.int32)
    yield "replay", ring._put, (rings, block, starts, *counts, counts), {}

    proprioception = np.zeros((4, layout.frames, layout.proprioception_dim), np.float32)
    observation = Observation(proprioception, np.zeros(4, np.int32))
    acting = (table, state.actor, observation)
    key = jax.random.PRNGKey(0)
    action_dim = state.actor["params"]["mean"]["bias"].shape[-1]
    how = policy.Perturbation(
        mix=np.full(4, 0.25, np.float32),
        amplitude=0.9,
        smoothing=0.1,
        offset=np.zeros(action_dim, np.float32),
        weights=np.zeros((config.agent_config.hidden_dims[-1], action_dim), np.float32),
        temperature=1.0,
        noise=0.1,
    )
    perturbed = (np.zeros(action_dim, np.float32), key, how)
    for name, more in (("mode", ()), ("perturbed", perturbed)):
        function = functools.partial(getattr(policy, f"_{name}"), config.agent_config, layout)
        yield name, function, (*acting, *more), {}

    tuning = CPLConfig()
    parameters = make_parameters()
    problem = make_problem(tuning, TRAJECTORIES, WEIGHT)
    static = {"config": tuning, "agent_config": AGENT, "layout": LAYOUT}
    begun = cpl.initial_state(parameters, tuning, 3, np.ones(len(problem.weight), bool))
    yield "fine-tuning", cpl.update, (begun, problem), static | {"steps": 2}
    yield "scores", cpl.segment_scores, (parameters, problem), static
    shown = imitation.Demonstration(
        TRAJECTORIES[0].proprioception, TRAJECTORIES[0].row, TRAJECTORIES[0].action
    )
    static = {"agent_config": AGENT, "layout": LAYOUT}
    yield "imitation", imitation._imitate, (parameters, shown, problem.table, key), static


def lowered(function, operands, static):
    """The StableHLO that JAX makes of a function for Apple's GPU."""

    # `jax.export` takes operands by position and has no static arguments.
    def closed(*operands):
        return function(*operands, **static)

    return str(export.export(jax.jit(closed), platforms=("metal",))(*operands).mlir_module())


def operations(module):
    return set(re.findall(r"(?<![\w.@#!])((?:stablehlo|chlo|func|mhlo)\.\w+)", module)) - {
        "mhlo.layout_mode",
        "mhlo.num_partitions",
        "mhlo.num_replicas",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("a learner step", "several learner steps", "replay", "mode", "perturbed"),
        *("fine-tuning", "scores"),
    ],
)
def test_every_compiled_function_lowers_to_what_the_plugin_compiles(name):
    module = lowered(*cases()[name])
    found = operations(module)
    assert {"stablehlo.dot_general", "stablehlo.scatter"} & found
    assert found <= OPERATIONS
    assert "f64" not in module
    assert "custom_call" not in module
    assert "callback" not in module


def test_what_the_plugin_does_not_compile_is_noticed():
    module = lowered(jnp.fft.fft, (np.ones(4, np.complex64),), {})
    assert operations(module) - OPERATIONS == {"stablehlo.fft"}


@pytest.mark.parametrize(
    ("plugins", "asked", "expected"),
    [
        ({"metal"}, "", "metal,cpu"),
        ({"mps"}, "", "mps,cpu"),
        ({"mps"}, "metal", "mps,cpu"),
        ({"metal", "mps"}, "metal", "metal,cpu"),
        ({"metal"}, "cpu", None),
        ({"xla_cuda12"}, "", None),
        (set(), "metal", None),
    ],
)
def test_either_plugin_is_found(monkeypatch, plugins, asked, expected):
    class EntryPoints:
        names = plugins

    chosen: dict[str, str] = {}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: EntryPoints)
    monkeypatch.setattr(jax.config, "update", chosen.__setitem__)
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    device.use_metal()
    assert chosen.get("jax_platforms") == expected


def test_the_processor_agrees_with_itself():
    result = device_check.compare_with_cpu()
    assert result["agrees"]
    assert result["metrics"] == result["parameters"] == 0


def test_another_step_does_not_agree(monkeypatch):
    right = device_check._learn
    calls = []

    def wrong_on_the_device(problem, where):
        weights, metrics = right(problem, where)
        calls.append(where)
        # The learning rate of the device is twice that of the processor.
        started = device_check._weights(problem[0])
        return (weights if len(calls) > 1 else started + 2 * (weights - started)), metrics

    monkeypatch.setattr(device_check, "_learn", wrong_on_the_device)
    result = device_check.compare_with_cpu()
    assert not result["agrees"]
    assert result["parameters"] == pytest.approx(1, abs=0.01)
