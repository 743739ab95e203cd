"""The preference study in docs/results.md: measures gains and lost notes of fine-tuning.

python -m benchmarks.preference_study ROOT [--only NAME ...] [--seeds SEED ...]

Every case begins with the example policy, or with an early checkpoint of it. A round records 49
segments, has simulated raters rate them, and fine-tunes with `pianist cpl`. The next round begins
with the result. The same command resumes a study that was interrupted. The study prints a Markdown
table.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from rlhf.collection import Collection
from rlhf.ratings import HIGHEST_SCORE, LOWEST_SCORE, Rater, Ratings

_EXAMPLE = pathlib.Path(__file__).parent.parent / "example_checkpoints" / "twinkle"
_EARLY = "step_000019399"  # After nine minutes of training.
_PLAIN = ("--guard-performances", "0", "--validation-fraction", "0")
_REVERSED = "reversed"


class Case(NamedTuple):
    """One case of the study."""

    name: str
    raters: tuple[str, ...]
    """Qualities that the simulated raters listen for; all of these raters count."""
    rounds: int = 1
    flags: tuple[str, ...] = ()
    """Flags of `pianist cpl`."""
    noise: float = 0.0
    """Standard deviation of the raters' noise, in points."""
    early: bool = False
    """Whether the case begins with the early checkpoint."""
    recorded_for: str = ""
    """Name of the case whose collection of the same seed is used; empty to record a new one."""
    backwards: bool = False
    """Whether all answers are reversed."""


_MAIN, _SOFT = "notes and softness", ("notes-and-softness",)
CASES = (
    Case(_MAIN, _SOFT, rounds=4),
    Case("softness", ("softness",), rounds=4),
    Case("evenness", ("evenness",)),
    Case("note F1", ("note-f1",)),
    Case("original CPL", _SOFT, flags=("--method", "cpl", *_PLAIN), recorded_for=_MAIN),
    Case(
        "behavior cloning of the best",
        _SOFT,
        flags=("--method", "behavior-cloning", *_PLAIN),
        recorded_for=_MAIN,
    ),
    Case("relative CPL without style", _SOFT, flags=("--no-style",), recorded_for=_MAIN),
    Case("weaker base, note F1", ("note-f1",), rounds=2, early=True),
    Case("noise of 10 points", _SOFT, noise=10.0),
    Case("three raters who disagree", ("note-f1", "softness", "evenness")),
    Case("reversed answers", _SOFT, recorded_for=_MAIN, backwards=True),
)


def run(root: pathlib.Path, case: Case, seed: int) -> list[dict[str, Any]]:
    """Runs the rounds of a case that have not been run yet.

    Returns:
        The comparison of each round, with "seconds" of recording and of fine-tuning.
    """
    folder = root / case.name.replace(" ", "-").replace(",", "") / str(seed)
    before, found = _start(folder, case), []
    for number in range(1, case.rounds + 1):
        result = folder / f"round-{number}"
        answers = folder / f"answers-{number}.json"
        if not answers.is_file():
            shutil.rmtree(result, ignore_errors=True)
            began = time.monotonic()
            collection = _collection(root, folder, case, before, seed, number)
            recorded = time.monotonic()
            raters = _rate(collection, case)
            more = ["--seed", str(seed), "--raters", *raters, "--root-dir", str(folder)]
            more += ["--name", result.name, *case.flags]
            comparison = _pianist("cpl", str(collection), "--load-checkpoint", str(before), *more)
            tuned = time.monotonic() - recorded
            comparison["seconds"] = {"recorded": recorded - began, "tuned": tuned}
            answers.write_text(json.dumps(comparison))
        found.append(json.loads(answers.read_text()))
        before = result
    return found


def _start(folder: pathlib.Path, case: Case) -> pathlib.Path:
    """Returns the initial run of a case, whose newest checkpoint is fine-tuned."""
    start = folder / "start"
    if not start.is_dir():
        later = [
            saved.name for saved in (_EXAMPLE / "checkpoints").iterdir() if saved.name > _EARLY
        ]
        ignored = shutil.ignore_patterns(*(later if case.early else ()), "eval")
        shutil.copytree(_EXAMPLE, folder / "copying", ignore=ignored, dirs_exist_ok=True)
        (folder / "copying").rename(start)
    return start


