"""The report of a run: what it shows, and what it survives."""

import base64
import html.parser
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest

from common.errors import BadInput
from piano.performance import Performance
from report.charts import DASH, MINUS, round_ticks, short_number, thin
from report.key_statuses import find_bars, find_onsets, key_range, note_name
from report.page import TEMPLATES, ReportConfig, report, write_report
from report.performance_section import describe_touch
from report.piano_roll import lay_out_roll
from report.records import read_evaluations, read_logbook
from training.run import RunFolder

STEP = 0.05
VOID = {"meta", "br", "hr", "img", "input", "link"}
METRICS = {
    "episode_return": 12.5,
    "precision": 0.9,
    "recall": 0.8,
    "f1": 0.85,
    "sustain_f1": 0.5,
    "note_precision": 0.4,
    "note_recall": 0.3,
    "note_f1": 0.343,
    "note_with_offset_f1": 0.2,
    "onset_error_ms": None,
    "wrong_notes": 2.0,
    "missed_notes": 1.0,
    "due_notes": 3.0,
}


BEFORE = {
    "checkpoint": "elsewhere/checkpoints/step_000000100",
    "evaluation": "elsewhere/eval/step_000000100",
    "metrics": METRICS,
    "ratings": {"note-f1": 35.0, "smoothness": 80.0},
    "drawn": {
        "performances": 10,
        "note_f1": {"mean": 0.2, "interval": 0.03},
        "f1": {"mean": 0.5, "interval": 0.1},
        "episode_return": {"mean": 9.0, "interval": 1.0},
        "ratings": {"note-f1": {"mean": 21.0, "interval": 3.0}, "smoothness": {"mean": 50.0}},
    },
}
AFTER = {
    "checkpoint": "elsewhere/checkpoints/step_000000200",
    "evaluation": "/elsewhere/eval/step_000000200",
    "metrics": METRICS | {"note_f1": 0.5, "wrong_notes": 7.0, "missed_notes": 0.0},
    "ratings": {"note-f1": 50.5, "smoothness": 60.0},
    "drawn": {
        "performances": 10,
        "note_f1": {"mean": 0.25, "interval": 0.03},
        "f1": {"mean": 0.6, "interval": 0.1},
        "episode_return": {"mean": 7.0, "interval": 0.0},
        "ratings": {"note-f1": {"mean": 21.0, "interval": 3.0}, "smoothness": {"mean": 49.0}},
    },
}


