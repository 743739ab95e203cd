"""Contrastive preference learning: tunes a policy on preferences, without reward or critic.

Source: Hejna et al., Contrastive Preference Learning, arXiv 2310.13639. The segment log-probability

    S = sum_t gamma^t alpha log pi(a_t | s_t)

measures how good a segment is. For a preferred segment + and a rejected segment - the loss is

    -log( exp S+ / (exp S+ + exp(b S-)) ) = softplus(b S- - S+)

(equation 5, with the contrastive bias b of equation 6, which the paper calls lambda). This is the
method `cpl`. Its conservative term adds the mean squared distance of the network's outputs from
those of the reference policy, which is the policy before the fine-tuning.

The default, `relative-cpl`, scores a segment relative to a reference policy,

    S = sum_t gamma^t alpha (log pi(a_t | s_t) - log pi_reference(a_t | s_t)),

with b = 1, and adds the KL divergence from the policy before the fine-tuning, as a mean over
control steps. The reference of a segment is the policy that its round began with: the base of its
collection. In a first round this is the policy before the fine-tuning. Every S is then 0 at the
start, so the log-density that the reference happens to give a segment decides no pair. In a later
round, the initial margin S+ - S- of a pair from an earlier round is the gain of the rounds since
then. An answer that the policy has already learned therefore does not pull the same way twice.

Several members are tuned, each on a random part of the segments, and their weights are averaged.
The average keeps the changes that the answers agree on.

Two baselines are included: behavior cloning of the best rated segments, and CPL with a behavior
cloning term.
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

from common.errors import require
from learner.config import SACConfig
from learner.networks import Parameters, TanhGaussian, policy
from learner.observation import ObservationLayout, assemble
from replay.transition import Observation
from rlhf import preferences
from rlhf.collection import Trajectory

Method = Literal["relative-cpl", "cpl", "behavior-cloning", "cpl-behavior-cloning"]


@dataclasses.dataclass(frozen=True)
class CPLConfig:
    """Settings of contrastive preference learning."""

    method: Method = "relative-cpl"
    """Method of fine-tuning. `relative-cpl` scores segments relative to the policy that their round
    began with, and averages several members. `cpl` is the formula of arXiv 2310.13639.
    `behavior-cloning` only imitates the best rated segments. `cpl-behavior-cloning` adds imitation
    of the preferred segments to `cpl`."""
    alpha: float = 0.1
    """Temperature of the segment log-probability."""
    discount: float = 1.0
    """Discount per control step within a segment."""
    contrastive_bias: float | None = None
    """Weight of the rejected segment; by default 1 for `relative-cpl`, otherwise 0.5. In `cpl` a
    bias of 1 makes rejected actions improbable at any cost, and the policy can unlearn the piece; a
    bias below 1 keeps actions of the data probable."""
    preference_weight: float = 0.5
    """Weight of the CPL loss."""
    kl_weight: float = 0.003
    """Weight of the KL divergence from the policy before the fine-tuning, in nats per control step
    (`relative-cpl` only)."""
    members: int = 6
    """Number of policies that are tuned and whose weights are averaged (`relative-cpl` only)."""
    member_fraction: float = 0.67
    """Random share of the segments that each member learns from (`relative-cpl` only)."""
    conservative_weight: float = 0.01
    """Weight of the squared distance from the outputs of the policy before the fine-tuning (all
    methods except `relative-cpl`)."""
    behavior_cloning_weight: float = 1.0
    """Weight of the behavior cloning loss (`behavior-cloning` and `cpl-behavior-cloning` only)."""
    best_fraction: float = 0.2
    """Share of the segments, the best rated ones, that `behavior-cloning` imitates."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    max_gradient_norm: float = 1.0
    """Maximum norm of the gradient; longer gradients are clipped."""
    batch_size: int = 8
    """Number of segments per step. Pairs of segments are drawn, and all preferences among the drawn
    segments are used (up to 28 among 8)."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        for name in ("alpha", "learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            require(
                0 < value < math.inf,
                f"--{name.replace('_', '-')} is {value}, must be above 0, and finite",
            )
        for name in (
            "preference_weight",
            "kl_weight",
            "conservative_weight",
            "behavior_cloning_weight",
        ):
            value = getattr(self, name)
            require(
                0 <= value < math.inf,
                f"--{name.replace('_', '-')} is {value}, must be 0 or more, and finite",
            )
        for name in ("discount", "contrastive_bias", "member_fraction", "best_fraction"):
            value = getattr(self, name)
            require(
                value is None or 0 < value <= 1,
                f"--{name.replace('_', '-')} is {value}, must be above 0, at most 1",
            )
        require(1 <= self.members <= 64, f"--members is {self.members}, must be 1 to 64")
        require(
            2 <= self.batch_size <= 1024 and self.batch_size % 2 == 0,
            f"--batch-size is {self.batch_size}, must be an even number from 2 to 1024",
        )

    @property
    def is_relative(self) -> bool:
        """Whether segments are scored relative to the reference policy."""
        return self.method == "relative-cpl"

    @property
    def bias(self) -> float:
        """The contrastive bias b of the method."""
        if self.contrastive_bias is not None:
            return self.contrastive_bias
        return 1.0 if self.is_relative else 0.5


class Segments(NamedTuple):
    """N segments on the device, padded to T control steps."""

    observation: Observation
    """Observations with leading axes (N, T)."""
    action: jax.Array
    """(N, T, action dimension) float32: actions that were taken."""
    mask: jax.Array
    """(N, T) float32: 1 up to the end of the segment, then 0."""

    def take(self, index: jax.Array) -> "Segments":
        """Returns the segments with the indices `index`, (M,) int."""
        return jax.tree.map(lambda array: array[index], self)


class Problem(NamedTuple):
    """Training data: arrays that do not change."""

    segments: Segments
    start: TanhGaussian
    """Outputs of the policy before the fine-tuning, with leading axes (N, T)."""
    reference: TanhGaussian
    """Outputs of each segment's reference policy, with leading axes (N, T)."""
    table: jax.Array
    """(rows, features) uint8: table of goals, see `learner.observation.assemble`."""
    pairs: jax.Array
    """(P, 2) int32: pairs of segments from which batches are drawn, the preferred segment first."""
    weight: jax.Array
    """(N, N) float32: number of times that row was preferred over column."""


