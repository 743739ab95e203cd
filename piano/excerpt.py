"""A part of a piece: its notes, cut at the edges, and its pedal."""

from typing import NamedTuple

from note_seq.protobuf import music_pb2

from piano.keyboard import PEDAL_CONTROLLER

SHORTEST_CUT_NOTE_SECONDS = 0.05
"""Length of the shortest piece of a note that a cut keeps, in seconds: a usual control step."""
_SAME_MOMENT = 1e-6
_DECIMALS = 9


class Excerpt(NamedTuple):
    """A part of a piece, and what the cut did."""

    sequence: music_pb2.NoteSequence
    """Notes and pedal. Times are seconds after the begin of the part."""
    cut: list[float]
    """Times in the piece, in seconds, at which notes sound across an edge and were cut."""
    too_short: list[float]
    """Times at which notes sound across an edge and were left out, because the part has less than
    `SHORTEST_CUT_NOTE_SECONDS` of them."""


def take(sequence: music_pb2.NoteSequence, begin: float, end: float) -> Excerpt:
    """Returns a part of a piece. The pedal begins as it was before.

    Args:
        sequence: Notes and pedal of the whole piece.
        begin: Begin of the part in seconds.
        end: End of the part in seconds.
    """
    excerpt = Excerpt(music_pb2.NoteSequence(total_time=_after(begin, end)), [], [])
    for note in sequence.notes:
        start, stop = max(note.start_time, begin), min(note.end_time, end)
        if stop - start < _SAME_MOMENT:
            continue
        if note.start_time < begin - _SAME_MOMENT or note.end_time > end + _SAME_MOMENT:
            if stop - start < SHORTEST_CUT_NOTE_SECONDS - _SAME_MOMENT:
                excerpt.too_short.append(start)
                continue
            excerpt.cut.append(start)
        kept = excerpt.sequence.notes.add()
        kept.CopyFrom(note)
        kept.start_time, kept.end_time = _after(begin, start), _after(begin, stop)
    changes = [one for one in sequence.control_changes if one.control_number == PEDAL_CONTROLLER]
    changes.sort(key=lambda change: change.time)
    before = [change for change in changes if change.time < begin + _SAME_MOMENT]
    inside = [change for change in changes[len(before) :] if change.time < end - _SAME_MOMENT]
    for change in before[-1:] + inside:
        excerpt.sequence.control_changes.add(
            time=_after(begin, max(begin, change.time)),
            control_number=PEDAL_CONTROLLER,
            control_value=change.control_value,
        )
    return excerpt


def _after(begin: float, time: float) -> float:
    """Returns the seconds from begin to time.

    They are rounded, because 2.3 - 2.0 is less than 0.3, which would be in an earlier frame.
    """
    return round(time - begin, _DECIMALS)