class Page(html.parser.HTMLParser):
    """Checks that elements are nested, and gathers attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.data = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.data += data

    @property
    def words(self) -> str:
        return " ".join(self.data.split())


def make_performance(**changes) -> Performance:
    """C4 hit late by 20 ms, E4 missed, G4 wrong, A4 100 ms late; 1 s of 50 ms steps."""
    due, played = np.zeros((20, 88), bool), np.zeros((20, 88), bool)
    due[2:6, 39] = played[2:6, 39] = True
    due[8:10, 43] = True
    played[12:15, 46] = True
    due[14:18, 48], played[16:19, 48] = True, True
    arrays: dict[str, Any] = {
        "control_timestep": np.float64(STEP),
        "due_keys": due,
        "played_keys": played,
        "due_pedal": np.arange(20) < 10,
        "played_pedal": np.arange(20) < 12,
        "rewards": np.zeros(20),
        "due_notes": np.array([[0.1, 0.3, 39], [0.4, 0.5, 43], [0.7, 0.9, 48]]),
        "played_notes": np.array([[0.12, 0.3, 39, 70], [0.6, 0.75, 46, 90], [0.8, 0.95, 48, 64]]),
        "pedal_changes": np.array([[0.0, 1.0], [0.6, 0.0]]),
        "positions": np.zeros((21, 2), np.float32),
    }
    return Performance(**(arrays | changes))


def draw_roll(performance: Performance) -> str:
    template = '{% from "piano_roll.html" import draw_roll %}{{ draw_roll(roll) }}'
    return TEMPLATES.from_string(template).render(roll=lay_out_roll(performance))


def make_run(run: pathlib.Path, title="Twinkle", evaluations=2, lines=50) -> pathlib.Path:
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"name": "demo", "learner": {"batch_size": 256}}))
    (run / "songs.json").write_text(json.dumps({"title": title}))
    with (run / "logbook.jsonl").open("w") as logbook:
        for line in range(1, lines + 1):
            record = {
                "time": 1.7e9 + line,
                "seconds": 60.0 * line,
                "environment_steps": 100 * line,
                "learner_steps": 10 * line,
                "train/episode_return": float(line),
                "learner/q": 0.1 * line,
                "learner/critic_loss": None if line == 3 else 1000.0 / line**2,
            }
            logbook.write(json.dumps(record) + "\n")
    for number in range(1, evaluations + 1):
        folder = run / "eval" / f"step_{number * 100:09d}"
        folder.mkdir(parents=True)
        steps = {"learner_steps": number * 100, "environment_steps": number * 1000}
        (folder / "metrics.json").write_text(json.dumps(METRICS | steps))
        make_performance().save(folder / "performance.npz")
        with (run / "logbook.jsonl").open("a") as logbook:
            scores = {f"eval/{name}": value for name, value in METRICS.items()}
            logbook.write(json.dumps({"seconds": 600.0 * number} | steps | scores) + "\n")
    return run


def make_fine_tuning(run: pathlib.Path, comparison: Any = None) -> pathlib.Path:
    """Fine-tunes for 500 steps, and compares the evaluations after 100 and 200 of them."""
    make_run(run)
    config = {"name": "tuned", "load_checkpoint": "demo", "raters": ["simulated note-f1 2", "Ada"]}
    (run / "config.json").write_text(json.dumps(config))
    with (run / "logbook.jsonl").open("a") as logbook:
        for step in range(0, 600, 100):
            counts = {"seconds": float(step), "environment_steps": 5000, "learner_steps": step}
            values = {
                "cpl/training/preference_loss": 1 / (1 + step),
                "cpl/validation/preference_loss": 2 / (1 + step),
                "cpl/training/preference_accuracy": 0.75,
                "cpl/validation/preference_accuracy": 0.625,
                "cpl/conservative_loss": 0.01,
                "cpl/behavior_cloning_loss": -40.0,
                "cpl/gradient_norm": 3.0,
                "learner/steps_per_second": 12.0,
            }
            logbook.write(json.dumps(counts | values) + "\n")
    for step, data in ((100, b"before"), (200, b"after")):
        (run / "eval" / f"step_{step:09d}" / "video.mp4").write_bytes(data)
    comparison = {"before": BEFORE, "after": AFTER} if comparison is None else comparison
    (run / "comparison.json").write_text(json.dumps(comparison))
    return run


def changed(*path: str, value: Any) -> dict[str, Any]:
    """A comparison with one value replaced."""
    comparison = json.loads(json.dumps({"before": BEFORE, "after": AFTER}))
    below = comparison
    for name in path[:-1]:
        below = below[name]
    below[path[-1]] = value
    return comparison


def compared(text: str, number: int = 0) -> list[list[str]]:
    """The rows of a table of the comparison: label, before, after, difference, verdict."""
    table = text.split('<table class="compare">')[1 + number].partition("</table>")[0]
    table = table.replace(DASH, "-").replace(MINUS, "-")
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    cells = [re.split(r"</t[dh]>\s*<td>|<span class", row) for row in rows]
    return [[re.sub(r"^[^<]*?>|<.*?>", "", cell).strip() for cell in row] for row in cells]


def test_frames_are_classified():
    bars = {
        (bar.status, bar.key, round(bar.onset / STEP), round(bar.offset / STEP))
        for bar in find_bars(make_performance())
    }
    assert bars == {
        ("hit", 39, 2, 6),
        ("missed", 43, 8, 10),
        ("wrong", 46, 12, 15),
        ("missed", 48, 14, 16),
        ("hit", 48, 16, 18),
        ("wrong", 48, 18, 19),
    }


def test_onsets_are_classified():
    onsets = [(onset.status, onset.key, onset.seconds) for onset in find_onsets(make_performance())]
    assert sorted(onsets) == [
        ("hit", 39, 0.1),
        ("missed", 43, 0.4),
        ("missed", 48, 0.7),
        ("wrong", 46, 0.6),
        ("wrong", 48, 0.8),
    ]


def test_onset_tolerance_includes_its_end():
    def statuses(gap):
        played = np.array([[0.1 + gap, 0.3, 39, 70]])
        return [onset.status for onset in find_onsets(make_performance(played_notes=played))]

    assert statuses(0.05) == statuses(-0.05) == ["hit", "missed", "missed"]
    assert statuses(0.0502) == ["missed", "missed", "missed", "wrong"]


def test_roll_says_what_happened_to_each_note():
    drawn = draw_roll(make_performance())
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    assert "C4, 0.10 to 0.30 s: hit: due and played" in titles
    assert "E4, 0.40 to 0.50 s: missed: due, not played" in titles
    assert "G4, 0.60 to 0.75 s: wrong: played, not due" in titles
    assert "C4, 0.10 to 0.30 s: hit, 20 ms late, velocity 70" in titles
    assert "Pedal played, not due, 0.50 to 0.60 s" in titles
    bars = re.findall(r'<g class="(hit|missed|wrong)">\s*<rect', drawn)
    assert sorted(bars) == ["hit", "missed", "wrong"]


DUE = [[0.1, 0.3, 39, 40], [0.4, 0.5, 43, 127], [0.7, 0.9, 48, 20]]


def test_velocities_lie_below_the_roll():
    drawn = draw_roll(make_performance(due_notes=np.array(DUE)))
    lane = drawn.partition('<g class="velocities">')[2]
    notes = dict(re.findall(r"<title>(\S+), [^<]*</title>\s*(.*?)</g>\s*</g>", lane, re.DOTALL))
    # From 98 for 0 to 8 for 127: played 70 and due 40; missed, due 127; wrong, played 90.
    assert 'M100.0 98V48.4"' in notes["C4"]
    assert 'M100.0 69.7m-4 0h8"' in notes["C4"]
    assert '<g class="hit"><circle cx="100.0" cy="48.4"' in notes["C4"]
    assert notes["E4"] == '<g class="missed"><circle cx="400.0" cy="8.0" r="2.4"/>'
    assert 'M600.0 98V34.2"' in notes["G4"]
    assert '<g class="wrong"><path d="M600.0 34.2m' in notes["G4"]
    assert "C4, 0.10 to 0.30 s: hit, 20 ms late, velocity 70, due 40" in lane


def test_notes_of_a_chord_have_their_velocities_side_by_side():
    chord = np.array([[0.1, 0.3, 39, 40], [0.1, 0.3, 43, 50]])
    drawn = draw_roll(make_performance(due_notes=chord, played_notes=np.empty((0, 4))))
    lane = drawn.partition('<g class="velocities">')[2]
    assert re.findall(r'cx="([\d.]+)"', lane) == ["100.0", "108.0"]


def test_velocities_are_shown_where_the_score_says_none():
    """Files of earlier versions."""
    lane = draw_roll(make_performance()).partition('<g class="velocities">')[2]
    assert lane.count('class="stem"') == 3
    assert "due-velocity" not in lane
    assert 'class="missed"' not in lane


def test_touch_is_described_in_words():
    assert describe_touch(make_performance(due_notes=np.array(DUE))) == (
        "Played at a mean velocity of 75 with a spread (standard deviation) of 11; due at 62 with "
        "a spread of 46. Velocity F1 0.333: notes struck in time, and as loud in proportion to "
        "one another as the score has them."
    )
    level = np.array(DUE) * [1, 1, 1, 0] + [0, 0, 0, 64]
    assert describe_touch(make_performance(due_notes=level)).endswith(
        "of 11; all notes are due at 64: no dynamics."
    )
    silent = make_performance(played_notes=np.empty((0, 4)))
    assert describe_touch(silent) == (
        "No note was played; the recording does not say how loud its notes were due."
    )


def test_bars_lie_at_their_times():
    drawn = draw_roll(make_performance())
    bar = re.search(r'<rect x="([\d.]+)"[^>]*width="([\d.]+)"[^>]*>\s*<title>C4', drawn)
    assert bar is not None
    assert [float(place) for place in bar.groups()] == [100.0, 200.0]


def test_long_pieces_are_broken_into_rows_without_losing_a_mark():
    onsets = np.arange(120) * 0.5
    keys = np.zeros((1200, 88), bool)
    keys[:, 39] = True
    silent = np.zeros(1200, bool)
    performance = make_performance(
        due_keys=keys,
        played_keys=keys,
        due_pedal=silent,
        played_pedal=silent,
        rewards=np.zeros(1200),
        due_notes=np.stack([onsets, onsets + 0.4, np.full(120, 39)], axis=1),
        played_notes=np.empty((0, 4)),
    )
    drawn = draw_roll(performance)
    assert drawn.count('class="row"') == 3
    assert drawn.count("missed, no onset within 50 ms") == 120


def test_dense_pieces_are_drawn_without_titles():
    random = np.random.default_rng(0)
    noise = random.random((1200, 88)) < 0.5
    silent = np.zeros(1200, bool)
    drawn = draw_roll(
        make_performance(
            due_keys=noise,
            played_keys=noise[::-1],
            due_pedal=silent,
            played_pedal=silent,
            rewards=np.zeros(1200),
        )
    )
    assert "hit: due and played</title>" not in drawn
    assert len(drawn) < 2_500_000


def test_names_and_range_of_keys():
    assert [note_name(key) for key in (0, 39, 52, 87)] == ["A0", "C4", "C#5", "C8"]
    assert key_range(make_performance()) == (37, 50)
    ends = make_performance(due_notes=np.array([[0.0, 1.0, 0], [0.0, 1.0, 87]]))
    assert key_range(ends, make_performance(played_notes=np.empty((0, 4)))) == (0, 87)


def test_page_is_whole_and_needs_nothing_else(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "eval" / "step_000000200" / "video.mp4").write_bytes(b"moving pictures")
    assert write_report(run) == run / "report.html"
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert {"main", "video", "table", "details", "svg"} <= set(page.seen)
    assert "script" not in page.seen
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href"}]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"https?:|url\(|@import", text)
    assert str(tmp_path) not in text
    for words in ("Twinkle", "demo", "0.343", "2 of 3 notes", "Then and now", "learner.batch_size"):
        assert words in page.words
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report.html"]


def test_large_video_is_named_and_not_embedded(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "eval" / "step_000000200" / "video.mp4").open("wb") as video:
        video.truncate(21_000_000)
    text = write_report(run).read_text(encoding="utf-8")
    assert "<video" not in text
    assert "eval/step_000000200/video.mp4" in text


def test_hostile_words_are_escaped(tmp_path):
    hostile = '</title><script>alert("1")</script><img src=x onerror=alert(1)>&\ud800'
    run = make_run(tmp_path / "run", title=hostile)
    settings = {"name": hostile, "<b>": {"deep": [hostile]}}
    (run / "config.json").write_text(json.dumps(settings))
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "img", "b>"} & set(page.seen)
    assert "&lt;script&gt;alert(&#34;1&#34;)" in text


def test_fine_tuning_is_compared_before_and_after(tmp_path):
    text = write_report(make_fine_tuning(tmp_path / "run")).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert compared(text) == [
        ["Note F1", "0.343", "0.500", "+0.157", "better"],
        ["Frame F1", "0.850", "0.850", "0.000", "equal"],
        ["Frame precision", "0.900", "0.900", "0.000", "equal"],
        ["Frame recall", "0.800", "0.800", "0.000", "equal"],
        ["Return", "12.5", "12.5", "0.0", "equal"],
        ["Onset error, ms", "-", "-", "-", ""],
        ["Wrong notes", "2", "7", "+5", "worse"],
        ["Missed notes", "1", "0", "-1", "better"],
        ["Simulated rating: note-f1", "35.0", "50.5", "+15.5", "better"],
        ["Note F1", "0.200 ± 0.030", "0.250 ± 0.030", "+0.050", "better"],
        ["Frame F1", "0.500 ± 0.100", "0.600 ± 0.100", "+0.100", "unclear"],
        ["Return", "9.0 ± 1.0", "7.0 ± 0.0", "-2.0", "worse"],
        ["Simulated rating: note-f1", "21.0 ± 3.0", "21.0 ± 3.0", "0.0", "equal"],
    ]
    assert compared(text, 1) == [["Simulated rating: smoothness", "50.0", "49.0", "-1.0", "worse"]]
    assert "What 1 other simulated rater says of the stochastic performances: 1 worse" in page.words
    order = ["Before and after", "mean of 10", "Note F1 of the last evaluation", "Curves"]
    places = [page.words.index(words) for words in order]
    assert places == sorted(places)
    assert "Left out" not in page.words


def test_performances_before_and_after_are_side_by_side(tmp_path):
    run = make_fine_tuning(tmp_path / "run")
    longer = make_performance(
        rewards=np.zeros(40),
        played_notes=np.array([[0.1, 0.3, 60, 70]]),
        due_notes=np.zeros((1, 3)),
    )
    longer.save(run / "eval" / "step_000000200" / "performance.npz")
    text = write_report(run).read_text("utf-8")
    videos = [value.partition("base64,")[2] for value in re.findall(r'<video.*?src="(.*?)"', text)]
    assert [base64.b64decode(video) for video in videos] == [b"before", b"after"]
    strips = re.findall(r'<svg class="strip".*?</svg>', text, re.DOTALL)
    assert len(strips) == 2
    assert len({re.findall('viewBox="(.*?)"', strip)[0] for strip in strips}) == 1
    assert all('<path class="hit" d="M50.0 ' in strip for strip in strips)
    assert "From left to right 0 to 2.0 s, from bottom to top A0 to B5." in Page(text).words
    assert "Then and now" not in text
    assert "See and hear it" not in text


def test_fine_tuning_counts_its_own_steps(tmp_path):
    text = write_report(make_fine_tuning(tmp_path / "run")).read_text("utf-8")
    words = Page(text).words
    assert "Run tuned · 500 fine-tuning steps · 50 min" in words
    assert "Evaluation after 200 fine-tuning steps" in words
    assert "environment steps" not in words.lower()
    assert "<title>note F1 0.343 at 100</title>" in text
    for chart in (
        "Preference loss",
        "Preference accuracy",
        "Conservative loss",
        "Behavior cloning loss",
        "Gradient norm",
        "Speed",
    ):
        assert chart in words
    assert "training 0.75 validation 0.625" in words


def test_training_knows_nothing_of_fine_tuning(tmp_path):
    run = make_run(tmp_path / "run")
    text = write_report(run).read_text("utf-8")
    words = Page(text).words
    assert "Run demo · 5k environment steps · 500 learner steps · 50 min" in words
    assert "Evaluation after 2k environment steps" in words
    assert "<title>note F1 0.343 at 1k</title>" in text
    for absent in ("fine-tuning", "Before and after", "Preference"):
        assert absent not in words


@pytest.mark.parametrize(
    "damaged", [b"", b'{"before": {"metrics"', b"[]", b"null", b"\xff\xfe", b"[" * 100_000]
)
def test_unreadable_comparison_is_passed_over(tmp_path, damaged):
    run = make_fine_tuning(tmp_path / "run")
    (run / "comparison.json").write_bytes(damaged)
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    assert "comparison.json is damaged" in page.words
    for words in ("Curves", "See and hear it", "Then and now"):
        assert words in page.words


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("before", "metrics", "note_f1"), "0.9"),
        (("before", "metrics", "note_f1"), True),
        (("after", "metrics", "f1"), float("nan")),
        (("after", "metrics", "wrong_notes"), float("-inf")),
        (("after", "metrics", "missed_notes"), 10**400),
        (("after", "metrics"), {"note_f1": 0.5}),
        (("after", "ratings"), ["note-f1"]),
        (("before", "ratings", "smoothness"), {"mean": 3}),
        (("after", "drawn"), None),
        (("before", "drawn", "performances"), -1),
        (("before", "drawn", "f1"), 0.5),
        (("before", "drawn", "f1", "mean"), []),
        (("before", "drawn", "f1", "interval"), -0.1),
        (("before", "drawn", "ratings"), "none"),
        (("before", "evaluation"), None),
        (("before", "evaluation"), "step_000000777"),
        (("after", "evaluation"), "\0"),
    ],
)
def test_damaged_values_are_named_and_the_others_shown(tmp_path, path, value):
    run = make_fine_tuning(tmp_path / "run", changed(*path, value=value))
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    left_out = re.findall(r"Left out of the comparison: (.*?), unreadable", page.words)
    assert len(left_out) == 1
    assert ".".join(path) in left_out[0]
    assert ["Return", "12.5"] in [row[:2] for row in compared(text)]


@pytest.mark.parametrize("values", [{}, {"before": [], "after": 3}, {"after": AFTER}])
def test_comparison_without_its_sides(tmp_path, values):
    run = make_fine_tuning(tmp_path / "run", values)
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    assert "Left out of the comparison: before" in page.words
    assert "See and hear it" in page.words


def test_missing_recordings_are_named(tmp_path):
    run = make_fine_tuning(tmp_path / "run")
    (run / "eval" / "step_000000100" / "video.mp4").unlink()
    (run / "eval" / "step_000000100" / "performance.npz").write_bytes(b"PK half")
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    sides = page.words.partition("Before and after")[2].partition("Note F1 of the last")[0]
    assert sides.count("There is no video of it") == 1
    assert sides.count("There is no recording of its keys") == 1
    assert text.count("<video") == text.count('<svg class="strip"') == 1
    (run / "eval" / "step_000000200" / "video.mp4").unlink()
    (run / "eval" / "step_000000200" / "performance.npz").unlink()
    words = Page(write_report(run).read_text("utf-8")).words
    assert words.count("There is no video of it") == 2
    assert "From left to right" not in words


def test_videos_that_are_too_large_together(tmp_path):
    run = make_fine_tuning(tmp_path / "run")
    for step in (100, 200):
        with (run / "eval" / f"step_{step:09d}" / "video.mp4").open("wb") as video:
            video.truncate(11_000_000)
    text = write_report(run).read_text("utf-8")
    assert text.count("<video") == 1
    assert "The video of 11 MB is too large for this page" in text
    assert "eval/step_000000100/video.mp4" in text
    assert "eval/step_000000200/video.mp4" not in text


def test_nothing_outside_the_run_is_shown(tmp_path):
    outside = tmp_path / "outside" / "step_000000999"
    outside.mkdir(parents=True)
    (outside / "video.mp4").write_bytes(b"secret")
    (outside / "metrics.json").write_text(json.dumps(METRICS | {"learner_steps": 999}))
    for path in (str(outside), "../../outside/step_000000999", ".."):
        run = make_fine_tuning(tmp_path / "run", changed("before", "evaluation", value=path))
        text = write_report(run).read_text("utf-8")
        assert base64.b64encode(b"secret").decode() not in text
        assert "Left out of the comparison: before.evaluation" in text
        shutil.rmtree(run)


def test_stochastic_performances_may_be_few_or_none(tmp_path):
    few = {"performances": 2, "note_f1": {"mean": 0.1}, "f1": {"mean": 0.2, "interval": None}}
    few |= {"episode_return": {"mean": 3.0}, "ratings": {}}
    sides = {"before": BEFORE | {"drawn": few}, "after": AFTER | {"drawn": few}}
    text = write_report(make_fine_tuning(tmp_path / "few", sides)).read_text("utf-8")
    assert compared(text)[9:] == [
        ["Note F1", "0.100", "0.100", "0.000", "equal"],
        ["Frame F1", "0.200", "0.200", "0.000", "equal"],
        ["Return", "3.0", "3.0", "0.0", "equal"],
    ]
    none = {side: values | {"drawn": None} for side, values in sides.items()}
    without = write_report(make_fine_tuning(tmp_path / "none", none)).read_text("utf-8")
    assert len(compared(without)) == 9
    assert compared(without, 1) == [
        ["Simulated rating: smoothness", "80.0", "60.0", "-20.0", "worse"]
    ]
    assert "Stochastic performances" not in without
    assert "Left out" not in text + without


def test_hostile_words_of_a_comparison_are_escaped(tmp_path):
    hostile = "</td><script>alert(1)</script>&<img src=x>\ud800"
    ratings = {hostile: {"mean": 1.0}, hostile * 2: hostile}
    comparison = changed("before", "drawn", "ratings", value=ratings)
    comparison["after"]["evaluation"] = hostile
    text = write_report(make_fine_tuning(tmp_path / "run", comparison)).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "img"} & set(page.seen)
    assert "Simulated rating: &lt;/td&gt;&lt;script&gt;" in text


def test_people_s_ratings_leave_all_simulated_raters_below_the_table(tmp_path):
    run = make_fine_tuning(tmp_path / "run")
    for raters in ([], ["Ada"], "simulated note-f1", [3, None]):
        config = {"name": "tuned", "load_checkpoint": "demo", "raters": raters}
        (run / "config.json").write_text(json.dumps(config))
        text = write_report(run).read_text("utf-8")
        page = Page(text)
        assert page.open == []
        assert not [row for row in compared(text) if row[0].startswith("Simulated")]
        names = [row[0].removeprefix("Simulated rating: ") for row in compared(text, 1)]
        assert names == ["note-f1", "smoothness"]
        assert "2 other simulated raters say of the stochastic performances: 1 equal, 1 worse" in (
            page.words
        )


def test_touch_is_compared_without_a_verdict_on_loudness(tmp_path):
    comparison = changed("after", "metrics", "velocity_f1", value=0.6)
    comparison["after"]["metrics"] |= {"mean_velocity": 65.25, "velocity_spread": 20.0}
    comparison["before"]["metrics"] |= {"velocity_f1": 0.5, "mean_velocity": 70.0}
    comparison["before"]["metrics"]["velocity_spread"] = 18.5
    text = write_report(make_fine_tuning(tmp_path / "run", comparison)).read_text("utf-8")
    assert compared(text)[8:11] == [
        ["Velocity F1", "0.500", "0.600", "+0.100", "better"],
        ["Mean velocity", "70.0", "65.2", "-4.8", ""],
        ["Velocity spread", "18.5", "20.0", "+1.5", ""],
    ]
    assert "Left out" not in text


ANSWERS = {"ratings": 49, "comparisons": 1, "ties": 0}
LEARNING: dict[str, Any] = {
    "pairs": {"training": 117, "validation": 21},
    "step": 30,
    "chosen_by_held_out": True,
    "max_steps": 50,
    "start": {"validation/preference_accuracy": 0.5, "training/preference_accuracy": 0.5},
    "result": {"validation/preference_accuracy": 0.76, "training/preference_accuracy": 0.951},
}
GUARD: dict[str, Any] = {
    "performances": 12,
    "margin": 0.01,
    "candidates": [
        {
            "line": "start",
            "share": 0.0,
            "note_f1": {"mean": 0.94, "interval": 0.005},
            "holds": True,
        },
        {"line": "cpl", "share": 0.25, "note_f1": {"mean": 0.95, "interval": 0.004}, "holds": True},
        {"line": "cpl", "share": 0.5, "note_f1": {"mean": 0.91, "interval": 0.006}, "holds": False},
    ],
    "last_words": [
        {"line": "cpl", "share": 0.25, "drawn": {"note_f1": {"mean": 0.942}}, "holds": True}
    ],
}
STYLE: dict[str, Any] = {
    "knobs": {
        "amplitude": {"coefficient": -1.3, "standard_error": 0.5, "kept": -1.1},
        "smoothing": {"coefficient": 1.5, "standard_error": 0.5, "kept": 1.3},
        "hold": {"coefficient": 0.2, "standard_error": 0.5, "kept": 0.0},
        "delay": {"coefficient": 0.2, "standard_error": 0.1, "kept": 0.1},
    },
    "pairs": 66,
    "accuracy": 0.78,
    "unit": {},
}


def whole_comparison(**more):
    whole = {"before": BEFORE, "after": AFTER, "line": "cpl", "share": 0.25, "answers": ANSWERS}
    return whole | {"learning": LEARNING} | more


def section(tmp_path, heading, **more):
    """The words of a section of the comparison, and its table's cells."""
    run = make_fine_tuning(tmp_path / "run", whole_comparison(**more))
    text = write_report(run).read_text("utf-8")
    assert Page(text).open == []
    assert "Left out" not in text
    part = re.split("<h3>|</section>|<div class=.sides", text.partition(f"<h3>{heading}</h3>")[2])[
        0
    ]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return Page(part.partition("<table")[0]).words, [
        [re.sub("<.*?>", "", cell).replace(DASH, "-").replace(MINUS, "-") for cell in row]
        for row in cells
    ]


