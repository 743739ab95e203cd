"""Rates between two lines of the logbook."""

import pytest

from training import metrics_window
from training.metrics_window import MetricsWindow


def test_rates_are_those_of_the_interval_and_at_its_beginning_of_the_one_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_window.time, "monotonic", lambda: now[0])
    counts = MetricsWindow(1000, 50)
    now[0] += 0.01
    assert counts.rates(1100, 90) == (0, 0)
    now[0] += 9.99
    assert counts.rates(6000, 450) == pytest.approx((500, 40))
    counts.begin_again(6000, 450)
    now[0] += 0.01
    assert counts.rates(6000, 470) == pytest.approx((500, 40))
    now[0] += 3.99
    assert counts.rates(8000, 490) == pytest.approx((500, 10))
