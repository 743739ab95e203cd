"""`pianist doctor`: a real cluster with an ailing node, and each check by itself."""

import json
import os
import pathlib
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import psutil
import pytest
from ray_cluster_for_tests import RayCluster
from runs_for_tests import (
    ROOT,
    assert_refused,
    command,
    environment_variables,
    left_behind,
    wait_until_nothing_is_left,
)

from cluster.doctor import cluster_checks, measurement, node_checks
from cluster.doctor.command import table
from cluster.doctor.finding import OK, WARNING, WRONG
from common.project import PACKAGES
from common.storage import Location

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def folder():
    path = pathlib.Path(tempfile.mkdtemp(prefix="p-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def ailing(folder):
    """A cluster's worker that has another numpy, another state of this project, no OpenGL, and
    offers a GPU that is not there; its head is well."""
    other = folder / "other"
    (other / "numpy-9.9.9.dist-info").mkdir(parents=True)
    (other / "numpy-9.9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n"
    )
    for name in (*PACKAGES, "pianist.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, other / name)
    with (other / "common" / "errors.py").open("a") as source:
        source.write("\n# Another state.\n")
    (other / "cluster" / "doctor" / "__init__.py").write_text(
        "raise ImportError('not of this state')\n"
    )
    shared_memory = set(os.listdir("/dev/shm"))
    cluster = RayCluster(folder)
    try:
        cluster.start_head("--resources", '{"learner": 1}')
        worker = cluster.start_worker(
            *("--num-gpus", 1, "--resources", '{"actor": 2}'),
            PYTHONPATH=str(other),
            MUJOCO_GL="disable",
        )
        yield cluster, worker
    finally:
        cluster.stop()
    assert left_behind(folder) == []
    assert set(os.listdir("/dev/shm")) <= shared_memory


def examined(cluster, *arguments):
    """Exit code, the answer, and what was said for people."""
    # As the installed command. Ray has the folder of a script on all nodes before everything else.
    start = "import sys, pianist; sys.argv[0] = 'pianist'; sys.exit(pianist.main())"
    result = subprocess.run(
        [sys.executable, "-c", start, "doctor", *map(str, arguments), "--json"],
        cwd=cluster.folder,
        env=cluster.client_variables() | {"RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout), result.stderr


def verdicts(checks):
    return {name: check["verdict"] for name, check in checks.items()}


@pytest.mark.clusters
def test_an_ailing_node_is_told_from_one_that_is_well(ailing, folder):
    cluster, _ = ailing
    head = cluster.get("/nodes?view=summary")["data"]["summary"][0]["ip"]
    file = folder / "onprem.yaml"
    file.write_text(f"provider: {{type: local, head_ip: h, worker_ips: [{head}, 203.0.113.9]}}\n")
    exit_code, answer, said = examined(cluster, "--cluster-file", file)
    assert exit_code == answer["exit_code"] == 1
    assert "answer" in said  # What takes more than two seconds shows progress.
    first, second = answer["nodes"]
    assert "here" in first["node"]
    pictures = verdicts(first["checks"]).pop("recording")
    assert pictures in (OK, WARNING)  # As this machine has them.
    assert {
        name: verdict for name, verdict in verdicts(first["checks"]).items() if name != "recording"
    } == dict.fromkeys(
        (
            *("answer", "versions", "project", "jax", "learning", "replay", "memory", "address"),
            *("network", "clock"),
        ),
        OK,
    )
    assert verdicts(second["checks"]) == {
        "answer": OK,
        "versions": WRONG,
        "project": WRONG,
        "jax": WRONG,
        "learning": OK,
        "replay": OK,
        "recording": WARNING,
        "memory": OK,
        "address": OK,
        "network": OK,
        "clock": OK,
    }
    what = {name: check["what"] for name, check in second["checks"].items()}
    assert f"numpy 9.9.9 ({np.__version__} on {first['node']})" in what["versions"]
    assert "offers 1 GPU, JAX sees cpu" in what["jax"]
    assert "no video: OpenGL does not work" in what["recording"]
    assert answer["checks"]["token"]["verdict"] == OK
    assert "is on" in answer["checks"]["token"]["what"]
    assert answer["checks"]["roles"]["what"] == "1 for learners, room for 2 actors"
    assert answer["checks"]["workers"]["verdict"] == WRONG
    assert answer["checks"]["workers"]["what"].endswith(": 203.0.113.9")
    assert answer["checks"]["storage"]["verdict"] == OK

    lines = table(answer).splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    assert rows["NODE"].split()[1:] == [name.upper() for name in second["checks"]]
    assert "WRONG" in rows[second["node"]]
    assert "WRONG" not in rows[first["node"]]
    problems = [line for line in lines if line.startswith(("WRONG", "warning"))]
    assert all(line.count("; ") >= 1 for line in problems)  # What is wrong; how to fix it.
    assert any(f"WRONG    {second['node']}: jax: " in line for line in problems)
    assert any("WRONG    cluster: workers: " in line for line in problems)


@pytest.mark.clusters
def test_a_node_that_does_not_answer_is_named(ailing):
    cluster, worker = ailing
    (raylet,) = (
        process
        for process in psutil.Process(worker.pid).children(recursive=True)
        if process.name() == "raylet"
    )
    raylet.suspend()
    try:
        started = time.monotonic()
        exit_code, answer, _ = examined(cluster, "--seconds", 8)
        assert time.monotonic() - started < 120
    finally:
        raylet.resume()
    assert exit_code == 1
    assert len(answer["nodes"]) == 2
    silent = answer["nodes"][1]
    assert silent["checks"]["answer"]["verdict"] == WRONG
    assert list(silent["checks"]) == ["answer"]
    assert f"WRONG    {silent['node']}: answer: " in table(answer)


@pytest.mark.clusters
def test_without_a_cluster_this_machine_is_examined(folder):
    place = folder / "alone"
    place.mkdir()
    variables = environment_variables(place)
    for name in ("RAY_ADDRESS", "RAY_TMPDIR"):
        variables.pop(name, None)
    result = subprocess.run(
        command("doctor", "--root-dir", place / "models", "--json"),
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    answer = json.loads(result.stdout)
    assert result.returncode == 0, table(answer)
    assert answer["cluster"] is None
    (node,) = answer["nodes"]
    assert WRONG not in verdicts(node["checks"]).values()
    assert node["measured"]["versions"]["ray"]
    assert "no cluster, this machine: storage OK, environment OK, roles OK, token OK" in table(
        answer
    )
    wait_until_nothing_is_left(place)
    assert list(place.iterdir()) == []


def test_what_cannot_be_used_is_refused(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert_refused(run_cli("doctor"), "no Ray cluster answers at 127.0.0.1:1")
    assert_refused(run_cli("doctor", "--seconds", 0), "--seconds is 0")
    assert_refused(run_cli("doctor", "--root-dir", "nosuch://a"), "nosuch://a cannot be used")
    for content, words in (
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("- 1", "no `worker_ips`"),
        ("provider: {type: aws}", "no `worker_ips`"),
        ("provider: {worker_ips: [1]}", "no `worker_ips`"),
    ):
        file = tmp_path / "cluster.yaml"
        if content is not None:
            file.write_text(content)
        assert_refused(run_cli("doctor", "--cluster-file", file), str(file), words)


def learnt(agrees):
    return {
        "answer": {"device": "metal:0", "metrics": 0.5, "parameters": 1.0, "agrees": agrees},
    }


# --- Each check -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (node_checks.check_versions({"ray": ""}, {"ray": "2"}, "a"), WRONG, "no ray"),
        (node_checks.check_versions({"ray": "1"}, {"ray": "2"}, "a"), WRONG, "ray 1 (2 on a)"),
        (node_checks.check_versions({"ray": "2"}, {"ray": "2"}, "a"), OK, "ray 2"),
        (node_checks.check_project("", "12", "a"), WRONG, "not installed"),
        (node_checks.check_jax({"error": "boom"}, 0), WRONG, "boom"),
        (node_checks.check_jax({"answer": {"platform": "cpu", "devices": ["cpu"]}}, 0), OK, "cpu"),
        (node_checks.check_jax({"answer": {"platform": "gpu", "devices": ["A10"]}}, 1), OK, "A10"),
        (node_checks.check_replay({"error": "no reverb"}), WRONG, "no reverb"),
        (node_checks.check_replay({"answer": False}), OK, "kept in memory"),
        (node_checks.check_learning({"error": "no device"}), WRONG, "no device"),
        (node_checks.check_learning(learnt(agrees=False)), WRONG, "differ from the CPU's"),
        (node_checks.check_learning(learnt(agrees=True)), OK, "metal:0"),
        (node_checks.check_recording({"answer": ["no sound: a; b"]}), WARNING, "no sound: a"),
        (node_checks.check_recording({"error": "no actors"}), WRONG, "no actors"),
        (
            node_checks.check_network({"host": "h", "port": 9, "error": "timed out"}),
            WRONG,
            "at h:9: timed out",
        ),
        (node_checks.check_network({"host": "h", "seconds": 0.2}), WARNING, "200.0 ms"),
        (node_checks.check_address("10.0.0.1", ["10.0.0.1", "fe80::1"]), OK, "10.0.0.1"),
        (node_checks.check_address("8.8.8.8", []), WARNING, "8.8.8.8 is public"),
        (node_checks.check_address("10.0.0.1", ["2600::1"]), WARNING, "2600::1 is public"),
        (cluster_checks.check_roles([{"CPU": 2}]), OK, "none"),
        (cluster_checks.check_roles([{"learner": 1}, {"CPU": 2}]), WRONG, "none `actor`"),
        (cluster_checks.check_roles([{"actor": 2}]), WARNING, "none `learner`"),
        (cluster_checks.check_token(["token", "token"], True), OK, "is on"),
        (cluster_checks.check_token(["token", ""], True), WARNING, "is off"),
        (cluster_checks.check_token(["disabled"], False), OK, "this machine alone"),
        (cluster_checks.check_workers({"10.0.0.2": "two"}, ["10.0.0.1"]), WRONG, "two"),
        (cluster_checks.check_workers({"10.0.0.1": "one"}, ["10.0.0.1"]), OK, "all 1"),
    ],
)
def test_what_is_measured_is_judged(finding, verdict, words):
    assert finding.verdict == verdict
    assert words in finding.what
    assert bool(finding.fix) == (verdict != OK)


@pytest.mark.parametrize(
    ("available", "shared", "verdict"),
    [(8e9, 4e9, OK), (8e9, 64e6, WARNING), (2e9, 4e9, WARNING), (5e8, 4e9, WRONG)],
)
def test_too_little_memory_is_told(available, shared, verdict):
    measured = {
        "memory_bytes": 16e9,
        "memory_available_bytes": available,
        "shared_memory_bytes": shared,
    }
    assert node_checks.check_memory(measured, object_store=2e9).verdict == verdict


def test_the_clock_and_the_way_to_the_replay_server_are_measured():
    class Late(socketserver.BaseRequestHandler):
        def handle(self):
            while self.request.recv(1):
                time.sleep(0.02)
                self.request.sendall(struct.pack("!d", time.time() - 7))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        measured = measurement.reach(*server.server_address)
        server.shutdown()
    assert 0.02 < measured["seconds"] < 0.2
    assert measured["clock_ahead_seconds"] == pytest.approx(7, abs=0.1)
    finding = node_checks.check_clock(measured)
    assert finding.verdict == WARNING
    assert "ahead of 127.0.0.1" in finding.what


def test_a_listener_is_reached_and_a_closed_or_silent_port_is_not(monkeypatch):
    monkeypatch.setattr(measurement, "_REACH_SECONDS", 0.5)
    monkeypatch.setattr(measurement.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    measured = measurement.reach(*measurement.Listener().address()["address"])
    assert abs(measured["clock_ahead_seconds"]) < 0.1
    assert node_checks.check_network(measured).verdict == OK
    assert node_checks.check_clock(measured).verdict == OK
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "timed out" in measurement.reach("127.0.0.1", port)["error"]
    assert "refused" in measurement.reach("127.0.0.1", port)["error"]


def test_a_script_that_crashes_hangs_or_fails_is_a_finding():
    def error_of(script):
        return measurement.run_script(script, 5, {})["error"]

    assert measurement.run_script("print('noise'); print('[1, 2]')", 20, {}) == {"answer": [1, 2]}
    assert "SIGSEGV" in error_of(f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})")
    assert "No module named 'nosuch'" in error_of("import nosuch")
    assert (
        "no answer within 1 s"
        in measurement.run_script("import time; time.sleep(9)", 1, {})["error"]
    )
    assert "no answer" in error_of("pass")
    variables = {"PIANIST_A": "1", "HOME": None}
    script = "import json, os; print(json.dumps([os.environ.get(n) for n in ('PIANIST_A','HOME')]))"
    assert measurement.run_script(script, 20, variables) == {"answer": ["1", None]}


def test_what_of_the_environment_could_not_be_used_is_a_warning():
    assert cluster_checks.check_environment([]).verdict == OK
    finding = cluster_checks.check_environment(
        ["HOME is not set: caches are kept in /tmp/x", "and"]
    )
    assert finding.verdict == WARNING
    assert finding.what == "HOME is not set: caches are kept in /tmp/x; and"


def test_storage_is_written_read_and_left_as_it_was(tmp_path):
    for root in (str(tmp_path / "a" / "runs"), f"file://{tmp_path}/b"):
        finding = cluster_checks.check_storage(Location.of(root))
        assert finding.verdict == OK, finding
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("in the way")
    for root in (str(tmp_path / "file" / "runs"), f"file://{tmp_path}/file/runs"):
        finding = cluster_checks.check_storage(Location.of(root))
        assert finding.verdict == WRONG
        assert "cannot be written" in finding.what


def test_storage_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster_checks, "_STORAGE_SECONDS", 0.2)
    monkeypatch.setattr(cluster_checks, "_try_folder", lambda _: time.sleep(5))
    finding = cluster_checks.check_storage(Location.of(str(tmp_path)))
    assert finding.verdict == WRONG
    assert "no answer within" in finding.what