def test_what_was_learnt_is_told(tmp_path):
    words, _ = section(tmp_path, "What was learnt")
    assert words.startswith(
        "49 ratings and 1 comparison were learnt from. They give 117 pairs to tune the network by, "
        "and 21 held-out ones. "
        "The policies of step 30 of 50 were taken, at which the loss on held-out pairs was least. "
        "Their average agrees with 76% of the held-out pairs and 95% of those learnt from."
    )


def test_the_last_step_is_told_where_too_few_pairs_are_held_out(tmp_path):
    result = {"training/preference_accuracy": 0.9}
    pairs = {"training": 138, "validation": 0}
    learning = LEARNING | {
        "pairs": pairs,
        "result": result,
        "step": 50,
        "chosen_by_held_out": False,
    }
    answers = {"ratings": 0, "comparisons": 12, "ties": 3}
    words, _ = section(tmp_path, "What was learnt", learning=learning, answers=answers)
    assert words.startswith(
        "12 comparisons and 3 ties were learnt from. They give 138 pairs to tune the network by, "
        "and 0 held-out ones. The policies of step 50 of 50 were taken, the last: there are too "
        "few held-out pairs to choose by. "
        "Their average agrees with 90% of those learnt from."
    )


def test_the_guard_shows_each_candidate_and_why_one_was_chosen(tmp_path):
    words, (_, *rows) = section(tmp_path, "The guard", guard=GUARD)
    assert rows == [
        ["Start", "0.940 ± 0.005", "-", ""],
        ["0.25 of the way", "0.950 ± 0.004", "+0.010", "hold, chosen"],
        ["0.5 of the way", "0.910 ± 0.006", "-0.030", "are lost"],
    ]
    assert "over 12 lightly varied performances is at most 0.010 below the start's" in words
    assert "The result: 0.25 of the way, the furthest that holds the notes in both." in words


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("style", "The policy learnt to play so."),
        ("", "No policy that plays so holds the notes."),
    ],
)
def test_a_favored_style_is_told(tmp_path, line, outcome):
    words, _ = section(tmp_path, "What was learnt", style=STYLE, line=line, learning=None)
    assert words.startswith(
        "49 ratings and 1 comparison were learnt from. They favor a style: less strength of "
        "movement, more smoothness and more delay of attacks. This agrees with 78% of 66 pairs "
        f"that differ in style alone. {outcome}"
    )


