"""The section on performances: the video, the piano roll, and the first next to the last."""

import base64
import html
import pathlib
from collections.abc import Iterable, Sequence

from common.errors import BadInput
from piano.performance import Performance
from report.charts import full_number, short_number
from report.key_statuses import key_range
from report.piano_roll import draw_roll, draw_strip
from report.records import Evaluation, Steps
from report.velocity_lane import describe_touch

MOST_VIDEO_BYTES = 20_000_000
"""Largest total size of the videos on one page, in bytes."""


def draw_video(evaluations: Sequence[Evaluation], steps: Steps) -> str:
    """Embeds the newest video, or names it if it is too large; empty if there is no video."""
    for evaluation in reversed(evaluations):
        video = find_video(evaluation)
        if video is not None:
            return (
                '<section class="film"><h2>See and hear it</h2>'
                f"{caption(evaluation, steps)}{embed_video(video, MOST_VIDEO_BYTES)}</section>"
            )
    return ""


def find_video(evaluation: Evaluation) -> pathlib.Path | None:
    """Returns the video of an evaluation; for several songs, that of the first."""
    return _first_file(evaluation, "video.mp4")


def embed_video(video: pathlib.Path, most_bytes: int) -> str:
    """Embeds a video in the page, or names its path if it is larger than `most_bytes`."""
    size = video.stat().st_size
    if size > most_bytes:
        return (
            f"<p>The video of {size / 1e6:.0f} MB is too large for this page: "
            f"open {html.escape(str(video))}.</p>"
        )
    data = base64.b64encode(video.read_bytes()).decode("ascii")
    return (
        '<video controls playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def draw_performances(
    evaluations: Sequence[Evaluation], steps: Steps, then_and_now: bool = True
) -> str:
    """Draws the newest performance in full and, optionally, a strip of it next to the first.

    Args:
        evaluations: Evaluations of the run, oldest first.
        steps: Steps that the run counts.
        then_and_now: Whether to draw the strips of the first and the last performance.
    """
    if not evaluations:
        return ""
    heading = "<h2>What was due, what was played</h2>"
    first, last = _first_recorded(evaluations), _first_recorded(reversed(evaluations))
    if first is None or last is None:
        return f'{heading}<p class="note">No evaluation has left a recording of the keys.</p>'
    touch = f'<p class="note">{describe_touch(last[1])}</p>'
    roll = f"{heading}{caption(last[0], steps)}{draw_roll(last[1])}{touch}"
    if first[0] is last[0] or not then_and_now:
        return roll
    keys = key_range(first[1], last[1])
    seconds = max(first[1].seconds, last[1].seconds)
    strips = "".join(
        f'<figure class="then"><figcaption><strong>{when}</strong>{caption(evaluation, steps)}'
        f"</figcaption>{draw_strip(performance, keys, seconds)}</figure>"
        for when, (evaluation, performance) in (("First", first), ("Last", last))
    )
    return f"{roll}<h2>Then and now</h2>{strips}"


def _first_recorded(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, Performance] | None:
    """Returns the first evaluation with a recording, and the recording."""
    for evaluation in evaluations:
        performance = load_recording(evaluation)
        if performance is not None:
            return evaluation, performance
    return None


def load_recording(evaluation: Evaluation) -> Performance | None:
    """Loads the recorded performance of an evaluation; for several songs, that of the first.

    Returns:
        Performance; None if it is missing or unreadable.
    """
    recording = _first_file(evaluation, "performance.npz")
    if recording is None:
        return None
    try:
        return Performance.load(recording)
    except BadInput:
        return None


def _first_file(evaluation: Evaluation, name: str) -> pathlib.Path | None:
    """Returns a file of an evaluation; for several songs, that of the first."""
    if evaluation.folder is None:
        return None
    return next(iter(sorted(evaluation.folder.rglob(name))), None)


def caption(evaluation: Evaluation, steps: Steps) -> str:
    """Describes when an evaluation was made and its score."""
    count = short_number(evaluation.metrics[steps.name])
    score = full_number(evaluation.metrics["note_f1"], 3)
    return f'<p class="note">Evaluation after {count} {steps.words}, note F1 {score}</p>'
