"""Simulated raters, which are formulas, for studies and tests."""

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
"""Function that rates a passage from 0 to 1.

The first line of its docstring is the formula that `--help` shows.
"""

_HIGHEST_VELOCITY = 127
# Standard deviation of MIDI velocities at which evenness is 1 / e.
_UNEVEN = 16.0
# Onsets that are closer together than this form a chord.
_CHORD_SECONDS = 0.05
_DOUBLE_SECONDS = 0.2
# Onset error beyond which a note does not count as a hit, see `piano.metrics`.
_LATEST_SECONDS = 0.05
# Mean change of an action between control steps at which smoothness is 1 / e.
_ROUGH = 0.25

_SIMULATED = "simulated "


# --- Qualities --------------------------------------------------------------------------


def note_f1(performance: Performance, _trajectory: Trajectory) -> float:
    """Note-event F1: 2 hits / (notes due + notes played); a hit begins within 50 ms."""
    return note_metrics(performance.due_notes, performance.played_notes)["note_f1"]


def velocity_f1(performance: Performance, _trajectory: Trajectory) -> float:
    """Note-event F1 where a hit also fits the dynamics of the score (mir_eval).

    See `piano.metrics.velocity_f1`.

    Raises:
        BadInput: The performance lacks the velocities of the score.
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

    The next onset is that of the first note that begins more than 50 ms later. The key overlap is
    the time from the next onset to the release; it is negative if the key is released earlier.
    Notes without a next onset do not count. If no note counts, legato is 0.
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
"""Qualities by name. If no note is played, all except the two F1 scores, the onset precision and
the smoothness are 0, since there is no touch to hear."""


def describe_qualities() -> str:
    """Returns all qualities and their formulas, one per line."""
    return "\n".join(
        f"{name}: {(quality.__doc__ or '').partition(chr(10))[0]}"
        for name, quality in QUALITIES.items()
    )


def parse_quality(text: str) -> Quality:
    """Parses the quality that a rater listens for.

    Args:
        text: Name in `QUALITIES`, or weighted mean of several, such as "note-f1:0.5,softness:0.5".
            Weights are above 0, and are divided by their sum.

    Raises:
        BadInput: A quality does not exist or occurs twice, a weight is missing or is not a number
            above 0, or the text is too long for a rater's name.
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
    """Returns the quality in a simulated rater's name; None if the name contains none."""
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


# --- Answers ----------------------------------------------------------------------------


def score(quality: float) -> int:
    """Converts a quality into a score: 0 becomes 1, and 1 becomes 100."""
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
        segments: Segments to be rated.
        ratings: Ratings that receive the scores.
        listens_for: Quality that the raters listen for, see `parse_quality`.
        raters: Number of raters.
        noise: Standard deviation, in points, of the noise of each score.
        disagreement: Constant difference between raters: standard deviation of each rater's offset,
            in points, and of each rater's spread, in percent.
        seed: Random seed of noise and disagreement.

    Returns:
        The raters, whose names contain the quality.

    Raises:
        BadInput: The quality cannot be parsed, a segment's files are damaged, or a person has the
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