def test_the_guard_names_candidates_in_a_style(tmp_path):
    candidates = [
        *GUARD["candidates"][:1],
        *({**one, "line": "style"} for one in GUARD["candidates"]),
    ]
    guard = GUARD | {"candidates": candidates[:1] + candidates[2:]}
    words, (_, *rows) = section(tmp_path, "The guard", guard=guard, line="style")
    assert [row[0] for row in rows] == ["Start", "0.25 of the style", "0.5 of the style"]
    assert [row[3] for row in rows] == ["", "hold, chosen", "are lost"]
    assert "The result: 0.25 of the style, the furthest" in words


def test_the_guard_says_why_the_start_was_returned(tmp_path):
    lost = GUARD["last_words"][0] | {"holds": False, "drawn": {"note_f1": {"mean": 0.18}}}
    guard = GUARD | {"last_words": [lost]}
    words, rows = section(tmp_path, "The guard", share=0.0, line="", guard=guard)
    assert (
        "Over fresh performances, where the start's is 0.200 ± 0.030, notes are lost: 0.25 of the "
        "way (0.180). No candidate holds them: the start is returned."
    ) in words
    assert [row[3] for row in rows] == ["Notes", "chosen", "hold", "are lost"]
    shutil.rmtree(tmp_path / "run")
    words, _ = section(tmp_path, "The guard", share=0.0, line="", guard=GUARD | {"last_words": []})
    assert words.endswith("No candidate holds them: the start is returned.")


