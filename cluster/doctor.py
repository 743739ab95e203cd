"""Checks of a cluster before a run costs money.

A short Ray task examines each node, all nodes in parallel. Each check that could crash, for example
in a GPU driver, runs in a separate process, so that a crash becomes a finding. The code is sent to
the nodes, so they can be examined without this project.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import ipaddress
import json
import os
import pathlib
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import psutil
import ray
import ray.cloudpickle
import tqdm
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.submit import summarize_error
from common import host, ray_session
from common.errors import BadInput, require, require_range
from common.files import nearest
from common.project import PACKAGES
from common.storage import Place
from common.time_limit import call_with_timeout

OK, WARNING, WRONG = "ok", "warning", "wrong"

_CONNECT_SECONDS = 60.0
_STORAGE_SECONDS = 60.0
_REACH_SECONDS = 10.0
_DIGITS_OF_PROJECT = 8
_LEAST_MEMORY, _LITTLE_MEMORY = 1e9, 3e9
_LITTLE_DISK = 5e9
_SLOW_SECONDS = 0.05
_CLOCK_SECONDS = 1.0
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


@dataclasses.dataclass(frozen=True)
class DoctorConfig:
    """Checks a cluster, or this machine if there is no cluster, before a run costs money.

    The cluster is the one in RAY_ADDRESS, else the one that runs on this machine. To check from
    another machine, use `ray job submit -- pianist doctor`. A run can work in spite of warnings.
    """

    root_dir: str = "runs"
    """Folder or URL for the runs, which is checked for write access."""
    cluster_file: pathlib.Path | None = None
    """Cluster file of `ray up`, whose `worker_ips` must all have joined."""
    seconds: float = 180.0
    """Time limit, in seconds, for the answers of the nodes."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        require_range(self, "seconds", least=1, most=3600, unit="seconds")


class Finding(NamedTuple):
    """Result of a check."""

    verdict: str
    """OK, WARNING (a run can work in spite of it) or WRONG."""
    what: str
    """Description of the finding."""
    fix: str = ""
    """Advice in one line; empty if nothing is to be fixed."""


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """Examines a cluster.

    Returns:
        Checks and measurements of every node, checks of the whole cluster, and the exit code: 1 if
        something is wrong, 0 if there are no problems or only warnings.

    Raises:
        BadInput: No cluster answers, or the cluster file cannot be used.
    """
    workers = None if config.cluster_file is None else _workers_of(config.cluster_file)
    place = Place.of(config.root_dir)
    address = ray_session.cluster_address()
    logs = pathlib.Path(tempfile.gettempdir()) / f"pianist-doctor-logs-{os.getuid()}"
    with ray_session.connect(address, logs):
        nodes = [node for node in call_with_timeout(_CONNECT_SECONDS, ray.nodes) if node["Alive"]]
        here = ray.get_runtime_context().get_node_id()
        nodes.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"]))
        server = next((node for node in nodes if "learner" in node["Resources"]), nodes[0])
        examined = _examine(nodes, server["NodeID"], config.seconds)
    labels = _labels(nodes, here)
    facts = [examined[node["NodeID"]] for node in nodes]
    checks = {
        "storage": check_storage(place),
        "environment": check_environment(host.said),
        "roles": check_roles([node["Resources"] for node in nodes]),
        "token": check_token(
            [fact.get("auth_mode") for fact in facts if "error" not in fact],
            address is not None and not all(_is_loopback(node) for node in nodes),
        ),
    }
    if workers is not None:
        checks["workers"] = check_workers(workers, [n["NodeManagerAddress"] for n in nodes])
    described = [
        {
            "node": label,
            "id": node["NodeID"],
            "resources": node["Resources"],
            "checks": {
                name: finding._asdict()
                for name, finding in check_node(node, fact, facts, labels).items()
            },
            "measured": fact,
        }
        for node, label, fact in zip(nodes, labels, facts, strict=True)
    ]
    verdicts = [finding.verdict for finding in checks.values()]
    verdicts += [check["verdict"] for node in described for check in node["checks"].values()]
    return {
        "cluster": address,
        "nodes": described,
        "checks": {name: finding._asdict() for name, finding in checks.items()},
        "exit_code": 1 if WRONG in verdicts else 0,
    }