class Base(NamedTuple):
    """The policy that a round began with: the reference of the round's segments."""

    parameters: Parameters
    agent_config: SACConfig
    """Settings of the policy's network."""
    segments: Sequence[int]
    """Indices of the round's segments."""


class State(NamedTuple):
    """Values that a step changes."""

    parameters: Parameters
    """Parameters of the policy."""
    optimizer: Any
    key: jax.Array
    """(2,) uint32: random key."""
    included: jax.Array
    """(N,) float32: 1 for segments that are learned from, otherwise 0."""


class StepReport(NamedTuple):
    """Report of one step, or of several steps with a leading axis of steps."""

    metrics: dict[str, jax.Array]
    """Metrics by name, () float32 each."""
    batch: jax.Array
    """(batch size,) int32: indices of the segments that the step learned from."""
    finite: jax.Array
    """() bool: whether loss and gradient were finite."""


def pad(trajectories: Sequence[Trajectory]) -> Segments:
    """Pads segments with zeros to the length of the longest."""
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
    """Computes distributions of actions at every control step, with leading axes (N, T)."""
    return policy(agent_config, parameters, assemble(layout, table, segments.observation))


def segment_log_probability(
    distribution: TanhGaussian, segments: Segments, alpha: float, discount: float
) -> jax.Array:
    """Computes S of each segment, (N,), as in arXiv 2310.13639, equation 5."""
    log_probability = distribution.log_probability(segments.action)
    discounts = discount ** jnp.arange(segments.mask.shape[1])
    return alpha * jnp.sum(discounts * segments.mask * log_probability, axis=1)


def segment_score(
    distribution: TanhGaussian, reference: TanhGaussian, segments: Segments, config: CPLConfig
) -> jax.Array:
    """Computes S of each segment, (N,), as the method defines it; see the top of this file."""
    settings = (segments, config.alpha, config.discount)
    score = segment_log_probability(distribution, *settings)
    return score - segment_log_probability(reference, *settings) if config.is_relative else score


