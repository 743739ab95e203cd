"""A Ray of our own that does not start at once."""

import subprocess
import sys
import tempfile

import psutil
import pytest
import ray

from cluster import ray_session

TOO_SLOW = "The current node timed out during startup. This could happen because"


@pytest.fixture
def slow_ray(monkeypatch):
    """Makes Ray's start fail so many times, leaving a process each time; those it has left."""

    def make(failures, message=TOO_SLOW):
        left: list[subprocess.Popen] = []

        def init(_temp_dir, **_options):
            if len(left) < failures:
                code = "import sys, time; time.sleep(600)"
                left.append(subprocess.Popen([sys.executable, "-c", code, f"{_temp_dir}/session"]))
                raise Exception(message)

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return left

    return make


def test_a_start_that_takes_too_long_is_tried_again(slow_ray, tmp_path, capsys):
    left = slow_ray(2)
    with ray_session.connect(None, tmp_path / "logs"):
        assert len(left) == 2
    assert capsys.readouterr().err.count("trying again") == 2
    assert not any(psutil.pid_exists(process.pid) for process in left)


@pytest.mark.parametrize(("failures", "message", "tries"), [(9, TOO_SLOW, 3), (9, "broken", 1)])
def test_a_start_that_fails_leaves_nothing(
    slow_ray, tmp_path, monkeypatch, failures, message, tries
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = slow_ray(failures, message)
    with (
        pytest.raises(Exception, match=message[:20]),
        ray_session.connect(None, tmp_path / "logs"),
    ):
        pass
    assert len(left) == tries
    assert not any(psutil.pid_exists(process.pid) for process in left)
    assert list(tmp_path.iterdir()) == []
