"""The section on a fine-tuning: its answers, the decisions of its guard, and its rounds."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from report.charts import DASH, MINUS, Curve, draw_chart, full_number
from report.comparison_values import Measured, Values, full_measure

_COLORS = ("hit", "second", "missed", "wrong")
_KNOBS = {
    "amplitude": "strength of movement",
    "smoothing": "smoothness",
    "hold": "time before keys are let go",
    "lateness": "delay of attacks",
    "delay": "delay of attacks",  # Earlier versions used this name.
}
_ANSWERS = {"ratings": "rating", "comparisons": "comparison", "ties": "tie"}


def draw_learning(values: Values) -> str:
    """Describes the answers that were used, the style they favor, and the agreement with them.

    Args:
        values: Values of the comparison. Those of earlier versions lack this part.
    """
    if values.absent("answers"):
        return ""
    sentences = [f"{_draw_answers(values, 'answers')} were learnt from."]
    if not values.absent("style"):
        sentences += _tell_style(values)
    if not values.absent("learning"):
        sentences += _tell_tuning(values)
    return f'<h3>What was learnt</h3><p class="lead">{" ".join(sentences)}</p>'


def _tell_style(values: Values) -> list[str]:
    favored = [
        f"{'more' if kept > 0 else 'less'} {_KNOBS.get(name, html.escape(name))}"
        for name in values.names("style", "knobs")
        if (kept := values.number("style", "knobs", name, "kept"))
    ]
    accuracy = values.number("style", "accuracy", least=0)
    pairs = full_number(values.number("style", "pairs", least=0), 0)
    agrees = DASH if accuracy is None else f"{100 * accuracy:.0f}%"
    outcome = (
        "The policy learnt to play so."
        if values.get("line") == "style"
        else "No policy that plays so holds the notes."
    )
    return [
        f"They favor a style: {_list(favored)}. This agrees with {agrees} of {pairs} pairs that "
        f"differ in style alone.",
        outcome,
    ]


def _tell_tuning(values: Values) -> list[str]:
    pairs = {
        part: values.number("learning", "pairs", part, least=0)
        for part in ("training", "validation")
    }
    step, last = (values.number("learning", name, least=0) for name in ("step", "max_steps"))
    by_held_out = values.get("learning", "chosen_by_held_out") is True
    why = (
        "the loss on held-out pairs was least"
        if by_held_out
        else ("the last: there are too few held-out pairs to choose by")
    )
    sentences = [
        f"They give {full_number(pairs['training'], 0)} pairs to tune the network by, and "
        f"{full_number(pairs['validation'], 0)} held-out ones.",
        f"The policies of step {full_number(step, 0)} of {full_number(last, 0)} were taken, "
        f"{'at which ' if by_held_out else ''}{why}.",
    ]
    agreements = [
        f"{100 * accuracy:.0f}% of {words}"
        for part, words in (("validation", "the held-out pairs"), ("training", "those learnt from"))
        if pairs[part]
        and (accuracy := values.number("learning", "result", f"{part}/preference_accuracy"))
        is not None
    ]
    if agreements:
        sentences.append(f"Their average agrees with {' and '.join(agreements)}.")
    return sentences


def draw_guard(values: Values) -> str:
    """Draws each candidate with its note F1, and explains which one was chosen.

    Args:
        values: Values of the comparison. Without a guard, as in earlier versions, the result is
            empty.
    """
    if values.absent("guard", "candidates"):
        return ""
    numbers = values.names("guard", "candidates")
    margin = values.number("guard", "margin", least=0)
    count = full_number(values.number("guard", "performances", least=0), 0)
    chosen = values.number("share", least=0), values.get("line")
    means = {
        number: values.measured("guard", "candidates", number, "note_f1") for number in numbers
    }
    shares = {
        number: values.number("guard", "candidates", number, "share", least=0) for number in numbers
    }
    lines = {number: values.get("guard", "candidates", number, "line") for number in numbers}
    start = next((means[number] for number in numbers if shares[number] == 0), Measured(None))
    rows = "".join(
        f'<tr><th scope="row">{_capitalize(_name(shares[number], lines[number]))}</th>'
        f"<td>{full_measure(means[number], 3)}</td><td>{_difference(means[number], start)}</td>"
        f"<td>{_verdict(values, number, (shares[number], lines[number]), chosen)}</td></tr>"
        for number in numbers
    )
    return (
        "<h3>The guard</h3>"
        '<p class="lead">Candidates play in the style that the answers favor, further and further, '
        "or lie on the way from the start to the average of the tuned policies. One holds the "
        f"notes if its mean note F1 over {count} lightly varied performances is at most "
        f"{full_number(margin, 3)} below the start's. "
        f"{_explain(values, chosen)}</p>"
        f'<div class="wide"><table class="compare"><thead><tr><th scope="col"></th>'
        f'<th scope="col">Note F1</th><th scope="col">Difference</th><th scope="col">Notes</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def draw_rounds(values: Values, learnt_from: Sequence[str]) -> str:
    """Draws the sequence of fine-tunings, each of which started from the previous result.

    Args:
        values: Values of the comparison. For a first round, the result is empty.
        learnt_from: Qualities judged by the simulated raters whose answers the policy learned
            from.
    """
    if values.absent("rounds") or len(numbers := values.names("rounds")) < 2:
        return ""
    sides = [(numbers[0], "before"), *((number, "after") for number in numbers)]
    ratings = {name: [_rating(values, *side, name) for side in sides] for name in learnt_from}
    notes = [_measured(values, *side, "note_f1") for side in sides]
    velocities = [_measured(values, *side, "mean_velocity") for side in sides]
    heads = ["", "Run", "Answers", "Share of the way"]
    heads += [f"Rating: {html.escape(name)}" for name in ratings] + ["Note F1", "Mean velocity"]
    rows = []
    for place, (number, side) in enumerate(sides):
        facts = [DASH] * 3
        if side == "after":
            run = values.get("rounds", number, "run")
            facts = [
                html.escape(run) if isinstance(run, str) else DASH,
                full_number(_count(values, number), 0),
                full_number(values.number("rounds", number, "share", least=0), 2),
            ]
        facts += [full_measure(of_rater[place], 1) for of_rater in ratings.values()]
        facts += [full_measure(notes[place], 3), full_measure(velocities[place], 1)]
        name = f"Round {place}" if place else "Start"
        cells = "".join(f"<td>{fact}</td>" for fact in facts)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{words}</th>' for words in heads)
    return (
        "<h3>Round after round</h3>"
        '<p class="lead">Each round began with the policy that the one before ended with. Means '
        "over performances that took no part in any choice, &plusmn; half of a 95% interval.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f'<div class="charts">{_draw_charts(ratings, notes)}</div>'
    )


def _draw_charts(ratings: dict[str, list[Measured]], notes: list[Measured]) -> str:
    def curve(label: str, means: list[Measured], color: str) -> Curve:
        y = np.array([mean.value for mean in means], np.float64)
        return Curve(html.escape(label), np.arange(len(means), dtype=np.float64), y, color, True)

    rated = [
        curve(name, means, color)
        for (name, means), color in zip(ratings.items(), _COLORS, strict=False)
    ]
    words = "By the raters whose answers this round learnt from"
    return draw_chart("Rating by round", words, rated, "rounds", whole=True) + draw_chart(
        "Note F1 by round",
        "1 is a perfect performance",
        [curve("note F1", notes, "hit")],
        "rounds",
        whole=True,
    )


def _draw_answers(values: Values, *path: str) -> str:
    counts = {name: values.number(*path, name, least=0) for name in _ANSWERS}
    told = [
        f"{full_number(count, 0)} {_ANSWERS[name] if count == 1 else name}"
        for name, count in counts.items()
        if count
    ]
    return _list(told) or "No answers"


def _count(values: Values, number: str) -> float | None:
    counts = [values.number("rounds", number, "answers", name, least=0) for name in _ANSWERS]
    return None if None in counts else sum(count for count in counts if count is not None)


def _explain(values: Values, chosen: tuple[float | None, Any]) -> str:
    said = [] if values.absent("guard", "last_words") else values.names("guard", "last_words")
    before = full_measure(values.measured("before", "drawn", "note_f1"), 3)
    refused = [
        f"{_name(values.number(*path, 'share', least=0), values.get(*path, 'line'))} "
        f"({full_measure(values.measured(*path, 'drawn', 'note_f1'), 3)})"
        for number in said
        if values.get(*(path := ("guard", "last_words", number)), "holds") is not True
    ]
    sentences = []
    if refused:
        sentences.append(
            f"Over fresh performances, where the start's is {before}, notes are lost: "
            f"{_list(refused)}."
        )
    if chosen[0]:
        sentences.append(
            f"The result: {_name(*chosen)}, the furthest that holds the notes in both."
        )
    else:
        sentences.append("No candidate holds them: the start is returned.")
    return " ".join(sentences)


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


def _capitalize(words: str) -> str:
    return words[:1].upper() + words[1:]


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _difference(mean: Measured, start: Measured) -> str:
    if mean is start or mean.value is None or start.value is None:
        return DASH
    return f"{mean.value - start.value:+.3f}".replace("-", MINUS)


def _verdict(
    values: Values, number: str, own: tuple[float | None, Any], chosen: tuple[float | None, Any]
) -> str:
    holds = values.get("guard", "candidates", number, "holds")
    words = [] if own[0] == 0 else ["hold" if holds is True else "are lost"]
    # The start belongs to neither line, so only its share counts.
    is_chosen = own == chosen or own[0] == chosen[0] == 0
    return ", ".join([*words, *(["<strong>chosen</strong>"] if is_chosen else [])])


def _measured(values: Values, number: str, side: str, *path: str) -> Measured:
    """Returns a mean of a round; empty if no performance was sampled or the mean was not kept."""
    if values.absent("rounds", number, side, *path):
        return Measured(None)
    return values.measured("rounds", number, side, *path)


def _rating(values: Values, number: str, side: str, name: str) -> Measured:
    return _measured(values, number, side, "ratings", name)
