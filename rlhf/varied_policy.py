"""A policy that plays one rendition with its variation."""

import math
from collections.abc import Callable

import jax
import numpy as np

from learner.policy import Perturbation, Perturbed, Policy
from replay.transition import Observation
from rlhf.variation import Variation


class VariedPolicy:
    """Plays one rendition of a song; the same variation and seed give the same actions.

    `hold` and `delay` change the goals that the network sees. A fractional value mixes the outputs
    for the two whole numbers of control steps around it. All outputs are computed in one batch.

    Args:
        policy: Policy of the checkpoint that plays.
        variation: Variation of the rendition.
        seed: Random seed of all draws of the variation.
        rows: First and last row of the song in the table of goals.
        held_table: Function from a number of control steps to the table of goals in which each note
            ends that much later; 0 gives the policy's own table.
    """

    def __init__(
        self,
        policy: Policy,
        variation: Variation,
        seed: int,
        rows: tuple[int, int],
        held_table: Callable[[int], np.ndarray],
    ):
        self._song_rows = rows
        self._variation = variation
        offset_key, weights_key, self._key = jax.random.split(jax.random.PRNGKey(seed), 3)
        hidden, actions = policy.last_layer
        # Table of goals, delay and share of each network output. The first output is for the
        # unchanged goals, which determine deviation and log-probability.
        tables, outputs = [held_table(0)], [(0, 0, 1.0)]
        if variation.hold or variation.delay:
            holds, delays = _shares(variation.hold), _shares(variation.delay)
            tables += [held_table(hold) for hold in holds]
            outputs = [(0, 0, 0.0)] + [
                (table, delay, of_hold * of_delay)
                for table, of_hold in enumerate(holds.values(), start=1)
                for delay, of_delay in delays.items()
            ]
        table, self._delays, mix = (np.array(column) for column in zip(*outputs, strict=True))
        self._blocks = table * len(tables[0])
        self._policy = policy.with_table(np.concatenate(tables))
        self._how = Perturbation(
            mix=mix.astype(np.float32),
            amplitude=variation.amplitude,
            smoothing=0.0,
            offset=variation.offset * np.asarray(jax.random.normal(offset_key, (actions,))),
            weights=variation.weights
            * np.asarray(jax.random.normal(weights_key, (hidden, actions))),
            temperature=variation.temperature,
            noise=variation.noise,
        )
        self._before = np.zeros(actions, np.float32)

    def act(self, observation: Observation) -> Perturbed:
        """Computes the next action of the rendition.

        Args:
            observation: Observation without a batch axis.

        Returns:
            The action, and its log-density under the policy without any variation.
        """
        rows = np.clip(observation.goal_index - self._delays, *self._song_rows) + self._blocks
        proprioception = np.broadcast_to(
            observation.proprioception, (len(rows), *observation.proprioception.shape)
        )
        perturbed, self._key = self._policy.perturbed(
            Observation(proprioception, rows.astype(np.int32)), self._before, self._key, self._how
        )
        # The first action of a rendition is not smoothed: it has no previous action.
        self._how = self._how._replace(smoothing=self._variation.smoothing)
        self._before = np.asarray(perturbed.action)
        return perturbed


def _shares(steps: float) -> dict[int, float]:
    """Returns the two whole numbers around a fractional one, with their shares."""
    below = math.floor(steps)
    return {below: 1 - (steps - below), below + 1: steps - below}
