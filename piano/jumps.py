"""Jumps that a hand cannot make in time, whatever hand plays which note.

A hand covers an octave. Between two of its chords it can begin to move when it releases the first.
The time that a move takes was measured on the simulated forearms, with the actions that move them
fastest: an octave took 0.13 s. The notes are divided between the hands so that the jumps are as
few and as short as possible.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from piano.keyboard import LOWEST_PITCH

_SPAN = 12
"""Semitones from the lowest to the highest key that a hand reaches without a move."""
_SECONDS_A_MOVE = 0.05
_SECONDS_A_SEMITONE = 0.0106  # 13.75 mm at 1.3 m/s.
_TOLERANCE = 0.1
"""Seconds that an early release and a late onset gain: 0.05 each, as the metrics allow."""
_CHORD_SECONDS = 0.05
_MOST_STATES = 6
_COST_A_SEMITONE = 1e-3
_COST_OF_A_STRETCH = 0.1


class Jump(NamedTuple):
    """A jump that takes longer than the score gives."""

    seconds: float
    """Time of the onset after the jump."""
    hand: str
    """Hand that jumps: "left" or "right"."""
    semitones: int
    """Semitones that the hand has to move."""
    available: float
    """Seconds between the release before the jump and the onset after it."""
    key: int
    """Lowest key after the jump, 0 to 87."""


class _Hand(NamedTuple):
    """The keys that a hand played last."""

    low: int
    high: int
    end: float
    """Time at which it releases them, in seconds."""


class _Jumps(NamedTuple):
    """Jumps so far."""

    newest: Jump
    before: "_Jumps | None"


class _State(NamedTuple):
    """One way to divide the notes so far."""

    cost: float
    hands: tuple[_Hand | None, _Hand | None]
    """Left and right hand; None for a hand that has not played."""
    jumps: _Jumps | None


def find_jumps(notes: Sequence[tuple[float, float, int]]) -> list[Jump]:
    """Returns the jumps that a hand cannot make in time, in the order of time.

    Args:
        notes: Start and end in seconds, and pitch, of each note, in any order.
    """
    states = [_State(0.0, (None, None), None)]
    for chord in _chords(notes):
        # The left hand plays the lowest notes of a chord.
        found = [
            _play(state, chord, number) for state in states for number in range(len(chord) + 1)
        ]
        states = sorted(found, key=lambda state: state.cost)[:_MOST_STATES]
    jumps, rest = [], states[0].jumps
    while rest is not None:
        jumps.append(rest.newest)
        rest = rest.before
    return jumps[::-1]


def _chords(
    notes: Sequence[tuple[float, float, int]],
) -> Iterator[list[tuple[float, float, int]]]:
    """Yields the notes that begin together, each chord from its lowest note to its highest."""
    chord: list[tuple[float, float, int]] = []
    for note in sorted(notes):
        if chord and note[0] >= chord[0][0] + _CHORD_SECONDS:
            yield sorted(chord, key=lambda one: one[2])
            chord = []
        chord.append(note)
    if chord:
        yield sorted(chord, key=lambda one: one[2])


def _play(state: _State, chord: list[tuple[float, float, int]], number: int) -> _State:
    """Returns the state after a chord whose lowest `number` notes the left hand plays."""
    cost, hands, jumps = state.cost, [*state.hands], state.jumps
    for side, part in enumerate((chord[:number], chord[number:])):
        if not part:
            continue
        start = min(note[0] for note in part)
        now = _Hand(part[0][2], part[-1][2], max(note[1] for note in part))
        before = hands[side]
        cost += _COST_OF_A_STRETCH * max(0, now.high - now.low - _SPAN)
        if before is not None:
            # The hand keeps to its keys as long as it reaches the new ones from there.
            semitones = max(0, now.high - _SPAN - before.low, before.high - _SPAN - now.low)
            available = max(0.0, start - before.end)
            late = _SECONDS_A_MOVE + _SECONDS_A_SEMITONE * semitones - available - _TOLERANCE
            cost += _COST_A_SEMITONE * semitones
            if semitones and late > 0:
                cost += late
                jump = Jump(
                    start, ("left", "right")[side], semitones, available, now.low - LOWEST_PITCH
                )
                jumps = _Jumps(jump, jumps)
            elif start < before.end - _CHORD_SECONDS:  # It still holds notes.
                now = _Hand(
                    min(before.low, now.low), max(before.high, now.high), max(before.end, now.end)
                )
        hands[side] = now
    left, right = hands
    if left is not None and right is not None:
        cost += _COST_A_SEMITONE * max(0, left.high - right.low)
    return _State(cost, (left, right), jumps)


def most_at_once(notes: Sequence[tuple[float, float, int]]) -> int:
    """Returns the largest number of notes that sound at one time."""
    changes = sorted(
        itertools.chain.from_iterable(((end, -1), (start, 1)) for start, end, _ in notes)
    )
    return max(itertools.accumulate(change for _, change in changes), default=0)
