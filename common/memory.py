"""The memory of this machine, or of the container in which this process is."""

import os
import pathlib

import psutil

RAY_THRESHOLD = "RAY_memory_usage_threshold"
"""Environment variable: the share of the memory beyond which Ray ends its workers."""
# Of a limit, use and caches within it: versions 2 and 1 of Linux's control groups.
_GROUPS = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def free(groups: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> tuple[float, float]:
    """Bytes that may still be used, and bytes that there are.

    Where RAY_memory_usage_threshold is set, that share of the memory is all there is.
    """
    machine = psutil.virtual_memory()
    limit, used = float(machine.total), float(machine.total - machine.available)
    for limit_file, used_file, caches in _GROUPS:
        try:
            group_limit = float((groups / limit_file).read_text())
            statistics = (groups / limit_file).with_name("memory.stat").read_text().splitlines()
            cached = sum(float(line.split()[1]) for line in statistics if line.split()[0] in caches)
            group_used = float((groups / used_file).read_text()) - cached
        except (OSError, ValueError):  # No such group, or one without a limit, which says "max".
            continue
        if group_limit < limit:
            limit, used = group_limit, group_used
    share = float(os.environ.get(RAY_THRESHOLD) or 1)
    return share * limit - used, share * limit
