"""A Ray cluster on this machine for as long as a test wants it, with the Jobs API and a token.

It shares nothing with other Rays of this machine: folder, ports and token are its own, and its
home folder is the tests'.
"""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import psutil
from runs_for_tests import command, environment_variables

RAY = pathlib.Path(sys.executable).with_name("ray")
_START_SECONDS = 500
_STOP_SECONDS = 30


class RayCluster:
    """A head and, if wanted, further nodes, each with processes of its own."""

    def __init__(self, folder, **variables):
        self.folder = folder
        self.token = secrets.token_hex(32)
        self.dashboard = f"http://127.0.0.1:{_free_port()}"
        self.gcs_port = _free_port()
        # Where none is given, Ray would take this machine's token, or none at all.
        self.variables = (
            _without_ray(environment_variables(folder))
            | {
                "HOME": str(folder),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": self.token,
                "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
            }
            | variables
        )
        self._nodes = []

    @property
    def address(self):
        return f"127.0.0.1:{self.gcs_port}"

    def start_head(self, *options, **variables):
        port = self.dashboard.rpartition(":")[2]
        node = self._start(
            *("--head", "--port", self.gcs_port, "--ray-client-server-port", _free_port()),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", port),
            *("--temp-dir", self.folder / "ray", *options),
            **variables,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert node.poll() is None, "the head ended"
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.2)

    def start_worker(self, *options, **variables):
        """Returns the process, whose children are the node's."""
        before = len(self.living_nodes())
        node = self._start("--address", self.address, *options, **variables)
        deadline = time.monotonic() + _START_SECONDS
        while len(self.living_nodes()) == before:
            assert node.poll() is None, "the worker node ended"
            assert time.monotonic() < deadline, "the worker node did not start"
            time.sleep(0.2)
        return node

    def run(self, *arguments, cwd=None, seconds=600, **variables):
        """`pianist`, from a machine that knows where the cluster is and has its token."""
        return subprocess.run(
            command(*arguments),
            cwd=cwd or self.folder,
            env=self.client_variables() | variables,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def client_variables(self):
        return self.variables | {"RAY_API_SERVER_ADDRESS": self.dashboard}

    def ray(self, *arguments):
        """Ray's own command."""
        return subprocess.run(
            [str(RAY), *map(str, arguments)],
            env=self.client_variables(),
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        ).stdout

    def get(self, path, **headers):
        """What the dashboard's server answers."""
        headers = {"Authorization": f"Bearer {self.token}"} | headers
        request = urllib.request.Request(self.dashboard + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def living_nodes(self):
        nodes = self.get("/nodes?view=summary")["data"]["summary"]
        return [node for node in nodes if node["raylet"].get("state") == "ALIVE"]

    def stop(self):
        while self._nodes:
            stop(self._nodes.pop())

    def _start(self, *options, **variables):
        log = (self.folder / f"node-{len(self._nodes)}.log").open("w")
        node = subprocess.Popen(
            [
                *(str(RAY), "start", "--block", "--num-cpus", "2", "--disable-usage-stats"),
                *("--object-store-memory", str(100_000_000)),
                # All other ports are free ones; this has a default, which another Ray may have.
                *("--dashboard-agent-listen-port", str(_free_port())),
                *map(str, options),
            ],
            env=self.variables | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self._nodes.append(node)
        return node

    def _answers(self):
        with contextlib.suppress(OSError):
            return bool(self.living_nodes())
        return False


class Forwarder:
    """Passes connections on, as a network would, until it is cut; then it swallows everything."""

    def __init__(self, address):
        host, _, port = address.removeprefix("http://").rpartition(":")
        self._there = host, int(port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._whole = threading.Event()
        self._whole.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """From now on nothing comes through, and neither end is told."""
        self._whole.clear()

    def repair(self):
        """New connections come through again; what was under way stays as it is."""
        self._whole.set()

    def close(self):
        self._server.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if not self._whole.is_set():
                    threading.Thread(target=self._swallow, args=(near,), daemon=True).start()
                    continue
                far = socket.create_connection(self._there)
                state = {"whole": True}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(*ends, state), daemon=True).start()

    def _pass_on(self, source, target, state):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                state["whole"] &= self._whole.is_set()
                if state["whole"]:
                    target.sendall(data)
            if state["whole"]:
                target.shutdown(socket.SHUT_WR)

    def _swallow(self, source):
        with contextlib.suppress(OSError):
            while source.recv(65536):
                pass


@contextlib.contextmanager
def forwarder(address):
    line = Forwarder(address)
    try:
        yield line
    finally:
        line.close()


def stop(node):
    """Ends a node and all that is below it, as if the machine were switched off."""
    with contextlib.suppress(psutil.NoSuchProcess):
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        node.terminate()
        _, alive = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def _without_ray(variables):
    return {name: value for name, value in variables.items() if not name.startswith("RAY_")}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
