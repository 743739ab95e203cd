"""Plot of `pianist bench scale --json`: python -m benchmarks.saturation_plot FIGURES PICTURE."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

_PARTS = {
    "actors": "what the actors make",
    "network": "network, 10 Gbit/s",
    "replay": "replay server, one core",
    "reader": "learner's reader, one core",
    "learner": "learner, as measured",
}


def draw(figures: pathlib.Path, picture: pathlib.Path) -> None:
    """Draws one panel per update-to-data ratio: all limits by cores, and the area below them.

    Args:
        figures: File with the answer of `pianist bench scale --json`.
        picture: Picture file to be written, in any format that matplotlib supports.
    """
    rows = json.loads(figures.read_text())["saturation"]
    ratios = list(dict.fromkeys(row["update_to_data_ratio"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(ratios), figsize=(12, 3.8), sharey=True, layout="constrained", squeeze=False
    )
    for panel, ratio in zip(panels[0], ratios, strict=True):
        of_ratio = [row for row in rows if row["update_to_data_ratio"] == ratio]
        cores = [row["cores"] for row in of_ratio]
        for name, label in _PARTS.items():
            panel.plot(cores, [row["limits"][name] for row in of_ratio], "o-", ms=4, label=label)
        reached = [row["environment_steps_per_second"] for row in of_ratio]
        panel.fill_between(cores, 1, reached, color="0.88", label="a run")
        panel.set(
            title=f"{ratio:g} learner steps an environment step",
            xlabel="cores of the actors",
            xscale="log",
            yscale="log",
            ylim=(1, None),
        )
        panel.set_xticks(cores, [f"{number:,}" for number in cores])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("environment steps a second")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    draw(*map(pathlib.Path, sys.argv[1:]))
