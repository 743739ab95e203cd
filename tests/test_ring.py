"""The replay on the learner's device, against a list of all that was ever put in."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ring import Ring, draw, gather, ring_bytes, rows_of
from replay.packing import CHUNK_ROWS

SIZE = 3


def chunk_of(number, rows):
    """Rows that are told apart by their numbers."""
    return np.array([[number, row, 0.5] for row in range(rows)], np.float32)


def pairs_of(chunk):
    return list(np.stack([chunk[:-1], chunk[1:]], axis=1))


def held(ring, capacity):
    """All that is whole, the oldest first: (transitions, 2, SIZE)."""
    indices = (ring.window.first + np.arange(ring.window.count)) % capacity
    return np.asarray(gather(ring.rings, indices))


# Few values, so that little is compiled.
@given(
    capacity=st.sampled_from([5, 70, 700]),
    lengths=st.lists(st.integers(2, CHUNK_ROWS), min_size=1, max_size=30),
    flushed=st.lists(st.booleans(), min_size=30, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_what_is_held_is_the_newest_that_was_put_in(capacity, lengths, flushed):
    ring, written = Ring(capacity, SIZE), []
    for number, (rows, flush) in enumerate(zip(lengths, flushed, strict=False)):
        chunk = chunk_of(number, rows)
        ring.put(chunk)
        written += pairs_of(chunk)
        if flush or number == len(lengths) - 1:
            ring.flush()
            there = held(ring, capacity)
            assert len(there) == ring.size <= capacity
            np.testing.assert_array_equal(there, written[-len(there) :])
    assert ring.taken_in == len(written)
    # What short chunks may cost: a row each.
    fits = (rows_of(capacity) - CHUNK_ROWS) // 2
    assert ring.size >= min(len(written), capacity, fits)


@pytest.mark.parametrize("capacity", [63, 1000])
def test_with_full_chunks_it_holds_as_many_as_it_is_said_to(capacity):
    ring = Ring(capacity, SIZE)
    for number in range(40):
        ring.put(chunk_of(number, CHUNK_ROWS))
        ring.flush()
        assert ring.size == min(63 * (number + 1), capacity)


def test_more_rows_than_a_chunk_has_lose_nothing():
    ring = Ring(1000, SIZE)
    steps = chunk_of(0, 200)
    ring.put(steps)
    ring.flush()
    np.testing.assert_array_equal(held(ring, 1000), pairs_of(steps))


def test_what_is_drawn_is_uniform_over_what_is_held_across_the_end_of_the_ring():
    capacity = 100
    ring = Ring(capacity, SIZE)
    for number in range(7):
        ring.put(chunk_of(number, 41))
    ring.flush()
    window = ring.window
    assert window.first + window.count > capacity
    draws = 200_000
    indices = np.asarray(draw(window, capacity, (draws,), jax.random.PRNGKey(1)))
    counts = np.bincount((indices - window.first) % capacity, minlength=capacity)
    assert counts[window.count :].sum() == 0
    expected = draws / window.count
    chi_squared = ((counts[: window.count] - expected) ** 2 / expected).sum()
    # Mean and variance of chi squared: so many degrees of freedom, and twice as many.
    degrees = window.count - 1
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_a_million_transitions_take_less_than_0_9_gigabytes():
    assert ring_bytes(1_000_000, 218) < 0.9e9
    ring = Ring(5000, 218)
    assert sum(array.nbytes for array in ring.rings) == ring_bytes(5000, 218)
