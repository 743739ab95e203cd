"""The section on a fine-tuning: its answers, the decisions of its guard, and its rounds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from report.charts import DASH, MINUS, Curve, full_number, lay_out_chart
from report.comparison_values import Measured, Values

_COLORS = ("hit", "second", "missed", "wrong")
_KNOBS = {
    "amplitude": "strength of movement",
    "smoothing": "smoothness",
    "hold": "time before keys are let go",
    "lateness": "delay of attacks",
    "delay": "delay of attacks",  # Earlier versions used this name.
}
_ANSWERS = {"ratings": "rating", "comparisons": "comparison", "ties": "tie"}


def show_learning(values: Values) -> dict[str, Any] | None:
    """Collects the answers that were used, the style they favor, and the agreement with them.

    Args:
        values: Values of the comparison. Those of earlier versions lack this part.
    """
    if values.absent("answers"):
        return None
    return {
        "answers": _answers(values),
        "style": None if values.absent("style") else _style(values),
        "tuning": None if values.absent("learning") else _tuning(values),
    }


def _answers(values: Values) -> str:
    counts = {name: values.number("answers", name, least=0) for name in _ANSWERS}
    told = [
        f"{full_number(count, 0)} {_ANSWERS[name] if count == 1 else name}"
        for name, count in counts.items()
        if count
    ]
    return _list(told) or "No answers"


def _style(values: Values) -> dict[str, Any]:
    favored = [
        f"{'more' if kept > 0 else 'less'} {_KNOBS.get(name, name)}"
        for name in values.names("style", "knobs")
        if (kept := values.number("style", "knobs", name, "kept"))
    ]
    return {
        "favored": _list(favored),
        "agrees": _percent(values.number("style", "accuracy", least=0)),
        "pairs": values.number("style", "pairs", least=0),
        "learnt": values.get("line") == "style",
    }


def _tuning(values: Values) -> dict[str, Any]:
    pairs = {
        part: values.number("learning", "pairs", part, least=0)
        for part in ("training", "validation")
    }
    step, last = (values.number("learning", name, least=0) for name in ("step", "max_steps"))
    by_held_out = values.get("learning", "chosen_by_held_out") is True
    agreements = [
        f"{_percent(accuracy)} of {words}"
        for part, words in (("validation", "the held-out pairs"), ("training", "those learnt from"))
        if pairs[part]
        and (accuracy := values.number("learning", "result", f"{part}/preference_accuracy"))
        is not None
    ]
    return {
        "pairs": pairs,
        "step": step,
        "last": last,
        "by_held_out": by_held_out,
        "agreements": " and ".join(agreements),
    }


class _Candidate(NamedTuple):
    share: float | None
    line: Any
    note_f1: Measured
    holds: bool


def show_guard(values: Values) -> dict[str, Any] | None:
    """Collects each candidate with its note F1, and the reasons for choosing one.

    Args:
        values: Values of the comparison. Those of earlier versions lack this part.
    """
    if values.absent("guard", "candidates"):
        return None
    candidates = _candidates(values, "candidates", "note_f1")
    start = next((one.note_f1 for one in candidates if one.share == 0), Measured(None))
    said = []
    if not values.absent("guard", "last_words"):
        said = _candidates(values, "last_words", "drawn", "note_f1")
    refused = [f"{_name(*one[:2])} ({one.note_f1.words(3)})" for one in said if not one.holds]
    chosen = values.number("share", least=0), values.get("line")
    return {
        "performances": values.number("guard", "performances", least=0),
        "margin": values.number("guard", "margin", least=0),
        "rows": [
            {
                "name": _name(*one[:2]),
                "note_f1": one.note_f1,
                "difference": _difference(one.note_f1, start),
                "is_start": one.share == 0,
                "holds": one.holds,
                # The start belongs to neither line, so only its share counts.
                "is_chosen": one[:2] == chosen or one.share == chosen[0] == 0,
            }
            for one in candidates
        ],
        "before": values.measured("before", "drawn", "note_f1").words(3),
        "refused": _list(refused),
        "result": _name(*chosen) if chosen[0] else None,
    }


def _candidates(values: Values, part: str, *note_f1: str) -> list[_Candidate]:
    return [
        _Candidate(
            values.number(*path, "share", least=0),
            values.get(*path, "line"),
            values.measured(*path, *note_f1),
            values.get(*path, "holds") is True,
        )
        for number in values.names("guard", part)
        if (path := ("guard", part, number))
    ]


def show_rounds(values: Values, learnt_from: Sequence[str]) -> dict[str, Any] | None:
    """Collects the sequence of fine-tunings, each of which started from the previous result.

    Args:
        values: Values of the comparison. Without several rounds, the result is None.
        learnt_from: Qualities judged by the simulated raters whose answers the policy learned
            from.
    """
    if values.absent("rounds") or len(numbers := values.names("rounds")) < 2:
        return None
    sides = [(numbers[0], "before"), *((number, "after") for number in numbers)]
    ratings = {
        name: [_measured(values, *side, "ratings", name) for side in sides] for name in learnt_from
    }
    notes = [_measured(values, *side, "note_f1") for side in sides]
    velocities = [_measured(values, *side, "mean_velocity") for side in sides]
    rows = []
    for place, (number, side) in enumerate(sides):
        facts = [DASH] * 3
        if side == "after":
            run = values.get("rounds", number, "run")
            facts = [
                run if isinstance(run, str) else DASH,
                full_number(_count(values, number), 0),
                full_number(values.number("rounds", number, "share", least=0), 2),
            ]
        facts += [of_rater[place].words(1) for of_rater in ratings.values()]
        rows.append([*facts, notes[place].words(3), velocities[place].words(1)])
    return {"raters": list(ratings), "rows": rows, "charts": _charts(ratings, notes)}


def _charts(ratings: dict[str, list[Measured]], notes: list[Measured]) -> list[dict[str, Any]]:
    def curve(label: str, means: list[Measured], color: str) -> Curve:
        y = np.array([mean.value for mean in means], np.float64)
        return Curve(label, np.arange(len(means), dtype=np.float64), y, color, True)

    rated = [
        curve(name, means, color)
        for (name, means), color in zip(ratings.items(), _COLORS, strict=False)
    ]
    words = "By the raters whose answers this round learnt from"
    charts = [
        lay_out_chart("Rating by round", words, rated, "rounds", whole=True),
        lay_out_chart(
            "Note F1 by round",
            "1 is a perfect performance",
            [curve("note F1", notes, "hit")],
            "rounds",
            whole=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _count(values: Values, number: str) -> float | None:
    counts = [values.number("rounds", number, "answers", name, least=0) for name in _ANSWERS]
    return None if None in counts else sum(count for count in counts if count is not None)


def _name(share: float | None, line: Any) -> str:
    if share is None:
        return DASH
    if share == 0:
        return "start"
    if line == "style":
        return f"{share:g} of the style"
    if share > 1:
        return f"{share:g} times the way"
    return "the whole way" if share == 1 else f"{share:g} of the way"


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.0f}%"


def _difference(mean: Measured, start: Measured) -> str:
    if mean is start or mean.value is None or start.value is None:
        return DASH
    return f"{mean.value - start.value:+.3f}".replace("-", MINUS)


def _measured(values: Values, number: str, side: str, *path: str) -> Measured:
    """Returns a mean of a round; empty if no performance was sampled or the mean was not kept."""
    if values.absent("rounds", number, side, *path):
        return Measured(None)
    return values.measured("rounds", number, side, *path)
