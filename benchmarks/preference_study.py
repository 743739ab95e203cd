"""Gathers the runs of scripts/preference_study.sh into the table of docs/results.md.

python -m benchmarks.preference_study ROOT
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
import scipy.stats

_METHODS = ("cpl", "behaviour-cloning", "cpl-behaviour-cloning")
_COLUMNS = {
    "rating": lambda side: side["drawn"]["ratings"]["note-f1"]["mean"],
    "note-event F1": lambda side: side["drawn"]["note_f1"]["mean"],
    "frame F1": lambda side: side["drawn"]["f1"]["mean"],
    "central: note-event F1": lambda side: side["metrics"]["note_f1"],
    "central: frame F1": lambda side: side["metrics"]["f1"],
}


def read(root: pathlib.Path, method: str) -> list[dict[str, Any]]:
    """The comparisons of a method's runs, by seed."""
    files = sorted(root.glob(f"{method}-[0-9]*/comparison.json"))
    return [json.loads(file.read_text()) for file in files]


def mean_and_interval(values: list[float]) -> str:
    """Mean and half width of its 95% interval over runs (Student's t)."""
    if len(values) < 2:
        return f"{np.mean(values):.3g}"
    width = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
    return f"{np.mean(values):.3g} ± {width:.2g}"


def table(root: pathlib.Path) -> str:
    """A Markdown table: a row a method, and one of the policy before."""
    comparisons = {method: read(root, method) for method in _METHODS}
    before = next(found[0]["before"] for found in comparisons.values() if found)
    lines = [
        f"| | runs | {' | '.join(_COLUMNS)} |",
        f"| --- | --- |{' --- |' * len(_COLUMNS)}",
        f"| before | - | {' | '.join(f'{value(before):.3g}' for value in _COLUMNS.values())} |",
    ]
    for method, found in comparisons.items():
        if found:
            cells = [
                mean_and_interval([value(one["after"]) for one in found])
                for value in _COLUMNS.values()
            ]
            lines.append(f"| {method} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(pathlib.Path(sys.argv[1])))
