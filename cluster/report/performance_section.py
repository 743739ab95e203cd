"""Shows what was performed: the video, the piano roll, and the first beside the last."""

import base64
import html
import pathlib
import zipfile
from collections.abc import Iterable, Sequence

from actors.performance import Performance
from cluster.report.charts import full_number, short_number
from cluster.report.key_statuses import key_range
from cluster.report.piano_roll import draw_roll, draw_strip
from cluster.report.records import Evaluation

_MOST_VIDEO_BYTES = 20_000_000


def draw_video(evaluations: Sequence[Evaluation]) -> str:
    """Embeds the newest video; names it where it is too large, says nothing where none is."""
    for evaluation in reversed(evaluations):
        video = _first_file(evaluation, "video.mp4")
        if video is None:
            continue
        size = video.stat().st_size
        if size > _MOST_VIDEO_BYTES:
            shown = (
                f"<p>The video of {size / 1e6:.0f} MB is too large for this page: "
                f"open {html.escape(str(video))}.</p>"
            )
        else:
            data = base64.b64encode(video.read_bytes()).decode("ascii")
            shown = (
                '<video controls playsinline preload="metadata" '
                f'src="data:video/mp4;base64,{data}"></video>'
            )
        return (
            f'<section class="film"><h2>See and hear it</h2>{_caption(evaluation)}{shown}</section>'
        )
    return ""


def draw_performances(evaluations: Sequence[Evaluation]) -> str:
    """Draws the newest performance in full, and in little beside the first one."""
    if not evaluations:
        return ""
    heading = "<h2>What was due, what was played</h2>"
    first, last = _first_recorded(evaluations), _first_recorded(reversed(evaluations))
    if first is None or last is None:
        return f'{heading}<p class="note">No evaluation has left a recording of the keys.</p>'
    roll = f"{heading}{_caption(last[0])}{draw_roll(last[1])}"
    if first[0] is last[0]:
        return roll
    keys = key_range(first[1], last[1])
    seconds = max(first[1].seconds, last[1].seconds)
    strips = "".join(
        f'<figure class="then"><figcaption><strong>{when}</strong>{_caption(evaluation)}'
        f"</figcaption>{draw_strip(performance, keys, seconds)}</figure>"
        for when, (evaluation, performance) in (("First", first), ("Last", last))
    )
    return f"{roll}<h2>Then and now</h2>{strips}"


def _first_recorded(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, Performance] | None:
    """The first evaluation of which there is a recording, and the recording."""
    for evaluation in evaluations:
        recording = _first_file(evaluation, "performance.npz")
        if recording is not None:
            try:
                return evaluation, Performance.load(recording)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue
    return None


def _first_file(evaluation: Evaluation, name: str) -> pathlib.Path | None:
    """The file of an evaluation; of several songs, that of the first."""
    if evaluation.folder is None:
        return None
    return next(iter(sorted(evaluation.folder.rglob(name))), None)


def _caption(evaluation: Evaluation) -> str:
    steps = short_number(evaluation.metrics["environment_steps"])
    score = full_number(evaluation.metrics["note_f1"], 3)
    return f'<p class="note">Evaluation after {steps} environment steps, note F1 {score}</p>'
