"""The learning table and figure of docs/results.md, from the runs of `make evidence`.

python -m benchmarks.learning_evidence runs/evidence docs/learning
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_MEASURES = {
    "eval/episode_return": "return",
    "eval/f1": "frame F1",
    "eval/note_f1": "note-event F1",
}
_LAST = 5
"""Number of evaluations in a smoothing window; the last window's mean is the final value."""

Curve = dict[str, np.ndarray]
"""Arrays (evaluations,) float64 by name: `seconds`, `environment_steps` and the measures."""


def read(folder: pathlib.Path) -> Curve:
    """Reads the evaluations of a run or of a baseline run, in chronological order."""
    lines = [json.loads(line) for line in (folder / "logbook.jsonl").open()]
    rows = [line for line in lines if "eval/f1" in line]
    names = ("seconds", "environment_steps", *_MEASURES)
    return {name: np.array([row[name] for row in rows], np.float64) for name in names}


def smoothed(curve: Curve, name: str) -> np.ndarray:
    """Returns means over each value and the values before it, `_LAST` in total."""
    values = curve[name]
    return np.array([values[max(0, i + 1 - _LAST) : i + 1].mean() for i in range(len(values))])


def seconds_to(curve: Curve, name: str, value: float) -> float:
    """Returns when the smoothed curve first reaches a value; infinite if it never does."""
    reached = np.flatnonzero(smoothed(curve, name) >= value)
    return float(curve["seconds"][reached[0]]) if len(reached) else float("inf")


def compare(ours: Curve, baseline: Curve) -> dict[str, dict[str, float]]:
    """Compares, for each measure, final values and times to the baseline's final value."""
    rows = {}
    for name, title in _MEASURES.items():
        end = float(smoothed(baseline, name)[-1])
        times = seconds_to(baseline, name, end), seconds_to(ours, name, end)
        rows[title] = {
            "baseline_at_end": end,
            "ours_at_end": float(smoothed(ours, name)[-1]),
            "baseline_seconds": times[0],
            "ours_seconds": times[1],
            "baseline_over_ours": times[0] / times[1],
        }
    return rows


def draw(curves: dict[str, Sequence[Curve]], path: pathlib.Path) -> None:
    """Draws every measure over minutes and over environment steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(_MEASURES), 2, figsize=(9, 9), sharey="row")
    colors = dict(zip(curves, ("#2a6fbb", "#c8552b"), strict=True))
    for row, (name, title) in zip(axes, _MEASURES.items(), strict=True):
        for axis, x, scale, label in zip(
            row,
            ("seconds", "environment_steps"),
            (60, 1000),
            ("minutes", "thousand steps"),
            strict=True,
        ):
            for side, of_side in curves.items():
                for number, curve in enumerate(of_side):
                    axis.plot(
                        curve[x] / scale,
                        smoothed(curve, name),
                        color=colors[side],
                        label=side if number == 0 else None,
                    )
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(title)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(folder: pathlib.Path, output: pathlib.Path) -> dict[str, Any]:
    """Writes `output`.json and `output`.png from the completed runs.

    Args:
        folder: Folder of the runs. Seeds without a run there are kept from `output`.json.
        output: Path of the output files without suffix.

    Returns:
        Results of `compare` by seed.
    """
    known = output.with_suffix(".json")
    curves: dict[str, dict[str, Any]] = {}
    if known.is_file():
        curves = json.loads(known.read_text())["curves"]
    for path in folder.glob("baseline-*/done.json"):
        seed = path.parent.name.removeprefix("baseline-")
        sides = {"ours": folder / f"ours-{seed}", "baseline": path.parent}
        curves[seed] = {
            side: {name: np.round(values, 4).tolist() for name, values in read(place).items()}
            for side, place in sides.items()
        }
    pairs = {
        seed: {side: _as_arrays(curve) for side, curve in curves[seed].items()}
        for seed in sorted(curves)
    }
    answer = {seed: compare(pair["ours"], pair["baseline"]) for seed, pair in pairs.items()}
    known.write_text(json.dumps({"comparisons": answer, "curves": curves}) + "\n")
    draw(
        {
            "ours": [pair["ours"] for pair in pairs.values()],
            "single-process baseline": [pair["baseline"] for pair in pairs.values()],
        },
        output.with_suffix(".png"),
    )
    return answer


def _as_arrays(curve: dict[str, list[float]]) -> Curve:
    return {name: np.array(values) for name, values in curve.items()}


if __name__ == "__main__":
    print(json.dumps(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])), indent=2))
