"""An episode as benchmarks write it to a replay, without playing it again."""

from collections.abc import Sequence
from typing import NamedTuple

from replay.transition import Array, Observation
from replay.writer import StepWriter

_WAIT_SECONDS = 60.0


class Step(NamedTuple):
    """One step of an episode."""

    observation: Observation
    """At which the action was taken."""
    action: Array
    """(action dimension,) float32."""
    reward: float
    discount: float


def write_episode(writer: StepWriter, episode: Sequence[Step]) -> None:
    """Writes it as fast as it can, without playing."""
    writer.begin(episode[0].observation)
    for number, step in enumerate(episode, start=1):
        last = number == len(episode)
        following = episode[0 if last else number].observation
        writer.add(step.action, 0, step.reward, step.discount, following, last)
        writer.wait(_WAIT_SECONDS)
