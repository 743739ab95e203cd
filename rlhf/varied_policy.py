"""How a variation becomes actions: a policy that plays one rendition."""

import math
from collections.abc import Callable

import jax
import numpy as np

from learner.policy import Perturbation, Perturbed, Policy
from replay.transition import Observation
from rlhf.variation import Variation


class VariedPolicy:
    """Plays one rendition of a song; from the same variation and seed the same actions come again.

    `hold` and `delay` change the goals that the network sees: its outputs for notes that end a
    whole number of control steps later or earlier, and for the goals of earlier or later control
    steps, are mixed by the fractions. All are computed in one batch.

    Args:
        policy: of the checkpoint that plays.
        variation: of the rendition.
        seed: of all that it draws.
        rows: first and last one of the song, in the table of goals.
        held_table: gives the table of goals if each note ends so many control steps later; 0
            gives the policy's own.
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
        # For each of the network's outputs: which table of goals, how long ago, what share. The
        # first is for the goals as they are, which decide deviation and log-probability.
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
        """The next action of the rendition.

        Args:
            observation: one, without a batch axis.

        The log-density is under the policy as it is, without any variation.
        """
        rows = np.clip(observation.row - self._delays, *self._song_rows) + self._blocks
        proprioception = np.broadcast_to(
            observation.proprioception, (len(rows), *observation.proprioception.shape)
        )
        perturbed, self._key = self._policy.perturbed(
            Observation(proprioception, rows.astype(np.int32)), self._before, self._key, self._how
        )
        # The first action of a rendition has none before it.
        self._how = self._how._replace(smoothing=self._variation.smoothing)
        self._before = np.asarray(perturbed.action)
        return perturbed


def _shares(steps: float) -> dict[int, float]:
    """The two whole numbers around a fractional one, and how much of each is in it."""
    below = math.floor(steps)
    return {below: 1 - (steps - below), below + 1: steps - below}
