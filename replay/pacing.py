"""Back-pressure: how the update-to-data ratio is held, whichever table keeps the transitions."""

from typing import NamedTuple

from replay.config import ReplayConfig

# How far either side may run ahead of the wanted ratio: a share of the warm-up, and never
# less than the batches that are on their way to the learner, or it would wait for itself.
_TOLERANCE = 0.1
BATCHES_ON_THEIR_WAY = 32


class Pacing(NamedTuple):
    """What may be inserted and sampled when.

    With n inserts and m samples the learner may sample while n * s - m >= s * min_size - e and
    actors may insert while n * s - m <= s * min_size + e, as Reverb's `SampleToInsertRatio` has it
    (reverb/rate_limiters.py). Without a ratio only the warm-up is waited for.
    """

    min_size: int
    """The warm-up, or what a resumed run begins with: nothing is sampled before."""
    samples_per_insert: float | None
    """s = batch size * update-to-data ratio; None without a ratio."""
    error_buffer: float
    """e, at least 2 * max(1, s): below that Reverb can deadlock."""

    def may_sample(self, inserted: int, sampled: int, size: int, more: int) -> bool:
        """Whether so many more may be sampled."""
        if size < self.min_size:
            return False
        if self.samples_per_insert is None:
            return True
        surplus = inserted * self.samples_per_insert - sampled - more
        return surplus >= self.samples_per_insert * self.min_size - self.error_buffer

    def may_insert(self, inserted: int, sampled: int) -> bool:
        """Whether one more may be inserted."""
        if self.samples_per_insert is None or inserted < self.min_size:
            return True
        surplus = (inserted + 1) * self.samples_per_insert - sampled
        return surplus <= self.samples_per_insert * self.min_size + self.error_buffer


def pacing(config: ReplayConfig, restored: int = 0) -> Pacing:
    """The pacing that holds the wanted ratio.

    Args:
        config: warm-up, batch size and ratio.
        restored: transitions that a resumed run begins with; with them neither side is ahead.
    """
    min_size = max(config.warmstart_steps, restored)
    if config.ratio is None:
        return Pacing(min_size, None, 0.0)
    samples_per_insert = config.batch_size * config.ratio
    error_buffer = max(
        _TOLERANCE * config.warmstart_steps * samples_per_insert,
        BATCHES_ON_THEIR_WAY * config.batch_size,
        2 * max(1.0, samples_per_insert),
    )
    return Pacing(min_size, samples_per_insert, error_buffer)
