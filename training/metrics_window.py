"""Measurements between two lines of the logbook."""

import time
from collections.abc import Sequence

import numpy as np

from actors.actor import CollectReport
from learner.learner import LearnReport

_SHORTEST_SECONDS = 2.0


class MetricsWindow:
    """Collects the reports of actors and learner, and summarizes them.

    Args:
        environment_steps: Environment steps at the start of the window.
        learner_steps: Learner steps at the start of the window.
    """

    def __init__(self, environment_steps: int, learner_steps: int) -> None:
        self.episode_return: float | None = None
        """Mean return of the episodes that ended in this window, or else in an earlier one."""
        self._rates_before = (0.0, 0.0)
        self._begin(environment_steps, learner_steps)

    def begin_again(self, environment_steps: int, learner_steps: int) -> None:
        """Starts the next window at these counts of steps."""
        self._rates_before = self._rates(environment_steps, learner_steps)
        self._begin(environment_steps, learner_steps)

    def _begin(self, environment_steps: int, learner_steps: int) -> None:
        self._collected: list[CollectReport] = []
        self._learnt: list[LearnReport] = []
        self._lags: list[int] = []
        self._steps = (environment_steps, learner_steps)
        self._started = time.monotonic()

    def add_collected(self, reports: list[CollectReport], learner_steps: int) -> None:
        """Adds reports of actors.

        Args:
            reports: Reports that have arrived.
            learner_steps: Learner steps at that time.
        """
        self._collected += reports
        self._lags += [
            max(0, learner_steps - report.parameter_version)
            for report in reports
            if report.parameter_version >= 0
        ]
        returns = [value for report in self._collected for value in report.episode_returns]
        if returns:
            self.episode_return = float(np.mean(returns))

    def add_learnt(self, report: LearnReport) -> None:
        """Adds a report of the learner."""
        self._learnt.append(report)

    def rates(self, environment_steps: int, learner_steps: int) -> tuple[float, float]:
        """Returns environment steps and learner steps per second, up to these counts.

        In the first two seconds of a window, the rates are those of the window before.
        """
        if time.monotonic() - self._started < _SHORTEST_SECONDS:
            return self._rates_before
        return self._rates(environment_steps, learner_steps)

    def _rates(self, environment_steps: int, learner_steps: int) -> tuple[float, float]:
        seconds = max(time.monotonic() - self._started, 1e-6)
        return (
            (environment_steps - self._steps[0]) / seconds,
            (learner_steps - self._steps[1]) / seconds,
        )

    def learner_fractions(self) -> dict[str, float]:
        """Returns the share of the learner's time by activity; see `LearnReport.spent`."""
        seconds = max(sum(report.seconds for report in self._learnt), 1e-6)
        spent: dict[str, float] = {}
        for report in self._learnt:
            for what, value in report.spent.items():
                spent[what] = spent.get(what, 0.0) + value / seconds
        return spent

    def values(self) -> dict[str, float | None]:
        """Returns the values for the logbook by name."""
        values: dict[str, float | None] = {}
        lengths = [value for report in self._collected for value in report.episode_lengths]
        if lengths:
            values["train/episode_return"] = self.episode_return
            values["train/episode_length"] = float(np.mean(lengths))
        if self._lags:
            values["actors/policy_lag"] = float(np.mean(self._lags))
        delays = [value for report in self._collected for value in report.parameter_delays]
        if delays:
            values["actors/parameter_delay_ms"] = 1000 * float(np.median(delays))
        if self._collected:
            values["actors/diverged_episodes"] = sum(report.diverged for report in self._collected)
            values["actors/waiting_fraction"] = _waiting_fraction(self._collected)
        for what, fraction in self.learner_fractions().items():
            values[f"learner/{what}_fraction"] = fraction
        for report in self._learnt:
            values |= {f"learner/{name}": value for name, value in report.metrics.items()}
        return values


def _waiting_fraction(reports: Sequence[CollectReport]) -> float:
    seconds = sum(report.seconds for report in reports)
    return sum(report.waiting_seconds for report in reports) / max(seconds, 1e-6)
