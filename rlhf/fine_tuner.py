"""The fine-tuner: the Ray actor that tunes a policy on preferences."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from common.files import PackedFolder
from learner import checkpoint
from learner.config import LearnerConfig, SACConfig
from learner.device import device_name
from learner.networks import Parameters, actor_shapes
from learner.observation import ObservationLayout
from rlhf import cpl, imitation, preferences
from rlhf.rounds import Round

# Enough steps to hide the dispatch time, few enough to keep the progress bar moving.
_STEPS_AT_ONCE = 20
# Number of random parts of the segments to try; a part is usable if it contains a pair.
_DRAWS = 1000


FEWEST_HELD_OUT = 10
"""Minimum number of held-out pairs for choosing the step by their loss."""


class NotFinite(RuntimeError):
    """Raised when a loss or gradient is not a finite number."""


class Loaded(NamedTuple):
    """Report of a fine-tuner that is ready to begin."""

    device: str
    """Human-readable name of the device that learns."""
    members: int
    """Number of policies that are tuned; 1 if the preferences are too few for several."""


class TuneReport(NamedTuple):
    """Report of one call of `FineTuner.tune`."""

    step: int
    """Total number of steps so far."""
    steps_per_second: float
    metrics: dict[str, float]
    """Metrics by name: means over the steps of this call."""


class _Best(NamedTuple):
    """The members at the measured step with the lowest held-out loss."""

    loss: float
    step: int
    parameters: Parameters | None
    """Parameters of all members, with a leading axis of members; None before the first step."""


class FineTuner:
    """Owns the policy that is fine-tuned (a Ray actor, on a GPU if there is one).

    Args:
        rounds: Rounds to learn from, with N segments in all.
        saved: Checkpoint of the policy to begin with.
        weights: Preferences (N, N) by name, "training" and "validation", in the order of the
            segments.
        config: Settings of the method.
        learner_config: Learner settings of the checkpoint.
        layout: Layout of the observations.
        table: (rows, features) uint8 table of the observations' part that depends on time alone.
        seed: Random seed of the batches.
    """

    def __init__(
        self,
        rounds: Sequence[Round],
        saved: PackedFolder,
        weights: dict[str, np.ndarray],
        config: cpl.CPLConfig,
        learner_config: LearnerConfig,
        layout: ObservationLayout,
        table: np.ndarray,
        seed: int,
    ):
        self._rounds = rounds
        self._names = [name for one in rounds for name in one.trajectories]
        self._checkpoint = saved
        self._weights = weights
        self._learner_config = learner_config
        self._static = (config, learner_config.agent_config, layout)
        self._table = table
        self._seed = seed
        self._step = 0
        self._best = _Best(float("inf"), 0, None)
        self._last_good = "the one that it began with"

    def load(self) -> Loaded:
        """Moves all data to the device; must be called first.

        It is separate from the constructor because Ray passes on only the text of a constructor's
        errors.

        Returns:
            The device and the number of members.

        Raises:
            BadInput: The checkpoint or the base of a round is damaged, checkpoint and trajectories
                do not match, or the requested platform has no device.
        """
        device = device_name()
        config, _, layout = self._static
        trajectories = [one for each in self._rounds for one in each.trajectories.values()]
        action_dim = trajectories[0].action.shape[-1]

        def load_actor(saved: PackedFolder, agent_config: SACConfig) -> Parameters:
            template = actor_shapes(agent_config, layout.observation_dim, action_dim)
            return checkpoint.load_actor(saved, template)

        trained = load_actor(self._checkpoint, self._learner_config.agent_config)
        bases, first = [], 0
        for one in self._rounds:
            end = first + len(one.trajectories)
            if one.base is not None:
                parameters = load_actor(one.base, one.agent_config)
                bases.append(cpl.Base(parameters, one.agent_config, range(first, end)))
            first = end
        self._problem = cpl.make_problem(
            trajectories,
            self._weights["training"],
            self._table,
            trained,
            *self._static,
            bases,
        )
        self._start = trained
        included = self._draw_members(len(trajectories))
        members = [
            cpl.initial_state(trained, config, seed, segments)
            for seed, segments in enumerate(included, self._seed)
        ]
        self._state = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *members)
        return Loaded(device, len(members))

    def _draw_members(self, segments: int) -> np.ndarray:
        """Draws the segments that each member learns from, (members, N) bool.

        The segments of each member contain at least one pair. If the preferences are too few for
        that, a single member learns from all segments.
        """
        config, weight = self._static[0], self._weights["training"]
        everything = np.ones((1, segments), bool)
        if not config.is_relative or config.members == 1:
            return everything
        random = np.random.default_rng(self._seed)
        draws = random.random((_DRAWS, segments)) < config.member_fraction
        usable = [draw for draw in draws if weight[draw][:, draw].any()][: config.members]
        return np.array(usable) if len(usable) == config.members else everything

    def _parameters(self, share: float = 1.0) -> Parameters:
        """Returns the policy at a share of the way from the start to the members' average."""
        return jax.tree.map(
            lambda start, members: start + share * (jax.numpy.mean(members, axis=0) - start),
            self._start,
            self._state.parameters,
        )

    def tune(self, steps: int) -> TuneReport:
        """Takes `steps` steps.

        Raises:
            NotFinite: A loss or gradient is not finite; the message names the step, the segments
                and the last good checkpoint.
        """
        started, reports = time.monotonic(), []
        for done in range(0, steps, _STEPS_AT_ONCE):
            count = min(_STEPS_AT_ONCE, steps - done)
            state, report = cpl.update_members(self._state, self._problem, count, *self._static)
            report = jax.device_get(report)
            self._check(report)
            self._state = state
            self._step += count
            reports.append(report.metrics)
        return TuneReport(
            self._step,
            steps / (time.monotonic() - started),
            {
                name: float(np.mean(np.concatenate([metrics[name] for metrics in reports], axis=1)))
                for name in reports[0]
            },
        )

    def _check(self, report: cpl.StepReport) -> None:
        bad = np.argwhere(~report.finite.T)  # By step, then by member.
        if len(bad):
            step, member = bad[0]
            parameters = jax.tree.map(lambda array: array[member], self._state.parameters)
            scores = np.asarray(cpl.segment_scores(parameters, self._problem, *self._static))
            batch = np.unique(report.batch[member, step])
            guilty = batch[~np.isfinite(scores[batch])]
            named = [self._names[i] for i in (guilty if len(guilty) else batch)]
            raise NotFinite(
                f"step {self._step + int(step) + 1}: loss or gradient is not finite, in "
                f"segments {', '.join(named)}; the last good checkpoint is "
                f"{self._last_good}; a lower --learning-rate or --alpha may help"
            )

    def measure(self) -> dict[str, float]:
        """Measures preference loss and accuracy on training pairs and on held-out pairs.

        The members are kept if their held-out loss is the lowest so far; see `stop`.

        Returns:
            Values by name, such as "validation/preference_accuracy". A set without pairs is absent.
        """
        config = self._static[0]
        scores = cpl.segment_scores(self._parameters(), self._problem, *self._static)
        values = {}
        for name, weight in self._weights.items():
            if len(preferences.pairs(weight)):
                loss, accuracy = cpl.preference_loss(scores, jax.numpy.asarray(weight), config.bias)
                values[f"{name}/preference_loss"] = float(loss)
                values[f"{name}/preference_accuracy"] = float(accuracy)
        held_out = values.get("validation/preference_loss")
        # The start is excluded: a single badly missed pair outweighs many correct ones, so the loss
        # can exceed the start's even if most answers are met. Only the guard may return the start.
        if self._step and held_out is not None and held_out < self._best.loss:
            self._best = _Best(held_out, self._step, self._state.parameters)
        return values

    def stop(self) -> int | None:
        """Restores the members of the step with the lowest measured held-out loss.

        Returns:
            That step. None if fewer than `FEWEST_HELD_OUT` pairs are held out, or if nothing has
            been measured since the first step; the members then stay as they are.
        """
        if len(preferences.pairs(self._weights["validation"])) < FEWEST_HELD_OUT:
            return None
        if not self._best.step:
            return None
        self._state = self._state._replace(parameters=self._best.parameters)
        return self._best.step

    def imitate(
        self, demonstrations: Sequence[imitation.Demonstration], description: dict[str, Any]
    ) -> tuple[PackedFolder, list[float]]:
        """Trains the initial policy on demonstrations, and returns the result as a checkpoint.

        The members that are tuned on preferences stay as they are.

        Args:
            demonstrations: Performances of the initial policy with a variation.
            description: Description of the checkpoint, see `learner.checkpoint.pack`; the number of
                steps is added.

        Returns:
            The checkpoint, and the losses of the first and of the last step.

        Raises:
            NotFinite: The loss is not a finite number.
        """
        _, agent_config, layout = self._static
        learnt = imitation.imitate(
            self._start, demonstrations, self._table, agent_config, layout, self._seed
        )
        if not np.isfinite(learnt.loss).all():
            raise NotFinite("the loss of the imitation is not finite")
        packed = checkpoint.with_actor(
            self._checkpoint,
            learnt.parameters,
            imitation.STEPS,
            description | {"learner_steps": imitation.STEPS},
        )
        return packed, [float(learnt.loss[0]), float(learnt.loss[-1])]

    def checkpoint(self, description: dict[str, Any], share: float = 1.0) -> PackedFolder:
        """Packs a checkpoint with the current policy; everything else is as in the initial one.

        Args:
            description: Description of the checkpoint, see `learner.checkpoint.pack`; the number of
                steps and the share are added.
            share: Share of the way from the initial policy to the members' average. 0 gives the
                initial policy; above 1 goes beyond the average.
        """
        packed = checkpoint.with_actor(
            self._checkpoint,
            self._parameters(share),
            self._step,
            description | {"learner_steps": self._step, "share": share},
        )
        self._last_good = packed.name
        return packed