def _collection(
    root: pathlib.Path,
    folder: pathlib.Path,
    case: Case,
    before: pathlib.Path,
    seed: int,
    number: int,
) -> pathlib.Path:
    if case.recorded_for:
        (other,) = (one for one in CASES if one.name == case.recorded_for)
        run(root, other._replace(rounds=1), seed)
        source = root / other.name.replace(" ", "-").replace(",", "") / str(seed) / "collection-1"
        target = folder / "collection-1"
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("ratings.sqlite*"), dirs_exist_ok=True
        )
        return target
    target = folder / f"collection-{number}"
    if not target.is_dir():
        more = ["--no-video", "--seed", str(100 * seed + number)]
        answer = _pianist("segments", str(before), "--root-dir", str(folder), *more)
        shutil.copytree(answer["collection"], folder / "copying")
        (folder / "copying").rename(target)
    return target


def _rate(collection: pathlib.Path, case: Case) -> list[str]:
    for quality in case.raters:
        more = ["--simulated-noise", str(case.noise)]
        _pianist("rate", str(collection), "--simulate", quality, *more)
    raters = [f"simulated {quality}" for quality in case.raters]
    if not case.backwards:
        return raters
    opened = Collection.open(collection)
    names = [segment.name for segment in opened.segments()]
    with contextlib.closing(Ratings(opened.ratings, names)) as ratings:
        for rating in ratings.ratings(""):
            if rating.rater.name in raters:
                mirrored = LOWEST_SCORE + HIGHEST_SCORE - rating.score
                ratings.rate(Rater(_REVERSED, "simulated"), rating.segment, mirrored)
    return [_REVERSED]


def _pianist(*arguments: str) -> dict[str, Any]:
    command = pathlib.Path(sys.executable).parent / "pianist"
    done = subprocess.run(
        [command, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- The table --------------------------------------------------------------------------


def table(found: dict[str, dict[int, list[dict[str, Any]]]]) -> str:
    """Returns a Markdown table with a row per case and round: values per seed, mean change."""
    lines = [
        "| case | round | rating | change of the rating in % | note-event F1 | its change "
        "| mean velocity | spread of velocities | by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in CASES:
        by_seed = found.get(case.name, {})
        for number in range(max(map(len, by_seed.values()), default=0)):
            seeds = [rounds for rounds in by_seed.values() if len(rounds) > number]
            lines.append(_row(case, number, seeds))
    return "\n".join(lines)


def _row(case: Case, number: int, seeds: Sequence[list[dict[str, Any]]]) -> str:
    before = [rounds[0]["before"]["drawn"] for rounds in seeds]
    after = [rounds[number]["after"]["drawn"] for rounds in seeds]

    def rating(drawn: dict[str, Any]) -> float:
        return float(np.mean([drawn["ratings"][quality]["mean"] for quality in case.raters]))

    def cell(name: str) -> str:
        pairs = zip(before, after, strict=True)
        return ", ".join(f"{a[name]['mean']:.3g} → {b[name]['mean']:.3g}" for a, b in pairs)

    rated = [(rating(a), rating(b)) for a, b in zip(before, after, strict=True)]
    notes = [
        b["note_f1"]["mean"] - a["note_f1"]["mean"] for a, b in zip(before, after, strict=True)
    ]
    return " | ".join(
        [
            f"| {case.name}",
            str(number + 1),
            ", ".join(f"{a:.1f} → {b:.1f}" for a, b in rated),
            _mean_and_interval([100 * (b / a - 1) for a, b in rated], "+.1f"),
            cell("note_f1"),
            _mean_and_interval(notes, "+.3f"),
            cell("mean_velocity"),
            cell("velocity_spread"),
            ", ".join(rounds[number]["line"] or "start" for rounds in seeds) + " |",
        ]
    )


def _mean_and_interval(values: list[float], form: str) -> str:
    """Formats the mean and half of its 95% interval over seeds (Student's t)."""
    text = f"{np.mean(values):{form}}"
    if len(values) < 3:
        return text
    width = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
    return f"{text} ± {width:{form[1:]}}"


def main() -> None:
    """Runs all cases, first rounds first, and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for number in range(1, 1 + max(case.rounds for case in CASES)):
        for case in CASES:
            if case.rounds < number or case.name not in arguments.only:
                continue
            for seed in arguments.seeds:
                rounds = run(arguments.root, case._replace(rounds=number), seed)
                found.setdefault(case.name, {})[seed] = rounds
                print(f"\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
