"""The table of transitions: what is in an item, and how sampling and inserting are paced."""

import reverb
import tensorflow

from replay.config import ReplayConfig
from replay.packing import packed_size

TABLE, STEP = "transitions", "step"

# How far either side may run ahead of the wanted ratio: a share of the warm-up, and never
# less than the batches that a learner keeps in flight, or it would wait for itself.
_TOLERANCE = 0.1
_BATCHES_IN_FLIGHT = 8


def rate_limiter(config: ReplayConfig) -> reverb.rate_limiters.RateLimiter:
    """The back-pressure that holds the update-to-data ratio.

    With n inserts and m samples, `SampleToInsertRatio` lets the learner sample while
    n * s - m >= s * warmstart_steps - e and actors insert while
    n * s - m <= s * warmstart_steps + e, where s = batch_size * ratio is the number of
    samples an insert and e the error buffer (reverb/rate_limiters.py). With `free` only
    the warm-up is waited for.

    Returns:
        A limiter whose error buffer e is at least 2 * max(1, s) (below that Reverb can
        deadlock) and at least the samples that a learner has in flight.
    """
    if config.ratio is None:
        return reverb.rate_limiters.MinSize(config.warmstart_steps)
    samples_per_insert = config.batch_size * config.ratio
    error_buffer = max(
        _TOLERANCE * config.warmstart_steps * samples_per_insert,
        _BATCHES_IN_FLIGHT * config.batch_size,
        2 * max(1.0, samples_per_insert),
    )
    return reverb.rate_limiters.SampleToInsertRatio(
        samples_per_insert=samples_per_insert,
        min_size_to_sample=config.warmstart_steps,
        error_buffer=error_buffer,
    )


def table(
    config: ReplayConfig, proprioception_shape: tuple[int, int], action_dim: int
) -> reverb.Table:
    """The table: uniform sampling, the oldest removed first.

    An item holds two steps as `replay.packing` packs them: that of o[t] and that of o[t+1].
    """
    size = packed_size(proprioception_shape, action_dim)
    return reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=config.replay_capacity,
        rate_limiter=rate_limiter(config),
        signature={STEP: tensorflow.TensorSpec((2, size), tensorflow.float32)},
    )
