"""The command `pianist doctor`: its settings, its answer, and the table that shows it."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from cluster.doctor.cluster_checks import check_cluster, read_workers
from cluster.doctor.finding import OK, WRONG, Finding
from cluster.doctor.measurement import measure_nodes
from cluster.doctor.node_checks import check_node
from common import ray_session
from common.errors import require_range
from common.storage import Location
from common.time_limit import call_with_timeout

_CONNECT_SECONDS = 60.0


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


def doctor(config: DoctorConfig) -> dict[str, Any]:
    """Examines a cluster.

    Returns:
        Checks and measurements of every node, checks of the whole cluster, and the exit code: 1 if
        something is wrong, 0 if there are no problems or only warnings.

    Raises:
        BadInput: No cluster answers, or the cluster file cannot be used.
    """
    file = config.cluster_file
    workers = None if file is None else read_workers(file)
    location = Location.of(config.root_dir)
    address = ray_session.cluster_address()
    logs = pathlib.Path(tempfile.gettempdir()) / f"pianist-doctor-logs-{os.getuid()}"
    with ray_session.connect(address, logs):
        nodes = [node for node in call_with_timeout(_CONNECT_SECONDS, ray.nodes) if node["Alive"]]
        here = ray.get_runtime_context().get_node_id()
        nodes.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"]))
        server = next((node for node in nodes if "learner" in node["Resources"]), nodes[0])
        by_node = measure_nodes(nodes, server["NodeID"], config.seconds)
    labels = _labels(nodes, here)
    measured = [by_node[node["NodeID"]] for node in nodes]
    checks = _as_json(check_cluster(address, nodes, measured, location, workers))
    described = [
        {
            "node": label,
            "id": node["NodeID"],
            "resources": node["Resources"],
            "checks": _as_json(check_node(node, its, measured, labels)),
            "measured": its,
        }
        for node, label, its in zip(nodes, labels, measured, strict=True)
    ]
    every_check = [checks, *(node["checks"] for node in described)]
    wrong = any(check["verdict"] == WRONG for some in every_check for check in some.values())
    return {
        "cluster": address,
        "nodes": described,
        "checks": checks,
        "exit_code": 1 if wrong else 0,
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
    nodes = [(node["node"], node["checks"]) for node in answer["nodes"]]
    problems = [
        f"{_word(check['verdict']):<7}  {where}: {name}: {check['what']}; {check['fix']}"
        for where, checks in [*nodes, ("cluster", answer["checks"])]
        for name, check in checks.items()
        if check["verdict"] != OK
    ]
    problems.sort(key=lambda line: not line.startswith(_word(WRONG)))
    return "\n".join(lines + (problems or ["all is well"]))


def _word(verdict: str) -> str:
    return "WRONG" if verdict == WRONG else "OK" if verdict == OK else verdict


def _as_json(findings: Mapping[str, Finding]) -> dict[str, dict[str, str]]:
    return {name: finding._asdict() for name, finding in findings.items()}


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
