"""Learners of other projects, in separate virtual environments that `make peers` creates."""

import contextlib
import json
import pathlib
import subprocess
from collections.abc import Callable, Iterator

from benchmarks.rounds import Figures

_FOLDER = pathlib.Path(__file__).parent
_PYTHON = _FOLDER / ".venv-sbx" / "bin" / "python"
_SECONDS = 300.0


def installed() -> bool:
    """Returns whether SBX's virtual environment exists."""
    return _PYTHON.exists()


@contextlib.contextmanager
def sbx(
    algorithm: str, observation_dim: int, action_dim: int, batch_size: int, seconds: float
) -> Iterator[Callable[[], Figures]]:
    """Runs SBX's learner in a separate process.

    Args:
        algorithm: "sac", or "droq" with layer norm and dropout in the critics.
        observation_dim: Number of values in an observation.
        action_dim: Number of values in an action.
        batch_size: Number of transitions per update.
        seconds: Seconds per measurement.

    Yields:
        Function that measures milliseconds per update.
    """
    arguments = map(str, (algorithm, observation_dim, action_dim, batch_size, seconds))
    with subprocess.Popen(
        [str(_PYTHON), str(_FOLDER / "sbx_peer.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run() -> Figures:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"SBX's process ended with {process.wait(_SECONDS)}")
            figures: Figures = json.loads(line)
            return figures

        try:
            yield run
        finally:
            process.kill()