def kl_divergence(
    distribution: TanhGaussian, reference: TanhGaussian, mask: jax.Array
) -> jax.Array:
    """Computes KL(policy || reference) in nats, as a mean over control steps; () float32.

    The tanh is the same for both, so this is the divergence of the Gaussians before the tanh.
    """
    log_ratio = distribution.log_std - reference.log_std
    distance = (distribution.mean - reference.mean) * jnp.exp(-reference.log_std)
    divergence = 0.5 * jnp.sum(jnp.exp(2 * log_ratio) + distance**2 - 1 - 2 * log_ratio, axis=-1)
    return jnp.sum(divergence * mask) / jnp.sum(mask)


def preference_loss(
    score: jax.Array, weight: jax.Array, contrastive_bias: float
) -> tuple[jax.Array, jax.Array]:
    """Computes the loss of CPL and the share of preferences that the policy agrees with.

    Args:
        score: (N,) segment log-probabilities S.
        weight: (N, N) number of times that row was preferred over column.
        contrastive_bias: Contrastive bias b.

    Returns:
        Means of softplus(b S- - S+) and of S+ > S- over preferences; 0 if there are none.
    """
    losses = jax.nn.softplus(contrastive_bias * score[None, :] - score[:, None])
    total = jnp.maximum(jnp.sum(weight), 1e-9)
    agrees = score[:, None] > score[None, :]
    return jnp.sum(weight * losses) / total, jnp.sum(weight * agrees) / total


def behavior_cloning_loss(
    distribution: TanhGaussian, segments: Segments, weight: jax.Array
) -> jax.Array:
    """Computes the negative mean log-probability of actions, with segment weights (N,)."""
    log_probability = distribution.log_probability(segments.action)
    weight = weight[:, None] * segments.mask
    return -jnp.sum(weight * log_probability) / jnp.maximum(jnp.sum(weight), 1e-9)


def conservative_loss(
    distribution: TanhGaussian, reference: TanhGaussian, mask: jax.Array
) -> jax.Array:
    """Computes the mean squared difference of the network's outputs from the reference's."""
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
    """Computes the total loss on the segments `batch`, (M,) int32, and its parts by name."""
    segments = problem.segments.take(batch)
    distribution = outputs(parameters, segments, problem.table, agent_config, layout)
    weight = problem.weight[batch][:, batch]
    start, reference = jax.tree.map(lambda array: array[batch], (problem.start, problem.reference))
    if config.is_relative:
        metrics = {"kl_divergence": kl_divergence(distribution, start, segments.mask)}
        total = config.kl_weight * metrics["kl_divergence"]
    else:
        metrics = {"conservative_loss": conservative_loss(distribution, start, segments.mask)}
        total = config.conservative_weight * metrics["conservative_loss"]
    if config.method == "behavior-cloning":
        imitated = jnp.ones(len(batch))
    else:
        imitated = jnp.sum(weight, axis=1)  # How often each segment was preferred.
        score = segment_score(distribution, reference, segments, config)
        metrics["preference_loss"], metrics["preference_accuracy"] = preference_loss(
            score, weight, config.bias
        )
        total += config.preference_weight * metrics["preference_loss"]
    if config.method in ("behavior-cloning", "cpl-behavior-cloning"):
        metrics["behavior_cloning_loss"] = behavior_cloning_loss(distribution, segments, imitated)
        total += config.behavior_cloning_weight * metrics["behavior_cloning_loss"]
    return total, metrics | {"loss": total}


