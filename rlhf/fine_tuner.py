"""The fine-tuner: a policy and preferences in, a better policy out."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from learner import checkpoint
from learner.config import LearnerConfig
from learner.device import device_name
from learner.networks import actor_shapes
from learner.observation import ObservationLayout
from replay.files import PackedFolder
from rlhf import cpl, preferences
from rlhf.collection import Trajectory

# Long enough to hide the dispatch, short enough for a display that moves.
_STEPS_AT_ONCE = 20


class NotFinite(RuntimeError):
    """A loss or gradient was not a finite number."""


class TuneReport(NamedTuple):
    """What one call of `FineTuner.tune` did."""

    step: int
    """Steps so far."""
    steps_per_second: float
    metrics: dict[str, float]
    """Means over the steps of this call."""


class FineTuner:
    """Owns the policy that is fine-tuned (a Ray actor, on a GPU where there is one).

    Args:
        trajectories: of the N segments, by name.
        saved: the checkpoint of the policy to begin with.
        weights: preferences (N, N) by name, "training" and "validation", in the same order.
        config: of the method.
        learner_config: of the checkpoint.
        layout: of the observations.
        table: (rows, features) uint8, what of them is a function of time.
        seed: of the batches.
    """

    def __init__(
        self,
        trajectories: Mapping[str, Trajectory],
        saved: PackedFolder,
        weights: dict[str, np.ndarray],
        config: cpl.CPLConfig,
        learner_config: LearnerConfig,
        layout: ObservationLayout,
        table: np.ndarray,
        seed: int,
    ):
        self._trajectories = trajectories
        self._checkpoint = saved
        self._weights = weights
        self._learner_config = learner_config
        self._static = (config, learner_config.agent_config, layout)
        self._table = table
        self._seed = seed
        self._step = 0
        self._last_good = "the one that it began with"

    def load(self) -> str:
        """Brings everything to the device; comes before everything else.

        It is no part of the constructor, of whose errors Ray passes on the text alone.

        Returns:
            The device that learns, for people.

        Raises:
            BadInput: the checkpoint is damaged, checkpoint and trajectories do not belong
                together, or there is no device of the platform that was asked for.
        """
        device = device_name()
        config, _, layout = self._static
        trajectories = list(self._trajectories.values())
        action_dim = trajectories[0].action.shape[-1]
        agent_config = self._learner_config.agent_config
        template = actor_shapes(agent_config, layout.observation_dim, action_dim)
        trained = checkpoint.load_actor(self._checkpoint, template)
        self._problem = cpl.make_problem(
            trajectories,
            self._weights["training"],
            self._table,
            trained,
            *self._static,
        )
        self._state = cpl.initial_state(trained, config, self._seed)
        return device

    def tune(self, steps: int) -> TuneReport:
        """Takes `steps` steps.

        Raises:
            NotFinite: naming the step, the segments and the last good checkpoint.
        """
        started, reports = time.monotonic(), []
        for done in range(0, steps, _STEPS_AT_ONCE):
            count = min(_STEPS_AT_ONCE, steps - done)
            state, report = cpl.update(self._state, self._problem, count, *self._static)
            report = jax.device_get(report)
            self._check(report)
            self._state = state
            self._step += count
            reports.append(report.metrics)
        return TuneReport(
            self._step,
            steps / (time.monotonic() - started),
            {
                name: float(np.mean(np.concatenate([metrics[name] for metrics in reports])))
                for name in reports[0]
            },
        )

    def _check(self, report: cpl.StepReport) -> None:
        bad = np.flatnonzero(~report.finite)
        if len(bad):
            scores = np.asarray(
                cpl.segment_scores(self._state.parameters, self._problem, *self._static)
            )
            batch = np.unique(report.batch[bad[0]])
            guilty = batch[~np.isfinite(scores[batch])]
            names = list(self._trajectories)
            named = [names[i] for i in (guilty if len(guilty) else batch)]
            raise NotFinite(
                f"step {self._step + int(bad[0]) + 1}: loss or gradient is not finite, in "
                f"segments {', '.join(named)}; the last good checkpoint is "
                f"{self._last_good}; a lower --learning-rate or --alpha may help"
            )

    def measure(self) -> dict[str, float]:
        """Preference loss and accuracy on training and held-out pairs; what has no pair is absent.

        Returns:
            By name, such as "validation/preference_accuracy".
        """
        config = self._static[0]
        scores = cpl.segment_scores(self._state.parameters, self._problem, *self._static)
        values = {}
        for name, weight in self._weights.items():
            if len(preferences.pairs(weight)):
                loss, accuracy = cpl.preference_loss(
                    scores, jax.numpy.asarray(weight), config.contrastive_bias
                )
                values[f"{name}/preference_loss"] = float(loss)
                values[f"{name}/preference_accuracy"] = float(accuracy)
        return values

    def checkpoint(self, description: dict[str, Any]) -> PackedFolder:
        """A checkpoint: the policy as it is now, all else as it was.

        Args:
            description: see `learner.checkpoint.pack`; the number of steps is added.
        """
        packed = checkpoint.with_actor(
            self._checkpoint,
            self._state.parameters,
            self._step,
            description | {"learner_steps": self._step},
        )
        self._last_good = packed.name
        return packed