def table(answer: Mapping[str, Any]) -> str:
    """Formats the answer as text: a table of nodes and checks, then one line per problem."""
    names = list(dict.fromkeys(name for node in answer["nodes"] for name in node["checks"]))
    rows = [["NODE", *(name.upper() for name in names)]]
    for node in answer["nodes"]:
        found = [node["checks"].get(name, {}).get("verdict", "-") for name in names]
        rows.append([node["node"], *map(_word, found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    whole = [f"{name} {_word(check['verdict'])}" for name, check in answer["checks"].items()]
    lines += [f"{answer['cluster'] or 'no cluster, this machine'}: {', '.join(whole)}", ""]
    places = [(node["node"], node["checks"]) for node in answer["nodes"]]
    problems = [
        f"{_word(check['verdict']):<7}  {place}: {name}: {check['what']}; {check['fix']}"
        for place, checks in [*places, ("cluster", answer["checks"])]
        for name, check in checks.items()
        if check["verdict"] != OK
    ]
    problems.sort(key=lambda line: not line.startswith(_word(WRONG)))
    return "\n".join(lines + (problems or ["all is well"]))


def _word(verdict: str) -> str:
    return "WRONG" if verdict == WRONG else "OK" if verdict == OK else verdict


# --- The cluster ------------------------------------------------------------------------


def _examine(
    nodes: Sequence[Mapping[str, Any]], server: str, seconds: float
) -> dict[str, dict[str, Any]]:
    """Examines all nodes.

    Args:
        nodes: Nodes as `ray.nodes` returns them.
        server: Id of the node that is to hold the replay server.
        seconds: Time limit in seconds for all nodes together.

    Returns:
        The measurements of each node, by its id; `error` is the reason if there are none.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return _examine_all(nodes, server, seconds)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _examine_all(
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
    # Ray hides the GPUs from a task that has requested none.
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or None
    asked: dict[str, tuple[str, dict[str, str | None]]] = {
        "jax": (_JAX, {"CUDA_VISIBLE_DEVICES": gpus, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        "learning": (
            _LEARNING,
            {"CUDA_VISIBLE_DEVICES": gpus, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        ),
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
        **_run_side_by_side(asked, deadline),
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
    front_door = pathlib.Path(specification.origin)
    root = front_door.parent
    digest = hashlib.sha256()
    for path in [
        front_door,
        *(file for package in PACKAGES for file in sorted(root.glob(f"{package}/**/*.py"))),
    ]:
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


# --- Findings ---------------------------------------------------------------------------


def check_node(
    node: Mapping[str, Any],
    measured: Mapping[str, Any],
    all_measured: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
) -> dict[str, Finding]:
    """Checks one node; returns the findings by name.

    Args:
        node: Node as `ray.nodes` returns it.
        measured: Measurements of the node, see `examine`.
        all_measured: Measurements of all nodes. The first node that has answered is the reference
            for the others.
        labels: Labels of all nodes.
    """
    if "error" in measured:
        fix = "is the machine up? See `ray status`, and its raylet.err in Ray's logs"
        return {"answer": Finding(WRONG, measured["error"], fix)}
    model, name = next(
        (other, label)
        for other, label in zip(all_measured, labels, strict=True)
        if "error" not in other
    )
    resources = node["Resources"]
    network = measured["network"]
    checks = {
        "answer": Finding(OK, "answers"),
        "versions": check_versions(measured["versions"], model["versions"], name),
        "project": check_project(measured["project"], model["project"], name),
        "jax": check_jax(measured["jax"], resources.get("GPU", 0)),
        "learning": check_learning(measured["learning"]),
        "replay": check_replay(measured["replay"]),
        "recording": check_recording(measured["recording"]),
        "memory": check_memory(measured, resources.get("object_store_memory", 0)),
        "address": check_address(node["NodeManagerAddress"], measured["addresses"]),
        "network": check_network(network),
    }
    if "error" not in network:
        checks["clock"] = check_clock(network)
    return checks


def check_versions(versions: Mapping[str, str], model: Mapping[str, str], where: str) -> Finding:
    """Checks that all packages are installed in the versions of another node."""
    missing = [name for name, version in versions.items() if not version]
    others = [
        f"{name} {version} ({model[name]} on {where})"
        for name, version in versions.items()
        if version and model.get(name) and version != model[name]
    ]
    if not missing and not others:
        return Finding(OK, ", ".join(f"{name} {version}" for name, version in versions.items()))
    parts = [f"no {', '.join(missing)}"] * bool(missing) + others
    fix = "install this project there as on the other nodes, with its constraints.txt"
    return Finding(WRONG, "; ".join(parts), fix)


def check_project(project: str, model: str, where: str) -> Finding:
    """Checks that this project is installed in the same state as on another node."""
    if not project:
        return Finding(WRONG, "this project is not installed", "pip install it there")
    if project != model:
        return Finding(
            WRONG,
            f"another state of this project ({project}) than on {where} ({model})",
            "bring it to the same state there, as `ray up` does, or submit it along with the job",
        )
    return Finding(OK, project)


def check_jax(jax: Mapping[str, Any], gpus: float) -> Finding:
    """Checks that JAX works and sees the GPU that the node offers."""
    if "error" in jax:
        return Finding(
            WRONG, f"JAX does not work: {jax['error']}", "reinstall jax and jaxlib there"
        )
    devices = ", ".join(jax["answer"]["devices"])
    if gpus and jax["answer"]["platform"] not in ("gpu", "cuda", "rocm"):
        return Finding(
            WRONG,
            f"the node offers {gpus:g} GPU, JAX sees {devices}",
            'pip install "jax[cuda12]" in the version of jax there; does nvidia-smi work?',
        )
    return Finding(OK, devices)


def check_learning(learning: Mapping[str, Any]) -> Finding:
    """Checks that the device computes the same learner steps as the CPU."""
    fix = "learn on the CPU (--platform cpu), or update the device's driver or plugin"
    if "error" in learning:
        return Finding(WRONG, f"no learner step can be computed: {learning['error']}", fix)
    answer = learning["answer"]
    what = (
        f"three learner steps on {answer['device']} are {answer['parameters']:.2g} of their "
        f"length away from the CPU's, metrics {answer['metrics']:.2g}"
    )
    return Finding(OK, what) if answer["agrees"] else Finding(WRONG, what, fix)


def check_replay(replay: Mapping[str, Any]) -> Finding:
    """Checks that Reverb and TensorFlow can be imported if they are installed."""
    if "error" in replay:
        fix = "reinstall dm-reverb and tensorflow-cpu there; Linux on x86-64 only"
        return Finding(WRONG, f"Reverb does not work: {replay['error']}", fix)
    return Finding(OK, "Reverb works" if replay["answer"] else "no Reverb: kept in memory")


def check_recording(recording: Mapping[str, Any]) -> Finding:
    """Checks that pictures and sound can be made; a run also works without them."""
    if "error" in recording:
        fix = "install this project and the system libraries that its setup.sh names there"
        return Finding(WRONG, f"recording does not work: {recording['error']}", fix)
    missing = [line.rpartition("; ") for line in recording["answer"]]
    if missing:
        return Finding(
            WARNING,
            "; ".join(what for what, _, _ in missing),
            "; ".join(fix for _, _, fix in missing),
        )
    return Finding(OK, "pictures and sound")


def check_memory(measured: Mapping[str, Any], object_store: float) -> Finding:
    """Checks that memory suffices for a few processes, and shared memory for Ray's objects."""
    available, shared = measured["memory_available_bytes"], measured["shared_memory_bytes"]
    what = f"{available / 1e9:.1f} GB free of {measured['memory_bytes'] / 1e9:.1f}"
    if available < _LITTLE_MEMORY:
        fix = "end what uses it, or take a larger machine: an actor takes about 1 GB"
        return Finding(WRONG if available < _LEAST_MEMORY else WARNING, what, fix)
    if shared < object_store:
        return Finding(
            WARNING,
            f"/dev/shm has {shared / 1e9:.2f} GB, Ray's object store {object_store / 1e9:.2f}: it "
            "is on the disk",
            "give the container more (docker run --shm-size, or an emptyDir of medium Memory)",
        )
    return Finding(OK, what)


def check_network(network: Mapping[str, Any]) -> Finding:
    """Checks that the replay server would be reachable, and how fast."""
    if "error" in network:
        where = f"{network['host']}:{network['port']}: " if "host" in network else ""
        return Finding(
            WRONG,
            f"the replay server would not be reached at {where}{network['error']}",
            "open all TCP ports between the nodes, since Reverb and Ray take any that is free",
        )
    what = f"{1000 * network['seconds']:.1f} ms to {network['host']} and back"
    if network["seconds"] > _SLOW_SECONDS:
        return Finding(WARNING, what, "put the nodes into one data center or one local network")
    return Finding(OK, what)


def check_clock(network: Mapping[str, Any]) -> Finding:
    """Checks that the clock agrees with that of the replay server's node."""
    ahead = network["clock_ahead_seconds"]
    what = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} {network['host']}"
    if abs(ahead) > _CLOCK_SECONDS + network["clock_known_to_seconds"]:
        return Finding(WARNING, what, "switch on its synchronisation: timedatectl set-ntp true")
    return Finding(OK, what)


def check_address(address: str, addresses: Sequence[str]) -> Finding:
    """Checks that the node has no public address."""
    public = [one for one in dict.fromkeys([address, *addresses]) if _is_public(one)]
    if public:
        return Finding(
            WARNING,
            f"{', '.join(public)} is public; Reverb listens on all addresses, nothing is encrypted",
            "use private addresses, or a firewall that lets only the cluster's nodes in",
        )
    return Finding(OK, address)


def check_environment(said: Sequence[str]) -> Finding:
    """Checks that all of this machine's environment variables and folders could be used.

    Args:
        said: Messages of `common.host.prepare`.
    """
    if not said:
        return Finding(OK, "variables and folders suit")
    fix = "set these to what can be used, or leave it at that"
    return Finding(WARNING, "; ".join(said), fix)


def check_storage(place: Place) -> Finding:
    """Checks that runs can be stored in a place: writes, reads and removes a small file."""
    try:
        return call_with_timeout(_STORAGE_SECONDS, _try_url if place.url else _try_folder, place)
    except Exception as error:  # Every file system has its own errors.
        fix = "give this user the right to write there, or choose another --root-dir"
        return Finding(WRONG, f"{place} cannot be written: {summarize_error(error)}", fix)


def _try_folder(place: Place) -> Finding:
    folder = nearest(place.path)  # A run creates the missing folders.
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"pianist")
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(folder).free
    what = f"{place}: {free / 1e9:.0f} GB free"
    if free < _LITTLE_DISK:
        return Finding(WARNING, what, "make room: a checkpoint takes some MB, a video, too")
    return Finding(OK, what)


def _try_url(place: Place) -> Finding:
    import fsspec

    system, root = fsspec.core.url_to_fs(place.url)
    file = f"{root.rstrip('/')}/pianist-doctor-{os.getpid()}-{time.time_ns()}"
    system.makedirs(root, exist_ok=True)
    system.pipe_file(file, b"pianist")
    try:
        read = system.cat_file(file)
    finally:
        system.rm_file(file)
    require(read == b"pianist", "it gives back something else than was written")
    return Finding(OK, f"{place} can be written")


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


def _workers_of(file: pathlib.Path) -> dict[str, str]:
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
        return call_with_timeout(_REACH_SECONDS, socket.gethostbyname, name)
    return name


def _labels(nodes: Sequence[Mapping[str, Any]], here: str) -> list[str]:
    """Returns readable names of the nodes: the address, plus the id if two share an address."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    labels = []
    for node, address in zip(nodes, addresses, strict=True):
        label = address
        if addresses.count(address) > 1:
            label += f" {node['NodeID'][:6]}"
        labels.append(label + " (here)" * (node["NodeID"] == here))
    return labels


def _is_loopback(node: Mapping[str, Any]) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(node["NodeManagerAddress"]).is_loopback
    return False


def _is_public(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_global
    return False
