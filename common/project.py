"""The packages and the version of this project."""

import importlib.metadata

PACKAGES = (
    *("common", "replay", "learner", "piano", "actors"),
    *("training", "rlhf", "report", "cluster", "benchmarks"),
)
"""Packages of this project. Each may import those before it."""


def program() -> str:
    """Returns this program and its version, such as "pianist 0.1.0", to record what wrote a file.

    The version is missing where only the sources are present, as in a job on a cluster.
    """
    try:
        return f"pianist {importlib.metadata.version('robot-pianist')}"
    except importlib.metadata.PackageNotFoundError:
        return "pianist"
