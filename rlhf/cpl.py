"""Contrastive preference learning: a policy from preferences, without reward or critic.

Hejna et al., Contrastive Preference Learning, arXiv 2310.13639. The segment log-probability

    S = sum_t gamma^t alpha log pi(a_t | s_t)

stands for how good a segment is, and for a preferred segment + and a rejected one - the loss is

    -log( exp S+ / (exp S+ + exp(b S-)) ) = softplus(b S- - S+)

(equation 5, with the contrastive bias b of its equation 6, there called lambda). To it comes the
mean squared distance of the network's outputs from those of the policy that is fine-tuned.
Beside it stand what it has to beat: behaviour cloning of the segments that were rated best, and
CPL with a behaviour cloning term.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learner.config import SACConfig
from learner.networks import Parameters, TanhGaussian, policy
from learner.observation import ObservationLayout, unfold
from replay.errors import require
from replay.transition import Observation
from rlhf import preferences
from rlhf.collection import Trajectory

Method = Literal["cpl", "behaviour-cloning", "cpl-behaviour-cloning"]


@dataclasses.dataclass(frozen=True)
class CPLConfig:
    """Settings of contrastive preference learning."""

    method: Method = "cpl"
    """`behaviour-cloning` imitates the best rated segments alone, `cpl-behaviour-cloning` adds
    the imitation of preferred segments to CPL."""
    alpha: float = 0.1
    """Temperature of the segment log-probability."""
    discount: float = 1.0
    """Discount per control step within a segment."""
    contrastive_bias: float = 0.5
    """Weight of the rejected segment. With 1, rejected actions become improbable whatever it costs,
    and a piece can be unlearnt; below 1, actions of the data keep their probability."""
    preference_weight: float = 0.5
    """Weight of the CPL loss."""
    conservative_weight: float = 0.01
    """Weight of the squared distance from the outputs of the policy that is fine-tuned."""
    behaviour_cloning_weight: float = 1.0
    """Weight of the behaviour cloning loss, in the methods that have it."""
    best_fraction: float = 0.2
    """Share of the segments that behaviour cloning takes for the best."""
    learning_rate: float = 1e-4
    """Of Adam."""
    max_gradient_norm: float = 1.0
    """The gradient is shortened to this norm."""
    batch_size: int = 8
    """Segments in a step: pairs are drawn, and all preferences between their segments are used
    (up to 28 among 8)."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        for name in ("alpha", "learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            require(
                0 < value < math.inf,
                f"--{name.replace('_', '-')} is {value}, must be above 0, and finite",
            )
        for name in ("preference_weight", "conservative_weight", "behaviour_cloning_weight"):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                f"--{name.replace('_', '-')} is {value}, must be 0 or more, and finite",
            )
        for name in ("discount", "contrastive_bias", "best_fraction"):
            value = getattr(self, name)
            require(
                0 < value <= 1, f"--{name.replace('_', '-')} is {value}, must be above 0, at most 1"
            )
        require(
            2 <= self.batch_size <= 1024 and self.batch_size % 2 == 0,
            f"--batch-size is {self.batch_size}, must be an even number from 2 to 1024",
        )


class Segments(NamedTuple):
    """N segments on the device, padded to T control steps."""

    observation: Observation
    """Leading axes (N, T)."""
    action: jax.Array
    """(N, T, action dimension) float32."""
    mask: jax.Array
    """(N, T) float32: 1 up to the segment's end, then 0."""

    def take(self, index: jax.Array) -> "Segments":
        """Those with the numbers `index`, (M,) int."""
        return jax.tree.map(lambda array: array[index], self)


class Problem(NamedTuple):
    """What is learnt from: arrays that do not change."""

    segments: Segments
    reference: TanhGaussian
    """The outputs of the policy that is fine-tuned, leading axes (N, T)."""
    table: jax.Array
    """(rows, features) uint8, see `learner.observation.unfold`."""
    pairs: jax.Array
    """(P, 2) int32: what batches are drawn from; the preferred segment first."""
    weight: jax.Array
    """(N, N) float32: how often row was preferred over column."""


