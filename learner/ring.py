"""The replay on the learner's device: a ring of steps, sampled inside the compiled update.

Each step is kept once. A second ring has the row of each transition's first step; its next step is
in the row after. Chunks come in order, and are overwritten in order, so that the transitions that
are whole are always those of one range of numbers: uniform sampling is one random integer and two
gathers, exact across the ends of chunks, episodes and rings.
"""

import collections
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learner.observation import Array
from replay.packing import CHUNK_ROWS, transitions_in

_BLOCK_ROWS = 512
"""Rows that go to the device at once, at most; fewer go in blocks of a chunk's."""


class Rings(NamedTuple):
    """What lies on the device."""

    steps: Array
    """(rows, packed size) float32, see `replay.packing`."""
    starts: Array
    """(capacity,) int32: the row of each transition's first step."""


class Window(NamedTuple):
    """The transitions that are whole."""

    first: Array
    """() int32, place of the oldest in `Rings.starts`."""
    count: Array
    """() int32, how many there are; the others follow it."""


def rows_of(capacity: int) -> int:
    """Rows that so many transitions take: the last row of a chunk begins none."""
    return capacity + -(-capacity // (CHUNK_ROWS - 1)) + CHUNK_ROWS


def ring_bytes(capacity: int, packed_size: int) -> int:
    """Bytes that a ring takes."""
    return 4 * (rows_of(capacity) * packed_size + capacity)


def draw(window: Window, capacity: int, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Places of transitions in `Rings.starts`, drawn uniformly, int32 of a shape."""
    return (window.first + jax.random.randint(key, shape, 0, window.count)) % capacity


def gather(rings: Rings, places: Array) -> Array:
    """The transitions at places (...): (..., 2, packed size) float32."""
    now = rings.starts[places]
    then = (now + 1) % len(rings.steps)
    return rings.steps[jnp.stack([now, then], axis=-1)]


@functools.partial(jax.jit, donate_argnums=0)
def _put(
    rings: Rings,
    block: jax.Array,
    starts: jax.Array,
    row: jax.Array,
    place: jax.Array,
    counts: jax.Array,
) -> Rings:
    """Writes the first rows of a block and the first of its starts, around the rings' ends."""

    def places(size: int, begin: jax.Array, count: jax.Array, ring: int) -> jax.Array:
        numbers = jnp.arange(size, dtype=jnp.int32)
        written = (numbers < count) & (numbers >= count - ring)
        # What is behind the end of the ring is dropped.
        return jnp.where(written, (begin + numbers) % ring, ring)

    rows = places(len(block), row, counts[0], len(rings.steps))
    transitions = places(len(starts), place, counts[1], len(rings.starts))
    return Rings(
        rings.steps.at[rows].set(block, mode="drop", unique_indices=True),
        rings.starts.at[transitions].set(starts, mode="drop", unique_indices=True),
    )


class Ring:
    """The newest transitions, in two rings on the device; the oldest are overwritten first.

    Chunks are gathered in blocks on their way; `flush` sends the last. Copies are asynchronous,
    into buffers that are given away: `rings` is to be read anew after each `put` and `flush`.

    Args:
        capacity: transitions, where chunks are full; fewer where they are short.
        packed_size: numbers in a step.

    Raises:
        RuntimeError: JAX's, the device has no room for it.
    """

    def __init__(self, capacity: int, packed_size: int):
        self._capacity = capacity
        self._size = packed_size
        self._rows = rows_of(capacity)
        self.rings = jax.block_until_ready(
            Rings(jnp.zeros((self._rows, packed_size), jnp.float32), jnp.zeros(capacity, jnp.int32))
        )
        self.taken_in = 0
        """Transitions that have been put in."""
        self._written = 0
        """Rows that have been written."""
        self._chunks: collections.deque[tuple[int, int, int]] = collections.deque()
        """First row, first transition and transitions of each chunk, counted without end."""
        self._begin_block()

    @property
    def window(self) -> Window:
        """The transitions that are whole; `flush` comes first."""
        assert not self._filled
        first = self._first()
        return Window(np.int32(first % self._capacity), np.int32(self.taken_in - first))

    @property
    def size(self) -> int:
        """How many transitions are whole."""
        return self.taken_in - self._first()

    def put(self, chunk: np.ndarray) -> None:
        """Takes rows that follow each other, two or more, (rows, packed size) float32."""
        while len(chunk) > CHUNK_ROWS:  # Of a journal from before chunks.
            self._put_one(chunk[:CHUNK_ROWS])
            chunk = chunk[CHUNK_ROWS - 1 :]
        self._put_one(chunk)

    def _put_one(self, chunk: np.ndarray) -> None:
        count = transitions_in(chunk)
        if self._filled + len(chunk) > len(self._block):
            self.flush()
        self._block[self._filled : self._filled + len(chunk)] = chunk
        rows = (self._written + np.arange(count)) % self._rows
        self._starts[self._started : self._started + count] = rows
        self._chunks.append((self._written, self.taken_in, count))
        self._filled += len(chunk)
        self._started += count
        self._written += len(chunk)
        self.taken_in += count

    def flush(self) -> None:
        """Sends what has been put in to the device."""
        if not self._filled:
            return
        # Two sizes, since each is compiled.
        size = CHUNK_ROWS if self._filled <= CHUNK_ROWS else _BLOCK_ROWS
        self.rings = _put(
            self.rings,
            self._block[:size],
            self._starts[:size],
            np.int32((self._written - self._filled) % self._rows),
            np.int32((self.taken_in - self._started) % self._capacity),
            np.array([self._filled, self._started], np.int32),
        )
        self._begin_block()

    def _begin_block(self) -> None:
        # A new one each time: the copy of the one before may be under way.
        self._block = np.empty((_BLOCK_ROWS, self._size), np.float32)
        self._starts = np.empty(_BLOCK_ROWS, np.int32)
        self._filled = self._started = 0

    def _first(self) -> int:
        """Number of the oldest transition that is whole."""
        oldest_row = self._written - self._rows
        while self._chunks:
            row, transition, count = self._chunks[0]
            if row + count > oldest_row:
                return max(transition + max(0, oldest_row - row), self.taken_in - self._capacity)
            self._chunks.popleft()
        return self.taken_in
