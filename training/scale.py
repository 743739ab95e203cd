"""Changing the number of actors of an active run.

The request is a file in the run's folder. The run looks for this file between two slices of work,
so the request blocks no part of it. Any user who can write to the folder can scale the run.
"""

import dataclasses
import time
from typing import Any

import ray
import tyro

from common.errors import BadInput, require, require_range
from common.files import read_json, write_json
from training import run
from training.placement import Placement

_NOTICE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """Changes the number of actors of an active run, up or down, even to zero and back."""

    run: tyro.conf.Positional[str]
    """Run to scale: its folder, or its name below --root-dir."""
    actors: int
    """Number of actor processes."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        require_range(self, "actors", least=0, most=4096)


def scale(config: ScaleConfig) -> dict[str, Any]:
    """Requests another number of actors from a run, and waits until the run reads the request.

    Returns:
        Name of the run, its numbers of wanted, placed, running and pending actors, and why actors
        are pending.

    Raises:
        BadInput: The run does not exist, is not active, or does not read the request within a
            minute.
    """
    folder = run.find(config.run, config.root_dir)
    status = run.read_status(folder)
    require(
        status.kind == "train" and status.state in ("starting", "training"),
        f"the run {folder.name} has no actors to scale: it is {status.state}",
    )
    asked, deadline = time.time(), time.monotonic() + _NOTICE_SECONDS
    write_json(folder.scale_request, {"actors": config.actors})
    while status.actors_wanted != config.actors or status.updated < asked:
        if time.monotonic() > deadline:
            folder.scale_request.unlink(missing_ok=True)
            raise BadInput(
                f"the run {folder.name} took no notice within {_NOTICE_SECONDS:.0f} s: is it "
                f"still at work? pianist status {folder.name}"
            )
        time.sleep(0.2)
        status = run.read_status(folder)
    return {
        "run": folder.name,
        "actors_wanted": status.actors_wanted,
        "actors_placed": status.actors_placed,
        "actors_running": status.actors_running,
        "actors_pending": status.actors_pending,
        "actors_pending_because": status.actors_pending_because,
    }


def take_request(folder: run.RunFolder) -> int | None:
    """Reads and removes the request for another number of actors.

    Args:
        folder: Folder of the run.

    Returns:
        Number of actors requested; None if there is no valid request.
    """
    if not folder.scale_request.is_file():
        return None
    try:
        actors = int(read_json(folder.scale_request)["actors"])
    except (BadInput, KeyError, TypeError, ValueError):
        actors = -1
    folder.scale_request.unlink(missing_ok=True)
    return actors if 0 <= actors <= 4096 else None


class Autoscaler:
    """Requests missing resources from a cluster's autoscaler, and withdraws the request later.

    A request of `request_resources` applies to the whole cluster until the next request, so the
    run must withdraw it.

    Args:
        placement: Placement of the run's actors.
        on_cluster: Whether Ray runs on a cluster, which may have an autoscaler.
    """

    def __init__(self, placement: Placement, on_cluster: bool):
        self._bundle = placement.actor_bundle
        self._on_cluster = on_cluster
        self._asked = 0

    def ask(self, actors: int) -> None:
        """Requests resources for a total number of actors; 0 withdraws the request."""
        if self._on_cluster and actors != self._asked:
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=[self._bundle] * actors)
            self._asked = actors

    def why_pending(self) -> str:
        """Returns why wanted actors are not placed yet."""
        free, whole = ray.available_resources(), ray.cluster_resources()
        short = [name for name, need in self._bundle.items() if free.get(name, 0) < need]
        if not short:
            return "starting"
        missing = " and ".join(
            f"no {'processor' if name == 'CPU' else name} free of {whole.get(name, 0):g}"
            for name in short
        )
        return missing + ("; the autoscaler has been asked" if self._asked else "")
