"""Checks of one node, from what was measured on it."""

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.doctor.finding import OK, WARNING, WRONG, Finding

_LEAST_MEMORY, _LITTLE_MEMORY = 1e9, 3e9
_SLOW_SECONDS = 0.05
_CLOCK_SECONDS = 1.0


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
        f"three learner steps on {answer['device']} differ from the CPU's by "
        f"{answer['parameters']:.2%} in the parameters' change, {answer['metrics']:.2%} in metrics"
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
        return Finding(WARNING, what, "switch on its synchronization: timedatectl set-ntp true")
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


def _is_public(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_global
    return False
