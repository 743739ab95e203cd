"""Measurements of the nodes of a cluster.

A short Ray task examines each node, all nodes in parallel. Each check that could crash, for example
in a GPU driver, runs in a separate process, so that a crash becomes a finding. The code of this
module is sent to the nodes, so they can be examined without this project.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import psutil
import ray
import ray.cloudpickle
import tqdm
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import summarize_error
from common.project import PACKAGES

_REACH_SECONDS = 10.0
_DIGITS_OF_PROJECT = 8
_DISTRIBUTIONS = (
    *("ray", "jax", "jaxlib", "flax", "numpy", "mujoco", "dm-control", "robopianist"),
)
# Each script prints JSON as its last line.
_JAX = """
import json, jax
print(json.dumps({"platform": jax.default_backend(),
                  "devices": [device.device_kind for device in jax.devices()]}))
"""
_REPLAY = """
import importlib.util, json
there = importlib.util.find_spec("reverb") is not None
if there:
    from replay import reverb_without_tensorflow
    reverb_without_tensorflow.load()
print(json.dumps(there))
"""
_LEARNING = """
import json
from learner import device_check
print(json.dumps(device_check.compare_with_cpu()))
"""
# These packages exist only for Python 3.10 and 3.11 on Linux x86-64, see pyproject.toml.
_REVERB = ("dm-reverb", "tensorflow-cpu")
_RECORDING = """
import json, subprocess
import imageio_ffmpeg
from piano import recording
missing = recording.what_is_missing()
try:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-version"], check=True, capture_output=True)
except Exception as error:
    missing.append(f"no video: ffmpeg does not run ({error}); pip install imageio-ffmpeg")
print(json.dumps(missing))
"""


def measure_nodes(
    nodes: Sequence[Mapping[str, Any]], server: str, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measures all nodes.

    Args:
        nodes: Nodes as `ray.nodes` returns them.
        server: Id of the node that is to hold the replay server.
        seconds: Time limit in seconds for all nodes together.

    Returns:
        The measurements of each node, by its id; `error` is the reason if there are none.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return _measure_nodes(nodes, server, seconds)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _measure_nodes(
    nodes: Sequence[Mapping[str, Any]], server: str, seconds: float
) -> dict[str, dict[str, Any]]:
    def on(node: str, what: Any, **options: Any) -> Any:
        # The task requests no CPU, so it can run beside other work on the node.
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        # Ray's types do not cover all of its options.
        decorate: Any = ray.remote
        return decorate(num_cpus=0, scheduling_strategy=strategy, **options)(what)

    ids = [node["NodeID"] for node in nodes]
    deadline = time.monotonic() + seconds
    listener = on(server, Listener).remote()
    waiting = {
        on(node, examine, max_calls=1, max_retries=0).remote(seconds): (node, "") for node in ids
    }
    waiting[listener.address.remote()] = (server, "listener")
    found: dict[str, dict[str, Any]] = {node: {} for node in ids}
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    with tqdm.tqdm(total=2 * len(nodes) + 1, unit="answer", delay=2, dynamic_ncols=True) as bar:
        while waiting and time.monotonic() < deadline:
            for future in ray.wait(list(waiting), timeout=0.5)[0]:
                node, kind = waiting.pop(future)
                bar.update()
                value = _answer(future)
                if kind == "listener" and "error" not in value:
                    for other in ids:
                        call = on(other, reach, max_calls=1, max_retries=0)
                        waiting[call.remote(*value["address"])] = (other, "network")
                elif kind == "network":
                    found[node]["network"] = value
                elif kind == "":
                    found[node] |= value
            late = sorted({addresses[node] for node, _ in waiting.values()})
            bar.set_postfix_str("waiting for " + ", ".join(late[:3]) if late else "", refresh=False)
    for node, kind in waiting.values():
        if kind == "":
            found[node]["error"] = f"no answer within {seconds:.0f} s"
        elif kind == "network":
            found[node]["network"] = {"error": f"no answer within {seconds:.0f} s"}
    for node in ids:
        found[node].setdefault(
            "network", {"error": f"the replay server's node, {addresses[server]}, does not answer"}
        )
    return found


def _answer(future: ray.ObjectRef) -> dict[str, Any]:
    try:
        return dict(ray.get(future, timeout=1))
    except ray.exceptions.RayTaskError as error:
        return {"error": summarize_error(error.cause)}
    except Exception as error:  # Ray has many errors for lost nodes and processes.
        return {"error": summarize_error(error)}


# --- On a node --------------------------------------------------------------------------


def examine(seconds: float) -> dict[str, Any]:
    """Measures the node on which it runs; it needs no other file of this project.

    Args:
        seconds: Time limit in seconds.
    """
    deadline = time.monotonic() + seconds
    memory, shared = psutil.virtual_memory(), shutil.disk_usage("/dev/shm")
    # Ray hides the GPUs from a task that has requested none, by an empty variable.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or None
    device = {"CUDA_VISIBLE_DEVICES": gpus, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    scripts: dict[str, tuple[str, Mapping[str, str | None]]] = {
        "jax": (_JAX, device),
        "learning": (_LEARNING, device),
        "replay": (_REPLAY, {}),
        "recording": (_RECORDING, {"JAX_PLATFORMS": "cpu"}),
    }
    return {
        "hostname": socket.gethostname(),
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        "versions": _versions(),
        "project": _project(),
        "addresses": sorted(
            entry.address.partition("%")[0]
            for entries in psutil.net_if_addrs().values()
            for entry in entries
            if entry.family in (socket.AF_INET, socket.AF_INET6)
        ),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "shared_memory_bytes": shared.total,
        **_run_side_by_side(scripts, deadline),
    }


def _run_side_by_side(
    scripts: Mapping[str, tuple[str, Mapping[str, str | None]]], deadline: float
) -> dict[str, dict[str, Any]]:
    """Runs scripts in parallel, since most of their time is single-threaded; results by name."""
    with futures.ThreadPoolExecutor(len(scripts)) as pool:
        running = {
            name: pool.submit(run_script, script, deadline - time.monotonic(), variables)
            for name, (script, variables) in scripts.items()
        }
        return {name: future.result() for name, future in running.items()}


def run_script(script: str, seconds: float, variables: Mapping[str, str | None]) -> dict[str, Any]:
    """Runs Python code in a separate process.

    Args:
        script: Python code that prints JSON as its last line.
        seconds: Time limit in seconds.
        variables: Environment variables to set; None removes a variable.

    Returns:
        The `answer` that the script printed, or the `error` that ended it.
    """
    environment: dict[str, str | None] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.update(variables)
    try:
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={name: value for name, value in environment.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, seconds),
            check=True,
        )
        return {"answer": json.loads(result.stdout.splitlines()[-1])}
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:.0f} s"}
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        if error.returncode < 0 or not lines:
            return {"error": str(error).rpartition(" died")[2].strip() or str(error)}
        return {"error": lines[-1]}
    except (ValueError, IndexError):
        return {"error": "it printed no answer"}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    has_wheels = sys.version_info < (3, 12) and sys.platform == "linux"
    for name in (*_DISTRIBUTIONS, *_REVERB * (has_wheels and os.uname().machine == "x86_64")):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _project() -> str:
    """Returns a short hash of this project's source; empty if the project is not installed."""
    specification = importlib.util.find_spec("pianist")
    if specification is None or specification.origin is None:
        return ""
    cli = pathlib.Path(specification.origin)
    root = cli.parent
    packages = (file for name in PACKAGES for file in sorted(root.glob(f"{name}/**/*.py")))
    digest = hashlib.sha256()
    for path in [cli, *packages]:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:_DIGITS_OF_PROJECT]


