"""Shows what was performed: the video, the piano roll, and the first beside the last."""

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
"""On one page."""


def draw_video(evaluations: Sequence[Evaluation], steps: Steps) -> str:
    """Embeds the newest video; names it where it is too large, says nothing where none is."""
    for evaluation in reversed(evaluations):
        video = find_video(evaluation)
        if video is not None:
            return (
                '<section class="film"><h2>See and hear it</h2>'
                f"{caption(evaluation, steps)}{embed_video(video, MOST_VIDEO_BYTES)}</section>"
            )
    return ""


def find_video(evaluation: Evaluation) -> pathlib.Path | None:
    """The video of an evaluation; of several songs, that of the first."""
    return _first_file(evaluation, "video.mp4")


def embed_video(video: pathlib.Path, most_bytes: int) -> str:
    """The video as part of the page; a sentence with its path where it is larger than that."""
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
    """Draws the newest performance in full and, if wanted, in little beside the first one."""
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
    """The first evaluation of which there is a recording, and the recording."""
    for evaluation in evaluations:
        performance = load_recording(evaluation)
        if performance is not None:
            return evaluation, performance
    return None


def load_recording(evaluation: Evaluation) -> Performance | None:
    """The recorded keys of an evaluation, if they can be read; of several songs, the first."""
    recording = _first_file(evaluation, "performance.npz")
    if recording is None:
        return None
    try:
        return Performance.load(recording)
    except BadInput:
        return None


def _first_file(evaluation: Evaluation, name: str) -> pathlib.Path | None:
    """The file of an evaluation; of several songs, that of the first."""
    if evaluation.folder is None:
        return None
    return next(iter(sorted(evaluation.folder.rglob(name))), None)


def caption(evaluation: Evaluation, steps: Steps) -> str:
    """When an evaluation was made, and its score."""
    count = short_number(evaluation.metrics[steps.name])
    score = full_number(evaluation.metrics["note_f1"], 3)
    return f'<p class="note">Evaluation after {count} {steps.words}, note F1 {score}</p>'