class State(NamedTuple):
    """What a step changes."""

    parameters: Parameters
    """Of the policy."""
    optimiser: Any
    key: jax.Array
    """(2,) uint32, the random state."""


class StepReport(NamedTuple):
    """Of one step, or with a leading axis of several."""

    metrics: dict[str, jax.Array]
    """By name; () float32 each."""
    batch: jax.Array
    """(batch size,) int32, the segments that it learnt from."""
    finite: jax.Array
    """() bool: whether loss and gradient were."""


def pad(trajectories: Sequence[Trajectory]) -> Segments:
    """Brings segments to one length with zeros."""
    longest = max(len(trajectory.row) for trajectory in trajectories)

    def stack(name: str) -> jax.Array:
        arrays = [getattr(trajectory, name) for trajectory in trajectories]
        return jnp.stack(
            [
                np.pad(array, [(0, longest - len(array))] + [(0, 0)] * (array.ndim - 1))
                for array in arrays
            ]
        )

    lengths = np.array([len(trajectory.row) for trajectory in trajectories])
    return Segments(
        observation=Observation(stack("proprioception"), stack("row")),
        action=stack("action"),
        mask=jnp.asarray(np.arange(longest) < lengths[:, None], jnp.float32),
    )


def outputs(
    parameters: Parameters,
    segments: Segments,
    table: jax.Array,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> TanhGaussian:
    """Distributions of actions at every control step, leading axes (N, T)."""
    return policy(agent_config, parameters, unfold(layout, table, segments.observation))


def segment_log_probability(
    distribution: TanhGaussian, segments: Segments, alpha: float, discount: float
) -> jax.Array:
    """S of each segment, (N,) (arXiv 2310.13639, equation 5)."""
    log_probability = distribution.log_probability(segments.action)
    discounts = discount ** jnp.arange(segments.mask.shape[1])
    return alpha * jnp.sum(discounts * segments.mask * log_probability, axis=1)


def preference_loss(
    score: jax.Array, weight: jax.Array, contrastive_bias: float
) -> tuple[jax.Array, jax.Array]:
    """CPL's loss, and the share of preferences that the policy agrees with.

    Args:
        score: (N,) segment log-probabilities S.
        weight: (N, N), how often row was preferred over column.
        contrastive_bias: b.

    Returns:
        Means over preferences, 0 where there is none: softplus(b S- - S+), and S+ > S-.
    """
    losses = jax.nn.softplus(contrastive_bias * score[None, :] - score[:, None])
    total = jnp.maximum(jnp.sum(weight), 1e-9)
    agrees = score[:, None] > score[None, :]
    return jnp.sum(weight * losses) / total, jnp.sum(weight * agrees) / total


def behaviour_cloning_loss(
    distribution: TanhGaussian, segments: Segments, weight: jax.Array
) -> jax.Array:
    """Minus the mean log-probability of the actions of segments weighted by `weight`, (N,)."""
    log_probability = distribution.log_probability(segments.action)
    weight = weight[:, None] * segments.mask
    return -jnp.sum(weight * log_probability) / jnp.maximum(jnp.sum(weight), 1e-9)


def conservative_loss(
    distribution: TanhGaussian, reference: TanhGaussian, mask: jax.Array
) -> jax.Array:
    """Mean squared difference of the network's outputs, over control steps and numbers."""
    squares = jnp.stack(
        [
            jnp.mean((here - there) ** 2, axis=-1)
            for here, there in zip(distribution, reference, strict=True)
        ]
    )
    return jnp.sum(squares * mask) / (len(squares) * jnp.sum(mask))


def loss(
    parameters: Parameters,
    problem: Problem,
    batch: jax.Array,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The whole loss on the segments `batch`, (M,) int32, and its parts by name."""
    segments = problem.segments.take(batch)
    distribution = outputs(parameters, segments, problem.table, agent_config, layout)
    weight = problem.weight[batch][:, batch]
    reference = jax.tree.map(lambda array: array[batch], problem.reference)
    metrics = {"conservative_loss": conservative_loss(distribution, reference, segments.mask)}
    total = config.conservative_weight * metrics["conservative_loss"]
    if config.method == "behaviour-cloning":
        imitated = jnp.ones(len(batch))
    else:
        imitated = jnp.sum(weight, axis=1)  # As often as a segment was preferred.
        score = segment_log_probability(distribution, segments, config.alpha, config.discount)
        metrics["preference_loss"], metrics["preference_accuracy"] = preference_loss(
            score, weight, config.contrastive_bias
        )
        total += config.preference_weight * metrics["preference_loss"]
    if config.method != "cpl":
        metrics["behaviour_cloning_loss"] = behaviour_cloning_loss(distribution, segments, imitated)
        total += config.behaviour_cloning_weight * metrics["behaviour_cloning_loss"]
    return total, metrics | {"loss": total}


def optimiser(config: CPLConfig) -> optax.GradientTransformation:
    """Adam on a gradient of limited norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(config.learning_rate)
    )


def initial_state(parameters: Parameters, config: CPLConfig, seed: int) -> State:
    """Begins with the policy that is fine-tuned."""
    return State(parameters, optimiser(config).init(parameters), jax.random.PRNGKey(seed))


@functools.partial(jax.jit, static_argnames=("steps", "config", "agent_config", "layout"))
def update(
    state: State,
    problem: Problem,
    steps: int,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> tuple[State, StepReport]:
    """Takes several steps in one dispatch.

    Args:
        state: before.
        problem: what is learnt from.
        steps: how many.
        config: of the method.
        agent_config: of the network.
        layout: of the observations.

    Returns:
        The state after, and the steps' reports, leading axis `steps`.
    """

    def step(state: State, _: None) -> tuple[State, StepReport]:
        key, batch_key = jax.random.split(state.key)
        drawn = jax.random.choice(batch_key, problem.pairs, (config.batch_size // 2,))
        batch = drawn.reshape(-1)
        gradient, metrics = jax.grad(loss, has_aux=True)(
            state.parameters, problem, batch, config, agent_config, layout
        )
        norm = optax.global_norm(gradient)
        updates, optimiser_state = optimiser(config).update(
            gradient, state.optimiser, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        report = StepReport(
            metrics | {"gradient_norm": norm},
            batch,
            jnp.isfinite(norm) & jnp.isfinite(metrics["loss"]),
        )
        return State(parameters, optimiser_state, key), report

    return jax.lax.scan(step, state, None, length=steps)


@functools.partial(jax.jit, static_argnames=("config", "agent_config", "layout"))
def segment_scores(
    parameters: Parameters,
    problem: Problem,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> jax.Array:
    """S of all segments under the policy, (N,)."""

    def one(segment: Segments) -> jax.Array:
        alone = jax.tree.map(lambda array: array[None], segment)
        distribution = outputs(parameters, alone, problem.table, agent_config, layout)
        return segment_log_probability(distribution, alone, config.alpha, config.discount)[0]

    # One after the other: the observations of all at once would take a gigabyte for thousands.
    return jax.lax.map(one, problem.segments)


def make_problem(
    trajectories: Sequence[Trajectory],
    weight: np.ndarray,
    table: np.ndarray,
    parameters: Parameters,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> Problem:
    """Brings everything to the device.

    Args:
        trajectories: of the N segments.
        weight: (N, N) float32, preferences to be learnt from.
        table: (rows, features) uint8.
        parameters: of the policy that is fine-tuned.
        config: of the method.
        agent_config: of the network.
        layout: of the observations.
    """
    segments = pad(trajectories)
    if config.method == "behaviour-cloning":
        best = preferences.best(weight, config.best_fraction)
        drawn_from = np.stack([best, np.roll(best, 1)], axis=1)
    else:
        drawn_from = preferences.pairs(weight)
    apply = jax.jit(outputs, static_argnames=("agent_config", "layout"))

    def reference(segment: Segments) -> TanhGaussian:
        alone = jax.tree.map(lambda array: array[None], segment)
        distribution = apply(parameters, alone, jnp.asarray(table), agent_config, layout)
        return jax.tree.map(lambda array: array[0], distribution)

    return Problem(
        segments=segments,
        reference=jax.lax.map(reference, segments),
        table=jnp.asarray(table),
        pairs=jnp.asarray(drawn_from, jnp.int32),
        weight=jnp.asarray(weight),
    )