def test_without_a_guard_there_is_no_such_section(tmp_path):
    run = make_fine_tuning(tmp_path / "run", whole_comparison(guard=None))
    assert "The guard" not in Page(write_report(run).read_text("utf-8")).words


def heard(note_f1, rater, rating):
    return {
        "note_f1": {"mean": note_f1, "interval": 0.005},
        "mean_velocity": {"mean": 70.0},
        "ratings": {rater: {"mean": rating}},
    }


ROUNDS = [
    {
        "run": "first",
        "answers": {"ratings": 49, "comparisons": 0, "ties": 0},
        "share": 1.0,
        "before": heard(0.94, "softness", 45.0),
        "after": heard(0.935, "softness", 47.0),
    },
    {
        "run": "tuned",
        "answers": {"ratings": 98, "comparisons": 2, "ties": 1},
        "share": 0.5,
        "before": heard(0.935, "note-f1", 43.0),
        "after": heard(0.93, "note-f1", 44.25),
    },
]


def test_rounds_are_a_table_and_a_picture(tmp_path):
    words, (heads, *rows) = section(tmp_path, "Round after round", rounds=ROUNDS)
    assert heads[1:] == [
        *("Run", "Answers", "Share of the way", "Rating: note-f1", "Note F1", "Mean velocity")
    ]
    # The first round was not rated by note-f1.
    assert rows == [
        ["Start", "-", "-", "-", "-", "0.940 ± 0.005", "70.0"],
        ["Round 1", "first", "49", "1.00", "-", "0.935 ± 0.005", "70.0"],
        ["Round 2", "tuned", "101", "0.50", "44.2", "0.930 ± 0.005", "70.0"],
    ]
    assert "Each round began with the policy that the one before ended with" in words
    text = (tmp_path / "run" / "report.html").read_text("utf-8")
    ratings, notes = re.findall(
        r'aria-label="(?:Rating|Note F1) by round">(.*?)</svg>', text, re.DOTALL
    )
    assert re.findall("<title>(.*?)</title>", ratings) == ["note-f1 44.2 at 2"]
    assert re.findall("<title>(.*?)</title>", notes) == [
        *("note F1 0.94 at 0", "note F1 0.935 at 1", "note F1 0.93 at 2")
    ]
    assert re.findall(r'text-anchor="middle">(\d\S*)</text>', notes) == ["0", "1", "2"]


