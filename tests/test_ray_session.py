"""A Ray that does not start at once, or not at all, and addresses at which there is none."""

import contextlib
import http.server
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures

import grpc
import psutil
import pytest
import ray
from ray._private import services
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from runs_for_tests import command

from common import ray_session, waiting
from common.errors import BadInput, PartFailed

pytestmark = pytest.mark.run


@pytest.fixture
def slow_ray(monkeypatch):
    """Has Ray start a process, and wait for its node by `wait`; the processes that it started."""
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "_STILL_SECONDS", 1.0)
    monkeypatch.setattr(waiting, "_MOVED_SECONDS", 0.02)

    def make(code, wait):
        started: list[psutil.Popen] = []

        def init(_temp_dir, **_options):
            more = [sys.executable, "-S", "-c", code, f"{_temp_dir}/session"]
            started.append(psutil.Popen(more))
            wait()

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        return started

    return make


def node_after(seconds, monkeypatch):
    """Ray's own way to its node, which is there after so many seconds."""
    begun = time.monotonic()

    def get_node(_address, _node):
        if time.monotonic() - begun < seconds:
            raise RuntimeError("no such node")
        return "node"

    monkeypatch.setattr(services, "get_node", get_node)
    return get_node


def test_a_ray_that_starts_slowly_is_waited_for_as_long_as_it_moves(
    slow_ray, tmp_path, monkeypatch
):
    own = node_after(4, monkeypatch)
    nodes = []
    started = slow_ray("while True: pass", lambda: nodes.append(services.get_node("here", "id")))
    with ray_session.connect(None, tmp_path / "logs"):
        assert nodes == ["node"]
        assert services.get_node is own
    for process in started:
        process.kill()
        process.wait()


def test_a_ray_in_which_nothing_moves_is_given_up(slow_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = node_after(100, monkeypatch)
    started = slow_ray("import time; time.sleep(600)", lambda: services.get_node("here", "id"))
    with (
        pytest.raises(PartFailed, match="Ray did not start: no answer and nothing of it moved"),
        ray_session.connect(None, tmp_path / "logs"),
    ):
        pass
    assert services.get_node is own
    assert not any(psutil.pid_exists(process.pid) for process in started)
    assert list(tmp_path.iterdir()) == []


def test_a_ray_whose_raylet_died_is_given_up_at_once(slow_ray, tmp_path, monkeypatch):
    node_after(100, monkeypatch)
    named = tmp_path / "raylet"
    named.symlink_to("/bin/true")

    raylets = []

    def wait():
        # Held, as Ray holds it: another start of a process would reap one that is not.
        raylets.append(subprocess.Popen([named]))
        services.get_node("here", "id")

    slow_ray("while True: pass", wait)
    with (
        pytest.raises(PartFailed, match="Ray did not start: its raylet died"),
        ray_session.connect(None, tmp_path / "logs"),
    ):
        pass


@pytest.mark.parametrize("error", [Exception("broken"), KeyboardInterrupt()])
def test_a_start_that_fails_leaves_nothing(slow_ray, tmp_path, monkeypatch, error):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail():
        raise error

    started = slow_ray("import time; time.sleep(600)", fail)
    expected = PartFailed if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(expected), ray_session.connect(None, tmp_path / "logs"):
        pass
    assert len(started) == 1
    assert not any(psutil.pid_exists(process.pid) for process in started)
    assert list(tmp_path.iterdir()) == []


AGENT_SLEEPS = """
import sys, time
if any(name.endswith("agent.py") for name in sys.orig_argv) and "dashboard" in str(sys.orig_argv):
    time.sleep(18)
"""
START = """
import pathlib, sys
import ray
from common import ray_session
with ray_session.connect(None, pathlib.Path(sys.argv[1])):
    print(ray.get(ray.remote(lambda: "plays").remote()))
"""


def test_a_ray_whose_agent_starts_slowly_is_waited_for(tmp_path):
    """Its raylet would give it 15 seconds to tell its ports."""
    (tmp_path / "sitecustomize.py").write_text(AGENT_SLEEPS)
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(ray_session.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", START, tmp_path / "logs"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "plays\n", done.stderr


def test_what_a_failed_shutdown_leaves_is_ended(slow_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail():
        raise OSError("no shutdown")

    started = slow_ray("import time; time.sleep(600)", lambda: None)
    monkeypatch.setattr(ray, "shutdown", fail)
    with (
        pytest.raises(OSError, match="no shutdown"),
        ray_session.connect(None, tmp_path / "logs"),
    ):
        pass
    (process,) = started
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


# --- A cluster that somebody else has started -------------------------------------------


class OtherHead(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """Answers as the head of a Ray cluster of another version, or one that wants a token."""

    def __init__(self, version):
        self._version = version

    def CheckAlive(self, _request, context):  # noqa: N802
        if self._version is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return gcs_service_pb2.CheckAliveReply(  # type: ignore[attr-defined]
            ray_version=self._version
        )


@contextlib.contextmanager
def web_server():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextlib.contextmanager
def silent_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def head(version, answers=True):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    if answers:
        gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(OtherHead(version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("listening", "words"),
    [
        (web_server, "is no head of a Ray cluster (UNAVAILABLE: ipv4:127.0.0.1:"),
        (silent_server, "has not answered for 1 s: is it the head of a Ray cluster?"),
        (lambda: head("", answers=False), "is no head of a Ray cluster (Method not found!)"),
        (lambda: head("2.9.3"), f"is of version 2.9.3, Ray here of {ray.__version__}: install"),
        (lambda: head(None), "refuses this machine's token: set RAY_AUTH_MODE=token, and have"),
    ],
    ids=["web server", "silent", "other service", "other version", "token"],
)
def test_what_is_no_cluster_for_us_is_refused_in_one_line(monkeypatch, listening, words):
    monkeypatch.setattr(ray_session, "_CONNECT_SECONDS", 1.0)
    with listening() as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(BadInput) as refused:
            ray_session.cluster_address()
    assert f"127.0.0.1:{port} (from RAY_ADDRESS)" in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_head_of_this_version_is_taken(monkeypatch):
    with head(ray.__version__) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        assert ray_session.cluster_address() == f"127.0.0.1:{port}"


def test_a_token_that_is_wanted_and_missing_is_named(tmp_path):
    with head(ray.__version__) as port:
        variables = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token"}
        result = subprocess.run(
            command("doctor"),
            env=os.environ | variables | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("pianist: RAY_AUTH_MODE is token, but there is no token: set ")


def test_ctrl_c_ends_the_wait_for_a_silent_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            command("doctor"),
            env=os.environ | {"RAY_ADDRESS": address},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2):  # It is asked after it was knocked at.
            server.accept()
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert process.communicate(timeout=600)[1] == "pianist: stopped\n"
        assert process.returncode == 130
        assert time.monotonic() - begun < 8  # It would be 10.
