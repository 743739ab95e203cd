"""Raters that are formulas, for studies and tests; their answers are kept as people's are."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from common.errors import BadInput, require
from piano.metrics import match_notes, note_metrics
from piano.metrics import velocity_f1 as _velocity_f1
from piano.performance import Performance
from rlhf.collection import Segment, Trajectory
from rlhf.ratings import HIGHEST_SCORE, LONGEST_NAME, LOWEST_SCORE, Rater, Ratings

Quality = Callable[[Performance, Trajectory], float]
"""What a simulated rater hears in a passage: a number from 0 to 1.

The first line of its docstring is the formula, as `--help` shows it.
"""

_HIGHEST_VELOCITY = 127
# The spread of MIDI velocities at which evenness is 1 / e.
_UNEVEN = 16.0
# Onsets that are closer than this make a chord.
_CHORD_SECONDS = 0.05
_DOUBLE_SECONDS = 0.2
# The onset error beyond which a note is no hit, see `piano.metrics`.
_LATEST_SECONDS = 0.05
# The mean change of an action from one control step to the next at which smoothness is 1 / e.
_ROUGH = 0.25

_SIMULATED = "simulated "


# --- What they listen for ---------------------------------------------------------------


def note_f1(performance: Performance, _trajectory: Trajectory) -> float:
    """Note-event F1: 2 hits / (notes due + notes played); a hit begins within 50 ms."""
    return note_metrics(performance.due_notes, performance.played_notes)["note_f1"]


def velocity_f1(performance: Performance, _trajectory: Trajectory) -> float:
    """The same, where a hit also fits the dynamics of the score (mir_eval).

    See `piano.metrics.velocity_f1`.

    Raises:
        BadInput: the performance does not say at which velocities its notes were due.
    """
    require(
        bool(np.isfinite(performance.due_velocities).all()),
        "the rater velocity-f1 needs the velocities of the score, which performances recorded by "
        "an earlier version lack: record the collection again, or choose another rater",
    )
    return _velocity_f1(performance)


def evenness(performance: Performance, _trajectory: Trajectory) -> float:
    """exp(-standard deviation of the MIDI velocities / 16)."""
    velocities = performance.played_notes[:, 3]
    return math.exp(-float(np.std(velocities)) / _UNEVEN) if len(velocities) else 0.0


def legato(performance: Performance, _trajectory: Trajectory) -> float:
    """Mean of 1 + key overlap / time to the next onset, each from 0 to 1.

    The key overlap is the time from the next onset, that of the first note that begins more than
    50 ms later, to the release; it is negative where the key is up before. The notes that no other
    follows do not count; if none counts, nothing is connected, and legato is 0.
    """
    onsets, offsets = performance.played_notes[:, 0], performance.played_notes[:, 1]
    following = np.searchsorted(onsets, onsets + _CHORD_SECONDS, side="right")
    followed = following < len(onsets)
    if not followed.any():
        return 0.0
    begun, released = onsets[followed], offsets[followed]
    held = (released - begun) / (onsets[following[followed]] - begun)
    return float(np.mean(np.clip(held, 0.0, 1.0)))


def softness(performance: Performance, _trajectory: Trajectory) -> float:
    """1 - mean MIDI velocity / 127."""
    velocities = performance.played_notes[:, 3]
    return 1 - float(np.mean(velocities)) / _HIGHEST_VELOCITY if len(velocities) else 0.0


def double_strikes(performance: Performance, _trajectory: Trajectory) -> float:
    """1 - double strikes / notes played; the fewer, the better.

    A double strike is a note that begins less than 0.2 s after another of its key, unless both
    are hits.
    """
    played = performance.played_notes
    if not len(played):
        return 0.0
    hits = {j for _, j in match_notes(performance.due_notes, played)}
    doubles, before = 0, dict[int, int]()
    for note, (onset, _, key, _) in enumerate(played):
        last = before.get(int(key))
        if last is not None and onset - played[last, 0] < _DOUBLE_SECONDS:
            doubles += not (last in hits and note in hits)
        before[int(key)] = note
    return 1 - doubles / len(played)


def onset_precision(performance: Performance, _trajectory: Trajectory) -> float:
    """Mean over the notes due of 1 - onset error / 50 ms; 0 for a note missed."""
    due, played = performance.due_notes, performance.played_notes
    if not len(due):
        return 1.0
    errors = [float(abs(due[i, 0] - played[j, 0])) for i, j in match_notes(due, played)]
    return sum(max(0.0, 1 - error / _LATEST_SECONDS) for error in errors) / len(due)


def smoothness(_performance: Performance, trajectory: Trajectory) -> float:
    """exp(-mean change of an action from one control step to the next / 0.25)."""
    change = np.abs(np.diff(trajectory.action, axis=0))
    return float(np.exp(-np.mean(change) / _ROUGH)) if change.size else 1.0


def notes_and_softness(performance: Performance, trajectory: Trajectory) -> float:
    """Note-event F1 x (1 - mean MIDI velocity / 127)."""
    return note_f1(performance, trajectory) * softness(performance, trajectory)


QUALITIES: dict[str, Quality] = {
    "note-f1": note_f1,
    "velocity-f1": velocity_f1,
    "evenness": evenness,
    "legato": legato,
    "softness": softness,
    "double-strikes": double_strikes,
    "onset-precision": onset_precision,
    "smoothness": smoothness,
    "notes-and-softness": notes_and_softness,
}
"""By name. Where no note is played, there is no touch to hear: all but the F1s, the onset
precision and the smoothness are 0."""


def describe_qualities() -> str:
    """All qualities and their formulas, one a line."""
    return "\n".join(
        f"{name}: {(quality.__doc__ or '').partition(chr(10))[0]}"
        for name, quality in QUALITIES.items()
    )


def parse_quality(text: str) -> Quality:
    """What a rater listens for.

    Args:
        text: a name in `QUALITIES`, or a weighted mean of several, such as
            "note-f1:0.5,softness:0.5"; weights are above 0, and divided by their sum.

    Raises:
        BadInput: there is no such quality, one comes twice, or a weight is not a number above 0.
    """
    weights = _weights(text)
    total = sum(weights.values())

    def weighted_mean(performance: Performance, trajectory: Trajectory) -> float:
        return sum(
            weight / total * QUALITIES[name](performance, trajectory)
            for name, weight in weights.items()
        )

    return weighted_mean


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = (word.strip() for word in part.partition(":"))
        require(
            name in QUALITIES,
            f"there is no simulated rater {name!r}: choose among {', '.join(QUALITIES)}, or weigh "
            "several, as in note-f1:0.5,softness:0.5",
        )
        require(name not in weights, f"{name} comes twice in {text!r}")
        try:
            weights[name] = float(number) if colon else 1.0
        except ValueError as error:
            raise BadInput(f"the weight of {name} is {number!r}, must be a number") from error
        require(
            0 < weights[name] < math.inf,
            f"the weight of {name} is {number}, must be a number above 0",
        )
        require(
            bool(colon) or "," not in text,
            f"{name} has no weight in {text!r}: write {name}:0.5, for example",
        )
    longest = LONGEST_NAME - len(_SIMULATED) - len(" 100")
    require(
        len(text) <= longest,
        f"{text!r} has {len(text)} characters, but the name of a simulated rater has room for "
        f"{longest}: weigh fewer qualities, or with shorter numbers",
    )
    return weights


def listened_for(rater: str) -> str | None:
    """What the simulated rater of this name listens for; None where the name says none."""
    if not rater.startswith(_SIMULATED):
        return None
    text, _, number = rater.removeprefix(_SIMULATED).rpartition(" ")
    if not (text and number.isdecimal()):
        text = rater.removeprefix(_SIMULATED)
    try:
        _weights(text)
    except BadInput:
        return None
    return text


# --- Their answers ----------------------------------------------------------------------


def score(quality: float) -> int:
    """The score that goes with a quality: 1 for 0 and 100 for 1."""
    return _whole(_points(quality))


def rate(
    segments: Sequence[Segment],
    ratings: Ratings,
    listens_for: str,
    raters: int = 1,
    noise: float = 0.0,
    disagreement: float = 0.0,
    seed: int = 0,
) -> list[Rater]:
    """Has simulated raters rate every segment.

    Args:
        segments: to be rated.
        ratings: where the scores go.
        listens_for: see `parse_quality`.
        raters: how many.
        noise: standard deviation, in points, of what a rater's score varies by from one segment
            to the next.
        disagreement: how far raters differ from one another throughout: the standard deviation,
            in points, of each one's own offset, and in per cent, of each one's own spread.
        seed: of all of that.

    Returns:
        The raters, named after what they listen for.

    Raises:
        BadInput: they cannot listen for that, a segment's files are damaged, or a person has the
            same name.
    """
    quality = parse_quality(listens_for)
    listens_for = "".join(listens_for.split())
    points = np.array(
        [_points(quality(segment.judged(), segment.trajectory())) for segment in segments]
    )
    given = []
    for number in range(raters):
        random = np.random.default_rng((seed, number))
        name = listens_for if raters == 1 else f"{listens_for} {number + 1}"
        rater = Rater(f"{_SIMULATED}{name}", "simulated")
        offset, spread = random.normal(0.0, disagreement, 2)
        middle = points.mean()
        personal = middle + offset + (points - middle) * np.exp(spread / 100)
        scores = personal + random.normal(0.0, noise, len(points))
        for segment, value in zip(segments, scores, strict=True):
            ratings.rate(rater, segment.name, _whole(value))
        given.append(rater)
    return given


def _points(quality: float) -> float:
    return LOWEST_SCORE + (HIGHEST_SCORE - LOWEST_SCORE) * quality


def _whole(points: float) -> int:
    return int(np.clip(round(points), LOWEST_SCORE, HIGHEST_SCORE))
