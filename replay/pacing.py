"""Back-pressure: how the update-to-data ratio is held.

The learner counts. Too few data, and it waits; too many, and it stops reading: the servers' queues
fill, and the actors wait.
"""

from typing import NamedTuple

from replay.config import ReplayConfig
from replay.packing import CHUNK_ROWS

# How far either side may run ahead of the wanted ratio, as a share of the warm-up.
_TOLERANCE = 0.1
# Chunks that wait in a server for the learner: where a ratio is held, the actors run ahead of the
# learner by what waits.
_WAITING = 8
_WAITING_FREE = 256


class Pacing(NamedTuple):
    """When the learner may step, and when it may read.

    After n transitions and m learner steps the learner is behind by (n - base) * ratio - m steps.
    It steps unless it is ahead by more than the tolerance, and reads unless it is behind by more:
    one of the two it may always do.
    """

    base: int
    """Transitions before the first learner step: the warm-up, or what a resumed run begins with."""
    ratio: float | None
    """Learner steps a transition; None lets both sides run free."""
    tolerance: float
    """Learner steps."""

    def may_step(self, transitions: int, steps: int) -> bool:
        """Whether further learner steps may be taken."""
        if transitions < self.base:
            return False
        return self.ratio is None or self._behind(transitions, steps) >= -self.tolerance

    def may_read(self, transitions: int, steps: int) -> bool:
        """Whether another chunk may be read."""
        if transitions < self.base or self.ratio is None:
            return True
        return self._behind(transitions, steps) <= self.tolerance

    def _behind(self, transitions: int, steps: int) -> float:
        assert self.ratio is not None
        return (transitions - self.base) * self.ratio - steps


def pacing(config: ReplayConfig, at_once: int = 1, restored: int = 0) -> Pacing:
    """The pacing that holds the wanted ratio.

    Args:
        config: warm-up and ratio.
        at_once: learner steps that are taken together.
        restored: transitions that a resumed run begins with; with them neither side is ahead.
    """
    base = max(config.warmstart_steps, restored)
    if config.ratio is None:
        return Pacing(base, None, 0.0)
    tolerance = max(_TOLERANCE * config.warmstart_steps * config.ratio, float(at_once))
    return Pacing(base, config.ratio, tolerance)


def waiting_chunks(config: ReplayConfig) -> int:
    """Chunks that may wait in a server for the learner."""
    if config.ratio is None:
        return _WAITING_FREE
    return max(_WAITING, round(_TOLERANCE * config.warmstart_steps / CHUNK_ROWS))
