"""Which version this is."""

import importlib.metadata


def program() -> str:
    """This program and its version, such as "pianist 0.1.0": what wrote a file.

    Without a version where only its sources are, as in a job on a cluster.
    """
    try:
        return f"pianist {importlib.metadata.version('robot-pianist')}"
    except importlib.metadata.PackageNotFoundError:
        return "pianist"
