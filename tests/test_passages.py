"""Which passages are recorded, and which of them first."""

import numpy as np
import pytest

from common.errors import BadInput
from piano.performance import Performance, notes_of_frames
from rlhf.passages import Passage, choose, worst_first

STEP = 0.05


def silence(steps):
    return np.zeros((steps, 88), bool)


def due(steps, onsets, key=40):
    """Notes of three control steps that are first due at `onsets`."""
    keys = silence(steps)
    for onset in onsets:
        keys[onset : onset + 3, key] = True
    return keys


def first_steps(passages):
    return [passage.first_step for passage in passages]


@pytest.mark.parametrize(
    ("steps", "size", "expected"),
    [
        (160, 40, 7),  # Eight seconds: they overlap.
        (600, 40, 8),  # Half a minute: one for every two windows.
        (6000, 40, 14),  # Five minutes: no more than raters have patience for.
        (60, 40, 3),  # Room for three that begin half a second apart.
        (40, 40, 1),
        (25, 40, 1),
    ],
)
def test_how_many_there_are_by_default(steps, size, expected):
    found = choose([silence(steps)], size)
    assert len(found) == expected
    assert all(passage.last_step - passage.first_step == min(size, steps) for passage in found)
    assert found[0].first_step == 0
    assert found[-1].last_step == steps
    gaps = np.diff(first_steps(found))
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_songs_have_passages_by_their_length():
    found = choose([silence(400), silence(30), silence(800)], 40, count=13)
    songs = [passage.song for passage in found]
    assert [songs.count(song) for song in range(3)] == [4, 1, 8]
    assert found == sorted(found)


def test_a_part_of_the_song_can_be_chosen():
    found = choose([silence(400)], 40, begin=100, end=200)
    assert found[0].first_step == 100
    assert found[-1].last_step == 200
    (beyond,) = choose([silence(400)], 40, begin=380, end=900)
    assert beyond == Passage(0, 380, 400)
    # Of several songs those count that are long enough.
    assert {passage.song for passage in choose([silence(90), silence(400)], 40, begin=100)} == {1}


def test_where_there_is_no_room_it_says_so():
    with pytest.raises(BadInput, match="--passages is 8, but there is room for 7"):
        choose([silence(100)], 40, count=8)
    with pytest.raises(BadInput, match="--from lies beyond the end"):
        choose([silence(100)], 40, begin=100)


def test_passages_neither_begin_nor_end_where_a_note_is_due():
    """A note that is first due in control step t is due at its end, between t and t + 1."""
    onsets = [onset - 1 for onset in range(10, 400, 10)]  # Each full half second.
    found = choose([due(400, onsets)], 40, count=9)
    for passage in found:
        for edge in (passage.first_step, passage.last_step):
            distance = min(abs(edge - (onset + 1)) for onset in onsets)
            assert distance >= 3 or edge in (0, 400)
    # As far as there is room: here a note is due at every other control step.
    crowded = choose([due(400, range(0, 400, 2), key=3) | due(400, range(1, 400, 2))], 40, count=9)
    assert first_steps(crowded) == first_steps(choose([silence(400)], 40, count=9))


def performance(wrong_at, steps=200):
    """A note each second, played rightly, and another key beside it at some control steps."""
    keys = due(steps, range(10, steps, 20))
    played = keys | due(steps, wrong_at, key=60)
    return Performance(
        control_timestep=np.array(STEP),
        due_keys=keys,
        due_pedal=np.zeros(steps, bool),
        played_keys=played,
        played_pedal=np.zeros(steps, bool),
        rewards=np.zeros(steps),
        due_notes=notes_of_frames(keys, STEP),
        played_notes=np.pad(notes_of_frames(played, STEP), ((0, 0), (0, 1)), constant_values=64),
        pedal_changes=np.empty((0, 2)),
        positions=np.zeros((steps + 1, 2), np.float32),
    )


def test_passages_with_most_mistakes_come_first():
    performances = {0: performance([105, 112, 150]), 1: performance([20])}
    passages = [Passage(song, first, first + 40) for song in (0, 1) for first in range(0, 200, 40)]
    expected = [(0, 80), (0, 120), (1, 0), (0, 0), (0, 40), (0, 160)]
    found = worst_first([*passages, *passages], performances)
    assert [(song, first) for song, first, _ in found][:6] == expected
    assert sorted(found) == passages
