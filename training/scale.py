"""Changing the number of actors of a run while it runs.

The request is a file in the run's folder; the run looks for it between two slices of work. So
nothing waits, and every user who can write there can scale.
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
    """Changes the number of actors of a run that runs, up or down, also to none and back."""

    run: tyro.conf.Positional[str]
    """The run: its folder, or its name below --root-dir."""
    actors: int
    """Actor processes wanted."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require_range(self, "actors", least=0, most=4096)


def scale(config: ScaleConfig) -> dict[str, Any]:
    """Asks a run for another number of actors, and waits until it has taken notice.

    Returns:
        The run's name, and how many actors are wanted, placed, running and pending, and why.

    Raises:
        BadInput: there is no such run, it does not run, or it does not take notice.
    """
    folder = run.find(config.run, config.root_dir)
    status = run.read_status(folder)
    require(
        status["kind"] == "train" and status["state"] in ("starting", "training"),
        f"the run {folder.name} has no actors to scale: it is {status['state']}",
    )
    asked, deadline = time.time(), time.monotonic() + _NOTICE_SECONDS
    write_json(folder.scale_request, {"actors": config.actors})
    while status["actors_wanted"] != config.actors or status["updated"] < asked:
        if time.monotonic() > deadline:
            folder.scale_request.unlink(missing_ok=True)
            raise BadInput(
                f"the run {folder.name} took no notice within {_NOTICE_SECONDS:.0f} s: is it "
                f"still at work? pianist status {folder.name}"
            )
        time.sleep(0.2)
        status = run.read_status(folder)
    names = ("wanted", "placed", "running", "pending", "pending_because")
    return {"run": folder.name} | {f"actors_{name}": status[f"actors_{name}"] for name in names}


def take_request(folder: run.RunFolder) -> int | None:
    """The number of actors asked for since the last time, if any."""
    if not folder.scale_request.is_file():
        return None
    try:
        actors = int(read_json(folder.scale_request)["actors"])
    except (BadInput, KeyError, TypeError, ValueError):
        actors = -1
    folder.scale_request.unlink(missing_ok=True)
    return actors if 0 <= actors <= 4096 else None


class Autoscaler:
    """Asks a cluster's autoscaler for what is missing, and withdraws it afterwards.

    What is asked for by `request_resources` holds for the whole cluster until somebody asks for
    something else, so it has to be withdrawn.

    Args:
        placement: of the run's actors.
        on_cluster: whether there may be an autoscaler; a Ray of our own has none.
    """

    def __init__(self, placement: Placement, on_cluster: bool):
        self._bundle = placement.actor_bundle
        self._on_cluster = on_cluster
        self._asked = 0

    def ask(self, actors: int) -> None:
        """Asks for room for as many actors in all; 0 withdraws what was asked for."""
        if self._on_cluster and actors != self._asked:
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=[self._bundle] * actors)
            self._asked = actors

    def why_pending(self) -> str:
        """Why actors that are wanted have no place yet."""
        free, whole = ray.available_resources(), ray.cluster_resources()
        short = [name for name, need in self._bundle.items() if free.get(name, 0) < need]
        if not short:
            return "starting"
        missing = " and ".join(
            f"no {'processor' if name == 'CPU' else name} free of {whole.get(name, 0):g}"
            for name in short
        )
        return missing + ("; the autoscaler has been asked" if self._asked else "")
