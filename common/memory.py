"""The memory of this machine, or of the container that this process runs in."""

import os
import pathlib

import psutil

RAY_THRESHOLD = "RAY_memory_usage_threshold"
"""Environment variable for the share of the memory beyond which Ray ends its workers."""
# Files with the limit, the use, and names of the caches within it, in Linux control groups of
# versions 2 and 1.
_GROUPS = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def free(groups: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """Returns the bytes that may still be used, and the bytes in total.

    If RAY_memory_usage_threshold is set, only that share of the memory counts.
    """
    machine = psutil.virtual_memory()
    limit, used = float(machine.total), float(machine.total - machine.available)
    for limit_file, used_file, caches in _GROUPS:
        try:
            group_limit = float((groups / limit_file).read_text())
            statistics = (groups / limit_file).with_name("memory.stat").read_text().splitlines()
            cached = sum(float(line.split()[1]) for line in statistics if line.split()[0] in caches)
            group_used = float((groups / used_file).read_text()) - cached
        except (OSError, ValueError):  # There is no such group, or it has no limit and says "max".
            continue
        if group_limit < limit:
            limit, used = group_limit, group_used
    share = float(os.environ.get(RAY_THRESHOLD) or 1)
    return share * limit - used, share * limit
