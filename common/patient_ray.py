"""Makes Ray wait for its own processes, which start slowly on a busy machine.

Ray gives them 15 and 30 seconds, and no setting changes that. Here Ray waits as long as they move.
"""

import contextlib
import functools
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
from ray._private import parameter, services

from common import process_logs
from common.errors import PartFailed
from common.waiting import RAY, Patience

_POLL_SECONDS = 0.1
_LISTEN = "dashboard_agent_listen_port"
_AGENTS_PORTS = _LISTEN, "metrics_agent_port", "runtime_env_agent_port"
"""Ray's names of the agents' ports, which `ray.init` does not take."""


@contextlib.contextmanager
def patient() -> Iterator[dict[str, Any]]:
    """Makes `ray.init` wait, and yields additional arguments for it."""
    with _patient_with_raylet(), _ports_of_agents() as metrics_port:
        yield {"_metrics_export_port": metrics_port}


@contextlib.contextmanager
def _patient_with_raylet() -> Iterator[None]:
    """Makes Ray wait for its raylet as long as any of its processes moves.

    Ray itself would wait for 30 seconds.
    """
    get_node = services.get_node

    def wait_for_node(*arguments: Any) -> Any:
        patience = Patience(RAY, "Ray did not start", most_used=float("inf"))
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # The raylet is not there yet.
                if _raylet_has_died():
                    lines = process_logs.last_lines_of_ray()
                    raise PartFailed(f"Ray did not start: its raylet died{lines}") from None
                patience.look()
                time.sleep(_POLL_SECONDS)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node


@contextlib.contextmanager
def _ports_of_agents() -> Iterator[int]:
    """Makes Ray give its agents ports that are free now, and yields one more, to export metrics.

    Otherwise the agents choose their own ports, and the raylet ends if one of them has not reported
    its port after 15 seconds (ray-project/ray issue 65983).
    """
    parameters, start_process = parameter.RayParams, services.start_ray_process
    with contextlib.ExitStack() as all_at_once:
        metrics_port, *others = (_free_port(all_at_once) for _ in range(1 + len(_AGENTS_PORTS)))
    ports: dict[str, Any] = dict(zip(_AGENTS_PORTS, others, strict=True))

    def start(command: list[str], process_type: str, *arguments: Any, **named: Any) -> Any:
        # Ray passes this port to the agent only.
        more = [f"--{_LISTEN}={ports[_LISTEN]}"] if process_type == "raylet" else []
        return start_process([*command, *more], process_type, *arguments, **named)

    parameter.RayParams = functools.partial(parameters, **ports)  # type: ignore[misc, assignment]
    services.start_ray_process = start
    try:
        yield metrics_port
    finally:
        parameter.RayParams = parameters  # type: ignore[misc]
        services.start_ray_process = start_process


def _free_port(held: contextlib.ExitStack) -> int:
    """Returns a free port, and holds it until the stack is closed."""
    bound = held.enter_context(socket.socket())
    bound.bind(("", 0))
    port: int = bound.getsockname()[1]
    return port


def _raylet_has_died() -> bool:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "raylet" and process.status() == psutil.STATUS_ZOMBIE:
                return True
    return False
