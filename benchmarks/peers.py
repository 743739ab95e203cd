"""Other people's learners, each in a virtual environment of its own: `make peers` makes it."""

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
    """Whether SBX's environment is there."""
    return _PYTHON.exists()


@contextlib.contextmanager
def sbx(
    algorithm: str, observation_dim: int, action_dim: int, batch_size: int, seconds: float
) -> Iterator[Callable[[], Figures]]:
    """SBX's learner in a process of its own; yields what measures milliseconds an update.

    Args:
        algorithm: "sac", or "droq": layer norm and dropout in the critics.
        observation_dim: numbers in an observation.
        action_dim: numbers in an action.
        batch_size: transitions in an update.
        seconds: of each measurement.
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