def test_rounds_without_performances_have_dashes(tmp_path):
    silent = [one | {"before": None, "after": None} for one in ROUNDS]
    _, (_, *rows) = section(tmp_path, "Round after round", rounds=silent)
    assert [row[4:] for row in rows] == [["-"] * 3] * 3


def test_a_first_round_has_no_chain(tmp_path):
    run = make_fine_tuning(tmp_path / "run", whole_comparison(rounds=ROUNDS[:1]))
    assert "Round after round" not in Page(write_report(run).read_text("utf-8")).words


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("learning", 3, "learning.pairs"),
        ("learning", LEARNING | {"pairs": {"training": "many", "validation": 3}}, "learning.pairs"),
        ("learning", LEARNING | {"result": []}, "learning.result"),
        ("learning", {}, "learning.pairs"),
        ("answers", 3, "answers.ratings"),
        ("style", STYLE | {"knobs": 3}, "style.knobs"),
        ("style", STYLE | {"accuracy": "all"}, "style.accuracy"),
        ("guard", GUARD | {"candidates": 3}, "guard.candidates"),
        ("guard", GUARD | {"candidates": [None, {"share": -1}, []]}, "guard.candidates.0"),
        ("guard", GUARD | {"margin": []}, "guard.margin"),
        ("share", "x", "share"),
        ("rounds", [3, None, []], "rounds.0"),
        ("rounds", "rounds", "rounds"),
        ("rounds", [{"run": "<script>"}, {"answers": {"ratings": -1}}], "rounds.0"),
    ],
)
def test_damaged_parts_are_named_and_the_others_shown(tmp_path, part, value, named):
    comparison = whole_comparison(guard=GUARD, rounds=ROUNDS) | {part: value}
    text = write_report(make_fine_tuning(tmp_path / "run", comparison)).read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert "script" not in page.seen
    (left_out,) = re.findall(r"Left out of the comparison: (.*?), unreadable", page.words)
    assert named in left_out
    assert ["Return", "12.5"] in [row[:2] for row in compared(text)]


