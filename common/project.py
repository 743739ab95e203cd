"""What belongs to this project, and which version of it this is."""

import importlib.metadata

PACKAGES = (
    *("common", "replay", "learner", "piano", "actors"),
    *("training", "rlhf", "report", "cluster", "benchmarks"),
)
"""Of this project. Each may import those before it."""


def program() -> str:
    """This program and its version, such as "pianist 0.1.0": what wrote a file.

    Without a version where only its sources are, as in a job on a cluster.
    """
    try:
        return f"pianist {importlib.metadata.version('robot-pianist')}"
    except importlib.metadata.PackageNotFoundError:
        return "pianist"