def optimizer(config: CPLConfig) -> optax.GradientTransformation:
    """Returns Adam with gradient clipping."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(config.learning_rate)
    )


def initial_state(
    parameters: Parameters, config: CPLConfig, seed: int, included: np.ndarray
) -> State:
    """Returns the state before the first step.

    Args:
        parameters: Parameters of the policy before the fine-tuning.
        config: Settings of the method.
        seed: Random seed of the batches.
        included: (N,) bool mask of the segments to learn from.
    """
    return State(
        parameters,
        optimizer(config).init(parameters),
        jax.random.PRNGKey(seed),
        jnp.asarray(included, jnp.float32),
    )


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
        state: State before the steps.
        problem: Training data.
        steps: Number of steps.
        config: Settings of the method.
        agent_config: Settings of the network.
        layout: Layout of the observations.

    Returns:
        The state after the steps, and their reports with leading axis `steps`.
    """

    def step(state: State, _: None) -> tuple[State, StepReport]:
        key, batch_key = jax.random.split(state.key)
        # Logarithm of 0 or 1: a pair with an excluded segment is never drawn.
        chances = jnp.log(jnp.prod(state.included[problem.pairs], axis=1))
        drawn = jax.random.categorical(batch_key, chances, shape=(config.batch_size // 2,))
        batch = problem.pairs[drawn].reshape(-1)
        gradient, metrics = jax.grad(loss, has_aux=True)(
            state.parameters, problem, batch, config, agent_config, layout
        )
        norm = optax.global_norm(gradient)
        updates, optimizer_state = optimizer(config).update(
            gradient, state.optimizer, state.parameters
        )
        parameters = optax.apply_updates(state.parameters, updates)
        report = StepReport(
            metrics | {"gradient_norm": norm},
            batch,
            jnp.isfinite(norm) & jnp.isfinite(metrics["loss"]),
        )
        return State(parameters, optimizer_state, key, state.included), report

    return jax.lax.scan(step, state, None, length=steps)


@functools.partial(jax.jit, static_argnames=("steps", "config", "agent_config", "layout"))
def update_members(
    states: State,
    problem: Problem,
    steps: int,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> tuple[State, StepReport]:
    """Updates several members: all arrays of states and reports have a leading axis of members."""

    def one(state: State) -> tuple[State, StepReport]:
        return update(state, problem, steps, config, agent_config, layout)

    return jax.vmap(one)(states)


@functools.partial(jax.jit, static_argnames=("config", "agent_config", "layout"))
def segment_scores(
    parameters: Parameters,
    problem: Problem,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> jax.Array:
    """Computes S of all segments under the policy, (N,)."""

    def one(segment_and_reference: tuple[Segments, TanhGaussian]) -> jax.Array:
        alone, reference = jax.tree.map(lambda array: array[None], segment_and_reference)
        distribution = outputs(parameters, alone, problem.table, agent_config, layout)
        return segment_score(distribution, reference, alone, config)[0]

    # One by one: the observations of thousands of segments at once would take a gigabyte.
    return jax.lax.map(one, (problem.segments, problem.reference))


def make_problem(
    trajectories: Sequence[Trajectory],
    weight: np.ndarray,
    table: np.ndarray,
    parameters: Parameters,
    config: CPLConfig,
    agent_config: SACConfig,
    layout: ObservationLayout,
    bases: Sequence[Base] = (),
) -> Problem:
    """Moves the training data to the device and computes the outputs of the reference policies.

    Args:
        trajectories: Trajectories of the N segments.
        weight: (N, N) float32 preferences to learn from.
        table: (rows, features) uint8 table, see `learner.observation.assemble`.
        parameters: Parameters of the policy before the fine-tuning.
        config: Settings of the method.
        agent_config: Settings of the network.
        layout: Layout of the observations.
        bases: Policies that the rounds began with. A segment that belongs to none of these rounds
            is scored relative to the policy before the fine-tuning.
    """
    segments = pad(trajectories)
    if config.method == "behavior-cloning":
        best = preferences.best(weight, config.best_fraction)
        drawn_from = np.stack([best, np.roll(best, 1)], axis=1)
    else:
        drawn_from = preferences.pairs(weight)
    device_table = jnp.asarray(table)
    start = reference = _outputs_one_by_one(
        parameters, segments, device_table, agent_config, layout
    )
    for base in bases:
        own = jnp.asarray(base.segments)
        theirs = _outputs_one_by_one(
            base.parameters, segments.take(own), device_table, base.agent_config, layout
        )
        reference = jax.tree.map(
            lambda whole, part, own=own: whole.at[own].set(part), reference, theirs
        )
    return Problem(
        segments=segments,
        start=start,
        reference=reference,
        table=device_table,
        pairs=jnp.asarray(drawn_from, jnp.int32),
        weight=jnp.asarray(weight),
    )


def _outputs_one_by_one(
    parameters: Parameters,
    segments: Segments,
    table: jax.Array,
    agent_config: SACConfig,
    layout: ObservationLayout,
) -> TanhGaussian:
    """Computes `outputs` with the observations of only one segment in memory at a time."""
    apply = jax.jit(outputs, static_argnames=("agent_config", "layout"))

    def one(segment: Segments) -> TanhGaussian:
        alone = jax.tree.map(lambda array: array[None], segment)
        distribution = apply(parameters, alone, table, agent_config, layout)
        return jax.tree.map(lambda array: array[0], distribution)

    return jax.lax.map(one, segments)
