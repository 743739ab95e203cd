"""The report on a run as one HTML file without scripts, network access or other files."""

import dataclasses
import html
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from common.errors import require
from common.files import read_json
from report import charts, comparison_section, piano_roll, velocity_lane
from report.comparison_section import draw_comparison
from report.key_statuses import TOLERANCE
from report.learning_curves import draw_curves
from report.performance_section import draw_performances, draw_video
from report.records import (
    Evaluation,
    Record,
    Steps,
    learnt_from,
    read_evaluations,
    read_logbook,
    steps_of,
)
from training.run import RunFolder, find

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1d21;--muted:#5d636e;--line:#d9dce2;
--stripe:#f1f3f6;--hit:#0072b2;--missed:#e69f00;--wrong:#d55e00;--second:#009e73}
@media screen and (prefers-color-scheme:dark){:root{--paper:#15171b;--ink:#eceef2;--muted:#a3a9b4;
--line:#363b44;--stripe:#1f2329;--hit:#56b4e9;--missed:#f0b429;--wrong:#f0662a;--second:#2fc79a}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1160px;padding:1.6rem clamp(.8rem,3vw,2rem) 3rem;
background:var(--paper);
color:var(--ink);font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
h1{font-size:clamp(1.6rem,5vw,2.5rem);line-height:1.15;margin:0;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.4rem 0 .5rem;break-after:avoid}
.under{color:var(--muted);margin:.3rem 0 1.3rem;overflow-wrap:anywhere}
.lead{max-width:46rem;margin:.2rem 0 .9rem}
.note{color:var(--muted);margin:0 0 .6rem}figcaption .note{display:inline;margin-left:.6em}
.tiles{display:grid;gap:.7rem;grid-template-columns:repeat(auto-fit,minmax(158px,1fr))}
.tile{background:var(--stripe);border-radius:10px;padding:.75rem .9rem;break-inside:avoid}
.tile h3{margin:0;font-size:.9rem;font-weight:600}.tile b{display:block;font-size:1.8rem;
line-height:1.25;font-variant-numeric:tabular-nums}.tile p{margin:0;font-size:.82rem;
color:var(--muted)}
.tile.main{grid-column:span 2;grid-row:span 2}.tile.main b{font-size:clamp(3.4rem,12vw,5rem);
line-height:1.1;color:var(--hit)}.tile.main p{font-size:.95rem;margin-bottom:.3rem}
.gauge{display:flex;gap:2px;height:14px;border-radius:5px;margin:.4rem 0 .8rem;overflow:hidden}
video{display:block;width:100%;max-width:860px;max-height:80vh;border-radius:10px;background:#000}
figure.then{margin:0 0 1rem;break-inside:avoid}figcaption{margin-bottom:.25rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;width:100%;
font-variant-numeric:tabular-nums}th,td{padding:.3rem .6rem;text-align:right;vertical-align:bottom;
border-bottom:1px solid var(--line)}th{color:var(--muted);font-weight:600}
.settings th,.settings td{text-align:left;overflow-wrap:anywhere}
summary{cursor:pointer;padding:.4rem 0}.small{margin-top:2rem;font-size:.85rem;color:var(--muted)}
@media print{body{padding:0;max-width:none;font-size:12px}.film{display:none}
.wide{overflow:visible}.wide table{font-size:.6rem}th,td{padding:.15rem .25rem}
.tiles{grid-template-columns:repeat(6,1fr)}.tile.main b{font-size:3.2rem}
h2{margin-top:1.2rem}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
_TILES = (
    ("Note recall", "note_recall", "Share of the due notes that were struck in time."),
    ("Note precision", "note_precision", "Share of the struck notes that were due."),
    ("Missed notes", "missed_notes", f"Due, but not struck within {TOLERANCE}."),
    ("Wrong notes", "wrong_notes", f"Struck, but not due within {TOLERANCE}."),
    ("Frame F1", "f1", "Keys moment by moment. It flatters silence: empty moments count 1."),
    ("Onset error, ms", "onset_error_ms", "Mean over the notes hit. A dash: none was hit."),
    (
        "With note ends",
        "note_with_offset_f1",
        "Note F1 where the key must also be released in time.",
    ),
    ("Return", "episode_return", "Sum of rewards, what the hands are trained for."),
)
_COLUMNS = {
    "learner_steps": "Learner steps",
    "note_f1": "Note F1",
    "note_precision": "Note precision",
    "note_recall": "Note recall",
    "note_with_offset_f1": "F1 with note ends",
    "f1": "Frame F1",
    "sustain_f1": "Pedal F1",
    "wrong_notes": "Wrong notes",
    "missed_notes": "Missed notes",
    "onset_error_ms": "Onset error, ms",
    "velocity_f1": "Velocity F1",
    "mean_velocity": "Mean velocity",
    "velocity_spread": "Velocity spread",
    "episode_return": "Return",
}
_DECIMALS = {
    "environment_steps": 0,
    "learner_steps": 0,
    "wrong_notes": 0,
    "missed_notes": 0,
    "onset_error_ms": 1,
    "mean_velocity": 0,
    "velocity_spread": 0,
    "episode_return": 1,
}


def write_report(run: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` to a run's folder in one atomic step, and returns its path.

    Args:
        run: Folder of the run.

    Raises:
        BadInput: The folder contains no run, or the run has not started to train.
    """
    folder = RunFolder(run)
    partial = folder.report.with_name(f".{folder.report.name}.{os.getpid()}.partial")
    partial.write_text(_page(folder), encoding="utf-8", errors="replace")
    partial.replace(folder.report)
    return folder.report


def _page(run: RunFolder) -> str:
    config, song = read_json(run.path / "config.json"), read_json(run.path / "songs.json")
    require(run.logbook.is_file(), f"{run.path} has no {run.logbook.name}: nothing to report yet")
    records, damaged = read_logbook(run.logbook)
    evaluations, steps = read_evaluations(run, records), steps_of(config)
    comparison = draw_comparison(run, evaluations, steps, learnt_from(config))
    name, title = html.escape(config["name"]), html.escape(song["title"])
    sections = [
        f'<h1>{title}</h1><p class="under">Run {name}{_progress(records, evaluations, steps)}</p>',
        comparison.section,
        _tiles(evaluations, steps),
        "" if comparison.has_performances else draw_video(evaluations, steps),
        draw_performances(evaluations, steps, then_and_now=not comparison.has_performances),
        draw_curves(records, evaluations, steps),
        _table(evaluations, steps),
        _settings(config),
    ]
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        sections.append(
            f'<p class="small">Left out: {lines} of the logbook that could not be read.</p>'
        )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}, run {name}</title>"
        f"<style>{_STYLE}{piano_roll.STYLE}{velocity_lane.STYLE}{charts.STYLE}"
        f"{comparison_section.STYLE}</style>"
        "</head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _progress(records: Sequence[Record], evaluations: Sequence[Evaluation], steps: Steps) -> str:
    """Describes the progress of the run in a few words."""

    def greatest(name: str) -> float:
        return max((record[name] for record in records), default=0)

    main = {steps.name: steps.words}
    counts = "".join(
        f" · {charts.short_number(greatest(name))} {words}"
        for name, words in (main | {"learner_steps": "learner steps"} | main).items()
    )
    hours, minutes = divmod(round(greatest("seconds") / 60), 60)
    times = "once" if len(evaluations) == 1 else f"{len(evaluations)} times"
    return f"{counts} · {f'{hours} h ' if hours else ''}{minutes} min · evaluated {times}"


def _tiles(evaluations: Sequence[Evaluation], steps: Steps) -> str:
    if not evaluations:
        return '<p class="lead">This run has not been evaluated yet, so there is no score.</p>'
    tiles = "".join(
        f'<div class="tile"><h3>{heading}</h3><b>{_value(evaluations[-1], name)}</b>'
        f"<p>{meaning}</p></div>"
        for heading, name, meaning in _TILES
    )
    return f'<div class="tiles">{_main_tile(evaluations, steps)}{tiles}</div>'


def _main_tile(evaluations: Sequence[Evaluation], steps: Steps) -> str:
    """Draws the headline: the score above a bar of notes that were struck, missed and wrong."""
    last = evaluations[-1]
    due, missed, wrong = (
        last.metrics[name] for name in ("due_notes", "missed_notes", "wrong_notes")
    )
    gauge = "".join(
        f'<i style="flex:{part:g};background:var(--{status})"></i>'
        for status, part in (("hit", due - missed), ("missed", missed), ("wrong", wrong))
    )
    best = max(evaluations, key=lambda evaluation: evaluation.metrics["note_f1"])
    words = ""
    if best is not last:
        count = charts.short_number(best.metrics[steps.name])
        words = f"Best so far: {_value(best, 'note_f1')} at {count} steps. "
    elif len(evaluations) > 1:
        words = "The best so far. "
    return (
        '<div class="tile main"><h3>Note F1 of the last evaluation</h3>'
        f'<b>{_value(last, "note_f1")}</b><div class="gauge">{gauge}</div>'
        f"<p><strong>{due - missed:.0f} of {due:.0f} notes</strong> struck within {TOLERANCE}, "
        f"{missed:.0f} missed, {wrong:.0f} wrong.</p>"
        f"<p>{words}1 is a perfect performance.</p></div>"
    )


def _table(evaluations: Sequence[Evaluation], steps: Steps) -> str:
    if not evaluations:
        return ""
    first = {steps.name: steps.words.capitalize()}
    columns = first | _COLUMNS | first
    head = "".join(f'<th scope="col">{heading}</th>' for heading in columns.values())
    rows = "".join(
        f"<tr>{''.join(f'<td>{_value(evaluation, name)}</td>' for name in columns)}</tr>"
        for evaluation in reversed(evaluations)
    )
    return (
        '<h2>All evaluations</h2><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _value(evaluation: Evaluation, name: str) -> str:
    # Evaluations of earlier versions lack some values.
    return charts.full_number(evaluation.metrics.get(name), _DECIMALS.get(name, 3))


def _settings(config: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for name, value in _flatten(config, "")
    )
    return (
        "<h2>Settings</h2><details><summary>All settings of this run</summary>"
        f'<table class="settings"><tbody>{rows}</tbody></table></details>'
    )


def _flatten(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [
            row
            for key, below in value.items()
            for row in _flatten(below, f"{name}.{key}" if name else key)
        ]
    return [(name, value if isinstance(value, str) else json.dumps(value))]


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Writes a run's learning curves and piano roll into one HTML file."""

    run: tyro.conf.Positional[str]
    """Run to report on: its folder or URL, or its name below --root-dir."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""


def report(config: ReportConfig) -> dict[str, str]:
    """Writes the report of a run.

    Returns:
        Name of the run and path of the report.

    Raises:
        BadInput: The run does not exist or has not started to train.
    """
    run = find(config.run, config.root_dir)
    with run.place.uploaded():
        return {"run": run.name, "report": str(write_report(run.path))}
