"""Progress of a run on the terminal."""

import sys
import time
from collections.abc import Mapping

import tqdm

from training.run import Status


class Progress:
    """A progress bar or progress lines on standard error. Standard output is for results.

    Args:
        max_steps: Total number of environment steps.
        max_minutes: Time limit of training in minutes; None for no limit.
        bar: Whether to draw a bar instead of lines.
    """

    _SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, max_steps: int, max_minutes: float | None, bar: bool):
        self._started = time.monotonic()
        self._max_minutes = max_minutes
        self._last_line = 0.0
        self._bar: tqdm.tqdm | None = None
        if bar and max_minutes is None:
            self._bar = tqdm.tqdm(total=max_steps, unit="step", dynamic_ncols=True, smoothing=0.05)
        elif bar:
            self._bar = tqdm.tqdm(
                total=max_minutes, dynamic_ncols=True, bar_format="{desc}{bar}| {postfix}"
            )

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(message, file=sys.stderr, flush=True)

    def show(
        self, status: Status, episode_return: float | None, learner_fractions: Mapping[str, float]
    ) -> None:
        """Shows the progress of the run.

        Args:
            status: Status of the run.
            episode_return: Mean return of the last episodes; None if no episode has ended.
            learner_fractions: Share of the learner's time by activity.
        """
        facts = [
            f"{status.environment_steps_per_second:.0f} steps/s",
            f"{status.learner_steps_per_second:.1f} learner steps/s",
            *_spent(learner_fractions),
            f"return {_number(episode_return, 1)}",
            f"note F1 {_number(status.note_f1, 2)}",
        ]
        minutes = (time.monotonic() - self._started) / 60
        if self._max_minutes is not None:
            facts.insert(0, f"{minutes:.1f} of {self._max_minutes:g} min")
        if self._bar is not None:
            done = status.environment_steps if self._max_minutes is None else minutes
            self._bar.set_description(status.state, refresh=False)
            self._bar.set_postfix_str(", ".join(facts), refresh=False)
            self._bar.update(min(done, self._bar.total) - self._bar.n)
            self._bar.refresh()
        elif time.monotonic() - self._last_line >= self._SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            if self._max_minutes is None:
                facts.insert(0, f"{minutes:.1f} min")
            print(
                f"{status.state}: {status.environment_steps} of {status.max_steps} steps, "
                + ", ".join(facts),
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Closes the bar and leaves it on the screen."""
        if self._bar is not None:
            self._bar.close()


def _spent(fractions: Mapping[str, float]) -> list[str]:
    """Formats the activities that take at least 1% of the learner's time, largest first."""
    most = sorted(fractions.items(), key=lambda item: -item[1])
    shown = " ".join(f"{what} {share:.0%}" for what, share in most if share >= 0.01)
    return [f"learner: {shown}"] if shown else []


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
