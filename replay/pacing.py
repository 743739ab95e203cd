"""Back-pressure that holds the update-to-data ratio.

The learner counts. If it has too few data, it waits. If it has too many, it stops reading: the
servers' queues fill, and the actors wait.
"""

from typing import NamedTuple

from replay.config import ReplayConfig
from replay.packing import CHUNK_ROWS

# Tolerance by which either side may run ahead of the wanted ratio, as a share of the warm-up.
_TOLERANCE = 0.1
# Chunks that may wait in a server for the learner. Where a ratio is held, the actors run ahead of
# the learner by these chunks.
_WAITING = 8
_WAITING_FREE = 256


class Pacing(NamedTuple):
    """Decides when the learner may step, and when it may read.

    After n transitions and m learner steps the learner is behind by (n - base) * ratio - m steps.
    It may step unless it is ahead by more than the tolerance. It may read unless it is behind by
    more than the tolerance. One of the two is therefore always allowed.
    """

    base: int
    """Transitions before the first learner step: the warm-up, or the transitions that a resumed run
    begins with."""
    ratio: float | None
    """Learner steps per transition; None lets both sides run free."""
    tolerance: float
    """Learner steps by which either side may run ahead."""

    def may_step(self, transitions: int, steps: int) -> bool:
        """Returns whether the learner may take further steps."""
        if transitions < self.base:
            return False
        return self.ratio is None or self._behind(transitions, steps) >= -self.tolerance

    def may_read(self, transitions: int, steps: int) -> bool:
        """Returns whether the learner may read another chunk."""
        if transitions < self.base or self.ratio is None:
            return True
        return self._behind(transitions, steps) <= self.tolerance

    def _behind(self, transitions: int, steps: int) -> float:
        assert self.ratio is not None
        return (transitions - self.base) * self.ratio - steps


def pacing(config: ReplayConfig, at_once: int = 1, restored: int = 0) -> Pacing:
    """Returns the pacing that holds the wanted ratio.

    Args:
        config: Settings of the replay, with warm-up and ratio.
        at_once: Learner steps in one dispatch.
        restored: Transitions that a resumed run begins with, at which neither side is ahead.
    """
    base = max(config.warmstart_steps, restored)
    if config.ratio is None:
        return Pacing(base, None, 0.0)
    tolerance = max(_TOLERANCE * config.warmstart_steps * config.ratio, float(at_once))
    return Pacing(base, config.ratio, tolerance)


def waiting_chunks(config: ReplayConfig) -> int:
    """Returns how many chunks may wait in each server for the learner."""
    in_all = _WAITING_FREE
    if config.ratio is not None:
        in_all = max(_WAITING, round(_TOLERANCE * config.warmstart_steps / CHUNK_ROWS))
    return max(2, in_all // config.replay_servers)
