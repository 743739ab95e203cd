"""The learning curves of a run, with one small chart per quantity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from report.charts import Curve, lay_out_chart
from report.records import Evaluation, Record, Steps, numbers


class _Chart(NamedTuple):
    title: str
    words: str
    curves: dict[str, str]
    """Labels by the name of the value. Names with a slash are from the logbook, others from
    evaluations."""
    colors: tuple[str, str] = ("hit", "second")
    limits: tuple[float, float] | None = None
    logarithmic: bool = False
    by_time: bool = False


_F1 = {"note_f1": "note F1", "f1": "frame F1"}
_PERFECT = "1 is a perfect performance"
_CHARTS = (
    _Chart("F1 by steps", _PERFECT, _F1, limits=(0, 1)),
    _Chart("F1 by time", _PERFECT, _F1, limits=(0, 1), by_time=True),
    _Chart(
        "Notes missed and wrong",
        "Of the piece, in one performance",
        {"missed_notes": "missed", "wrong_notes": "wrong"},
        colors=("missed", "wrong"),
    ),
    _Chart(
        "Touch",
        "MIDI velocities of the notes played",
        {"mean_velocity": "mean", "velocity_spread": "spread"},
    ),
    _Chart(
        "Return",
        "Sum of rewards of an episode",
        {"train/episode_return": "training", "episode_return": "evaluation"},
        colors=("second", "hit"),
    ),
    _Chart(
        "Preference loss",
        "How far the policy is from what was preferred",
        {
            "cpl/training/preference_loss": "training",
            "cpl/validation/preference_loss": "validation",
        },
        logarithmic=True,
    ),
    _Chart(
        "Preference accuracy",
        "Share of preferences the policy agrees with",
        {
            "cpl/training/preference_accuracy": "training",
            "cpl/validation/preference_accuracy": "validation",
        },
        limits=(0, 1),
    ),
    _Chart(
        "Conservative loss",
        "How far the policy has gone from where it began",
        {"cpl/conservative_loss": "conservative"},
        logarithmic=True,
    ),
    _Chart(
        "Behavior cloning loss",
        "Lower: actions of the best segments are likelier",
        {"cpl/behavior_cloning_loss": "behavior cloning"},
    ),
    _Chart(
        "Gradient norm",
        "Before it is cut off at its greatest allowed size",
        {"cpl/gradient_norm": "norm"},
        logarithmic=True,
    ),
    _Chart("Q", "What the critic expects of the future", {"learner/q": "Q"}),
    _Chart("Entropy", "How freely the hands still try things", {"learner/entropy": "entropy"}),
    _Chart(
        "Temperature",
        "What entropy is worth",
        {"learner/temperature": "temperature"},
        logarithmic=True,
    ),
    _Chart(
        "Critic loss",
        "Error of that expectation, squared",
        {"learner/critic_loss": "critic"},
        logarithmic=True,
    ),
    _Chart("Actor loss", "Lower: actions the critic prefers", {"learner/actor_loss": "actor"}),
    _Chart(
        "Temperature loss",
        "Drives entropy towards its target",
        {"learner/temperature_loss": "temperature"},
    ),
    _Chart(
        "Speed",
        "Per second",
        {
            "train/environment_steps_per_second": "environment steps",
            "learner/steps_per_second": "learner steps",
        },
    ),
    _Chart(
        "Learner waiting for data",
        "Share of its time",
        {"learner/waiting_fraction": "waiting"},
        limits=(0, 1),
    ),
    _Chart(
        "Policy lag", "Age of the actors' policy in learner steps", {"actors/policy_lag": "lag"}
    ),
)


def lay_out_curves(
    records: Sequence[Record], evaluations: Sequence[Evaluation], steps: Steps
) -> list[dict[str, Any]]:
    """Lays out the charts for which there are values.

    Args:
        records: Lines of the logbook.
        evaluations: Evaluations of the run.
        steps: Steps on the horizontal axis.
    """
    lines = [*records, *(evaluation.metrics for evaluation in evaluations)]
    counts, minutes = numbers(lines, steps.name), numbers(lines, "seconds") / 60
    charts = [
        lay_out_chart(
            chart.title,
            chart.words,
            [
                Curve(
                    label,
                    minutes if chart.by_time else counts,
                    numbers(lines, name),
                    color,
                    dots="/" not in name,
                )
                for (name, label), color in zip(chart.curves.items(), chart.colors, strict=False)
            ],
            "minutes" if chart.by_time else steps.words,
            chart.limits,
            chart.logarithmic,
        )
        for chart in _CHARTS
    ]
    return [chart for chart in charts if chart is not None]
