"""Checks of a cluster as a whole, and of the machine that examines it."""

import contextlib
import ipaddress
import os
import pathlib
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cluster.doctor.finding import OK, WARNING, WRONG, Finding
from common import host
from common.errors import BadInput, require, summarize_error
from common.files import nearest
from common.storage import Location
from common.time_limit import call_with_timeout

_STORAGE_SECONDS = 60.0
_RESOLVE_SECONDS = 10.0
_LITTLE_DISK = 5e9


def check_cluster(
    address: str | None,
    nodes: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    location: Location,
    workers: Mapping[str, str] | None,
) -> dict[str, Finding]:
    """Checks a cluster as a whole; returns the findings by name.

    Args:
        address: Address of the cluster; None for a Ray of this command alone.
        nodes: Nodes as `ray.nodes` returns them.
        measured: Measurements of each node, see `measure_nodes`.
        location: Folder or URL for the runs.
        workers: Names of the workers that have to be there, by address; None if unknown.
    """
    addresses = [node["NodeManagerAddress"] for node in nodes]
    modes = [its.get("auth_mode") for its in measured if "error" not in its]
    reachable = address is not None and not all(map(_is_loopback, addresses))
    checks = {
        "storage": check_storage(location),
        "environment": check_environment(host.said),
        "roles": check_roles([node["Resources"] for node in nodes]),
        "token": check_token(modes, reachable),
    }
    if workers is not None:
        checks["workers"] = check_workers(workers, addresses)
    return checks


def check_environment(said: Sequence[str]) -> Finding:
    """Checks that all of this machine's environment variables and folders could be used.

    Args:
        said: Messages of `common.host.prepare`.
    """
    if not said:
        return Finding(OK, "variables and folders suit")
    fix = "set these to what can be used, or leave it at that"
    return Finding(WARNING, "; ".join(said), fix)


def check_storage(location: Location) -> Finding:
    """Checks that runs can be stored in a location: writes, reads and removes a small file."""
    try:
        return call_with_timeout(
            _STORAGE_SECONDS, _try_url if location.url else _try_folder, location
        )
    except Exception as error:  # Every file system has its own errors.
        fix = "give this user the right to write there, or choose another --root-dir"
        return Finding(WRONG, f"{location} cannot be written: {summarize_error(error)}", fix)


def _try_folder(location: Location) -> Finding:
    folder = nearest(location.path)  # A run creates the missing folders.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"pianist")
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(folder).free
    what = f"{location}: {free / 1e9:.0f} GB free"
    if free < _LITTLE_DISK:
        return Finding(WARNING, what, "make room: a checkpoint takes some MB, a video, too")
    return Finding(OK, what)


def _try_url(location: Location) -> Finding:
    import fsspec

    system, root = fsspec.core.url_to_fs(location.url)
    file = f"{root.rstrip('/')}/pianist-doctor-{os.getpid()}-{time.time_ns()}"
    system.makedirs(root, exist_ok=True)
    system.pipe_file(file, b"pianist")
    try:
        read = system.cat_file(file)
    finally:
        system.rm_file(file)
    require(read == b"pianist", "it gives back something else than was written")
    return Finding(OK, f"{location} can be written")


def check_roles(resources: Sequence[Mapping[str, float]]) -> Finding:
    """Checks that nodes offer both `learner` and `actor`, or neither."""
    learners = sum("learner" in offered for offered in resources)
    actors = int(sum(offered.get("actor", 0) for offered in resources))
    if learners and not actors:
        return Finding(
            WRONG,
            "a node offers `learner`, but none `actor`: there would be no actors",
            "start nodes with --resources '{\"actor\": N}', N being their processors",
        )
    if actors and not learners:
        return Finding(
            WARNING,
            "nodes offer `actor`, but none `learner`: both are disregarded",
            "start the node of the learner with --resources '{\"learner\": 1}'",
        )
    if learners:
        return Finding(OK, f"{learners} for learners, room for {actors} actors")
    return Finding(OK, "none are given: processors and GPUs decide")


def check_token(modes: Sequence[str | None], reachable: bool) -> Finding:
    """Checks that the cluster requires a token.

    Args:
        modes: Values of RAY_AUTH_MODE on the nodes that have answered.
        reachable: Whether other machines could use the cluster.
    """
    if modes and all(mode == "token" for mode in modes):
        return Finding(OK, "token authentication is on")
    if not reachable:
        return Finding(OK, "token authentication is off, on this machine alone")
    return Finding(
        WARNING,
        "token authentication is off: everyone who reaches a node can run anything there",
        "ray get-auth-token --generate, the token on all nodes, and RAY_AUTH_MODE=token for all",
    )


def check_workers(wanted: Mapping[str, str], joined: Sequence[str]) -> Finding:
    """Checks that all workers of a cluster file have joined.

    Args:
        wanted: Names of the workers in the file, by address.
        joined: Addresses of the nodes.
    """
    absent = [name for address, name in wanted.items() if address not in joined]
    if absent:
        return Finding(
            WRONG,
            f"never joined, or gone: {', '.join(absent)}",
            "are they up, and does ssh reach them? `ray monitor FILE` and `ray up FILE` say more",
        )
    return Finding(OK, f"all {len(wanted)} have joined")


def read_workers(file: pathlib.Path) -> dict[str, str]:
    """Reads the workers in a cluster file of `ray up`: their names in the file, by address.

    Raises:
        BadInput: The file cannot be read, or it names no machines because it describes a cloud.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise BadInput(f"--cluster-file {file} cannot be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"--cluster-file {file} is not YAML: {summarize_error(error)}") from error
    provider = content.get("provider") if isinstance(content, dict) else None
    names = provider.get("worker_ips") if isinstance(provider, dict) else None
    require(
        isinstance(names, list) and all(isinstance(name, str) for name in names),
        f"--cluster-file {file} has no `worker_ips`: only those of the provider `local` name "
        "their machines",
    )
    return {_address_of(name): name for name in names or []}


def _address_of(name: str) -> str:
    with contextlib.suppress(OSError, TimeoutError):
        return call_with_timeout(_RESOLVE_SECONDS, socket.gethostbyname, name)
    return name


def _is_loopback(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return False
