"""Summary of the answers of a session."""

import collections
from typing import Any

from rlhf.agreement import Answers, agreement, consistency
from rlhf.rate_page.question import of_people
from rlhf.ratings import Ratings


def summary(ratings: Ratings, attribute: str) -> dict[str, Any]:
    """Summarizes people's answers about one attribute; simulated raters are left out.

    Returns:
        "ratings" and "comparisons": numbers of answers that hold; "ties": number of comparisons
        without a preference; "agreement": see `rlhf.agreement.Agreement`, None if unknown;
        "raters": by name, the same three numbers and "consistency", see
        `rlhf.agreement.Consistency`, None if nothing was asked again. Repetitions count only in
        the consistency.
    """
    first = _answers(ratings, attribute, repetition=False)
    counts = _counts(first)
    consistent = consistency(first, _answers(ratings, attribute, repetition=True))
    names = dict.fromkeys(
        [one.rater.name for one in first.ratings] + [one.rater.name for one in first.comparisons]
    )
    found = agreement(first.ratings)
    return {
        **counts,
        "agreement": None if found is None else found._asdict(),
        "raters": {
            name: _counts(_of(first, name))
            | {"consistency": consistent[name]._asdict() if name in consistent else None}
            for name in names
        },
    }


def _answers(ratings: Ratings, attribute: str, repetition: bool) -> Answers:
    comparisons = ratings.comparisons(attribute, repetition)
    return Answers(
        of_people(ratings.ratings(attribute, repetition)),
        [one for one in comparisons if one.rater.kind == "person"],
    )


def _of(answers: Answers, rater: str) -> Answers:
    return Answers(
        [one for one in answers.ratings if one.rater.name == rater],
        [one for one in answers.comparisons if one.rater.name == rater],
    )


def _counts(answers: Answers) -> dict[str, int]:
    preferred = collections.Counter(one.preferred for one in answers.comparisons)
    return {
        "ratings": len(answers.ratings),
        "comparisons": len(answers.comparisons),
        "ties": preferred["neither"],
    }
