"""The replay on the learner's device: a ring of steps that the compiled update samples.

Each step is kept once. A second ring has the row of each transition's first step; its next step is
in the following row. Chunks arrive in order and are overwritten in order, so the complete
transitions always form one range of numbers. Uniform sampling takes one random integer and two
gathers. It is exact across the ends of chunks, episodes and rings.
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
"""Most rows that go to the device at once. Up to `CHUNK_ROWS` rows go in a block of that size."""


class Rings(NamedTuple):
    """The arrays on the device."""

    steps: Array
    """Packed steps, (rows, packed size) float32; see `replay.packing`."""
    starts: Array
    """Row of each transition's first step, (capacity,) int32."""


class Window(NamedTuple):
    """The range of complete transitions."""

    first: Array
    """Place of the oldest complete transition in `Rings.starts`, () int32."""
    count: Array
    """Number of complete transitions, () int32. They follow one another from the oldest."""


def rows_of(capacity: int) -> int:
    """Returns how many rows `capacity` transitions take; the last row of a chunk starts none."""
    return capacity + -(-capacity // (CHUNK_ROWS - 1)) + CHUNK_ROWS


def ring_bytes(capacity: int, packed_size: int) -> int:
    """Returns the bytes that a ring takes."""
    return 4 * (rows_of(capacity) * packed_size + capacity)


def draw(window: Window, capacity: int, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Draws indices of transitions in `Rings.starts` uniformly, int32 of the given shape."""
    return (window.first + jax.random.randint(key, shape, 0, window.count)) % capacity


def gather(rings: Rings, indices: Array) -> Array:
    """Returns the transitions at indices (...), (..., 2, packed size) float32."""
    now = rings.starts[indices]
    then = (now + 1) % len(rings.steps)
    return rings.steps[jnp.stack([now, then], axis=-1)]


@functools.partial(jax.jit, donate_argnums=0)
def _put(
    rings: Rings,
    block: jax.Array,
    starts: jax.Array,
    row: jax.Array,
    transition: jax.Array,
    counts: jax.Array,
) -> Rings:
    """Writes the first rows of a block and the first of its starts, around the rings' ends."""

    def indices(size: int, begin: jax.Array, count: jax.Array, ring: int) -> jax.Array:
        numbers = jnp.arange(size, dtype=jnp.int32)
        written = (numbers < count) & (numbers >= count - ring)
        # JAX drops writes to indices beyond the end of the ring.
        return jnp.where(written, (begin + numbers) % ring, ring)

    rows = indices(len(block), row, counts[0], len(rings.steps))
    transitions = indices(len(starts), transition, counts[1], len(rings.starts))
    return Rings(
        rings.steps.at[rows].set(block, mode="drop", unique_indices=True),
        rings.starts.at[transitions].set(starts, mode="drop", unique_indices=True),
    )


class Ring:
    """Keeps the newest transitions in two rings on the device, and overwrites the oldest first.

    Chunks are collected in blocks on their way to the device; `flush` sends the last block. Copies
    are asynchronous and donate the buffers of the rings, so read `rings` again after each `put` and
    `flush`.

    Args:
        capacity: Number of transitions if all chunks are full. Fewer fit if chunks are short.
        packed_size: Numbers in a step.

    Raises:
        RuntimeError: The device lacks the memory for the rings; JAX raises it.
    """

    def __init__(self, capacity: int, packed_size: int):
        self._capacity = capacity
        self._size = packed_size
        self._rows = rows_of(capacity)
        self.rings = jax.block_until_ready(
            Rings(jnp.zeros((self._rows, packed_size), jnp.float32), jnp.zeros(capacity, jnp.int32))
        )
        self.taken_in = 0
        """Number of transitions put in so far."""
        self._written = 0
        """Number of rows written so far."""
        self._chunks: collections.deque[tuple[int, int, int]] = collections.deque()
        """First row, first transition and number of transitions of each chunk. Rows and transitions
        are counted on beyond the ends of the rings."""
        self._begin_block()

    @property
    def window(self) -> Window:
        """The range of complete transitions. Call `flush` first."""
        assert not self._filled
        first = self._first()
        return Window(np.int32(first % self._capacity), np.int32(self.taken_in - first))

    @property
    def size(self) -> int:
        """Number of complete transitions."""
        return self.taken_in - self._first()

    def put(self, chunk: np.ndarray) -> None:
        """Takes two or more consecutive rows, (rows, packed size) float32."""
        while len(chunk) > CHUNK_ROWS:  # Journals from before chunks have longer ones.
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
        """Sends everything that has been put in to the device."""
        if not self._filled:
            return
        # Only two sizes, since each is compiled.
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
        # New arrays each time, since the copy of the previous block may still be under way.
        self._block = np.empty((_BLOCK_ROWS, self._size), np.float32)
        self._starts = np.empty(_BLOCK_ROWS, np.int32)
        self._filled = self._started = 0

    def _first(self) -> int:
        """Returns the number of the oldest complete transition."""
        oldest_row = self._written - self._rows
        while self._chunks:
            row, transition, count = self._chunks[0]
            if row + count > oldest_row:
                return max(transition + max(0, oldest_row - row), self.taken_in - self._capacity)
            self._chunks.popleft()
        return self.taken_in