def test_half_written_line_is_passed_over(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "logbook.jsonl").open("ab") as logbook:
        logbook.write('{"time": 1.0, "learner/q": 1.5, "näm'.encode()[:-2])
    records, damaged = read_logbook(run / "logbook.jsonl")
    assert (len(records), damaged) == (52, 1)
    assert "1 line of the logbook" in write_report(run).read_text(encoding="utf-8")


def test_a_logbook_with_names_as_they_were_is_read(tmp_path):
    (tmp_path / "logbook.jsonl").write_text('{"learner/updates_per_second": 2.5}\n')
    assert read_logbook(tmp_path / "logbook.jsonl") == ([{"learner/steps_per_second": 2.5}], 0)


def test_run_without_evaluation_has_curves_and_a_sentence(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run", evaluations=0)).read_text("utf-8"))
    assert page.open == []
    assert "not been evaluated yet" in page.words
    assert "Critic loss" in page.words
    assert "polyline" in page.seen


def test_run_that_has_only_just_begun(tmp_path):
    run = make_run(tmp_path / "run", evaluations=0, lines=0)
    (run / "logbook.jsonl").write_text('{"time": 1')
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    assert "no curve yet" in page.words


def test_damaged_evaluations_are_passed_over(tmp_path):
    run = make_run(tmp_path / "run", evaluations=3)
    (run / "eval" / "step_000000300" / "metrics.json").write_text('{"note_f1"')
    (run / "eval" / "step_000000200" / "performance.npz").write_bytes(b"PK\x03\x04 half")
    evaluations = read_evaluations(RunFolder(run), read_logbook(run / "logbook.jsonl")[0])
    assert [one.metrics["learner_steps"] for one in evaluations] == [100, 200, 300]
    assert [one.folder is None for one in evaluations] == [False, False, True]
    assert evaluations[0].metrics["seconds"] == 600.0
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    assert "Evaluation after 1k environment steps" in page.words
    assert "Then and now" not in page.words
    (run / "eval" / "step_000000100" / "performance.npz").unlink()
    page = Page(write_report(run).read_text("utf-8"))
    assert "No evaluation has left a recording" in page.words


def test_unusable_folders_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere/config\.json cannot be read"):
        write_report(tmp_path / "nowhere")
    run = make_run(tmp_path / "run")
    (run / "logbook.jsonl").unlink()
    with pytest.raises(BadInput, match=r"has no logbook\.jsonl"):
        write_report(run)
    assert not list(run.glob("*report*"))


def test_command_finds_a_run_by_its_name(tmp_path):
    run = make_run(tmp_path / "run")
    answer = report(ReportConfig("run", str(tmp_path)))
    assert answer == {"run": "run", "report": str(run / "report.html")}
    with pytest.raises(BadInput, match="no run at other"):
        report(ReportConfig("other", str(tmp_path)))


def test_long_logbook_gives_a_small_page(tmp_path):
    page = write_report(make_run(tmp_path / "run", lines=20_000))
    assert page.stat().st_size < 300_000


def test_thinning_keeps_mean_and_extremes():
    x = np.arange(10_000.0)
    y = np.where(x == 5_000, 99.0, 1.0)
    y[7] = np.nan
    thinned = thin(x[::-1], y[::-1], most=100)
    assert len(thinned.x) == 100
    assert np.all(np.diff(thinned.x) > 0)
    assert thinned.greatest.max() == 99.0
    assert thinned.least.min() == 1.0


def test_axes_have_round_numbers():
    assert round_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert round_ticks(-3, 1e6) == pytest.approx([0, 2e5, 4e5, 6e5, 8e5, 1e6])
    assert [short_number(value) for value in (1_200_000, 35_000, 0.25)] == ["1.2M", "35k", "0.25"]