class Listener:
    """Listens as the replay server would: on all addresses of its node, at any free port.

    It answers each byte that a client sends with the current time.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("", 0), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self) -> dict[str, Any]:
        """Returns host and port of the listener."""
        return {"address": [ray.util.get_node_ip_address(), self._socket.getsockname()[1]]}

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while connection.recv(1):
                connection.sendall(struct.pack("!d", time.time()))


def reach(host: str, port: int) -> dict[str, Any]:
    """Measures the connection from this node to a `Listener`.

    Returns:
        `host`, `port`, `seconds` (median round trip), `clock_ahead_seconds` (lead of this node's
        clock over the listener's) and `clock_known_to_seconds` (its uncertainty, half of the
        quickest round trip); or `host`, `port` and `error`.
    """
    where = {"host": host, "port": port}
    try:
        with socket.create_connection((host, port), timeout=_REACH_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            trips = [_round_trip(connection) for _ in range(20)]
    except OSError as error:
        return where | {"error": str(error)}
    seconds, ahead = min(trips)
    return where | {
        "seconds": statistics.median(trip for trip, _ in trips),
        "clock_ahead_seconds": ahead,
        "clock_known_to_seconds": seconds / 2,
    }


def _round_trip(connection: socket.socket) -> tuple[float, float]:
    """Returns seconds of a round trip, and seconds by which this node's clock is ahead."""
    began, started = time.time(), time.perf_counter()
    connection.sendall(b"?")
    received = b""
    while len(received) < 8:
        more = connection.recv(8 - len(received))
        if not more:
            raise OSError("the connection was closed")
        received += more
    seconds = time.perf_counter() - started
    (there,) = struct.unpack("!d", received)
    return seconds, began + seconds / 2 - there
