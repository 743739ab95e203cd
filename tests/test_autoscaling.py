"""A training on a cluster whose autoscaler brings nodes and lets them go.

The autoscaler is Ray's own. In place of a cloud it has Ray's provider of nodes that are processes
of one machine. All of it lives on a host of its own; see `hosts_for_tests`.
"""

import json
import re
import shlex
import subprocess
import threading
import time

import pytest
from hosts_for_tests import Network, end, require_hosts
from runs_for_tests import FLAGS, HeldBack

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(2000)]

RUN = "elastic"
WORKER = "actors"
MOST_WORKERS = 2
HEAD_ID = "f" * 51 + "00000"  # Which the provider expects.
CLUSTER = {
    "cluster_name": "elastic",
    "max_workers": MOST_WORKERS,
    "idle_timeout_minutes": 0.1,
    # Ray's wheels lack the defaults of the type `fake_multinode`.
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,  # They all have the same address.
        "disable_node_updaters": True,  # Nothing is to be installed.
        "disable_launch_config_check": True,
    },
    "cluster_synced_files": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {
            "min_workers": 0,
            "max_workers": 0,
            "resources": {"CPU": 2, "learner": 1},
            "node_config": {},
        },
        WORKER: {
            "min_workers": 0,
            "max_workers": MOST_WORKERS,
            "resources": {"CPU": 1, "actor": 1, "object_store_memory": 100_000_000},
            "node_config": {},
        },
    },
}
# The first four are what `ray up` sets, but for the numbers of the nodes.
HEAD_VARIABLES = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_NODE_TYPE_NAME": "ray.head.default",
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
START_HEAD = [
    *("ray", "start", "--head", "--port", "6379", "--num-cpus", "2", "--disable-usage-stats"),
    *("--resources", json.dumps({"learner": 1}), "--object-store-memory", "200000000"),
    *("--include-dashboard", "false", "--autoscaling-config", "/tmp/cluster.json"),
]
TRAIN = [
    *("pianist", "train", "--name", RUN, *map(str, FLAGS), "--actors", "1"),
    *("--environments-per-actor", "1", "--warmstart-steps", "200", "--max-steps", "10000000"),
    # The actors wait for the learner, which is held back: nodes that start need the processors.
    *("--update-to-data-ratio", "10", "--eval-interval", "10000000", "--log-interval", "10"),
]
WAITS = r"no actor free of {}; the autoscaler has been asked"
# On two busy processors.
STEP_SECONDS = 500


def wait_for(condition, what, seconds=STEP_SECONDS, pause=0.1):
    """Waits until `condition` holds; if it does not, `what` says what there is instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        time.sleep(pause)


class Cluster:
    """A head that offers `learner`, and an autoscaler.

    Args:
        host: where all of it runs.
    """

    def __init__(self, host):
        self.host = host
        (host.home.parent / "tmp" / "cluster.json").write_text(json.dumps(CLUSTER))
        self.type("ray get-auth-token --generate >/dev/null")
        variables = " ".join(f"{name}={value}" for name, value in HEAD_VARIABLES.items())
        # On a busy machine Ray's processes may need longer than the half minute it gives them.
        self.type(
            "for attempt in 1 2 3; do\n"
            f"{variables} {shlex.join(START_HEAD)} && exit\n"
            "ray stop --force\n"  # Which ends what is on this host only.
            "done; exit 1"
        )
        self.status_at_first = self.status()

    def type(self, command, seconds=STEP_SECONDS):
        """Types a command; what it printed."""
        started = time.monotonic()
        printed = self.host.run(f"export RAY_AUTH_MODE=token\n{command}", seconds)
        # So that the reason of a failure can be found.
        print(f"$ {command}   # {time.monotonic() - started:.0f} s\n{printed}")
        return printed

    def raylets(self):
        """How many nodes there are, counted by their processes."""
        programs = [line.partition(" ")[0] for line in self.host.processes()]
        return sum(program.endswith("/raylet") for program in programs)

    def status(self):
        return self.type("ray status")

    def said(self):
        """So that the reason of a failure can be found."""
        logs = "grep -hv 'legacy field' /tmp/ray/session_latest/logs/monitor.* | tail -n 60"
        return f"{self.status()}\n{self.type(logs)}"

    def wait_for_workers(self, workers):
        """Waits until there are so many nodes besides the head: their processes, and for Ray."""
        wait_for(lambda: self.raylets() == 1 + workers, self.said)
        # `ray status` keeps a processor busy for two seconds, which the others need.
        wait_for(
            lambda: workers_of(self.status()) == workers == self.raylets() - 1, self.said, pause=2
        )


def workers_of(status):
    """The nodes besides the head that `ray status` tells of, at work or not, or on their way."""
    nodes = status.partition("Recent failures:")[0]
    counts = re.findall(rf"^ (\d+) {WORKER}$|^ {WORKER}, (\d+) launching$", nodes, re.MULTILINE)
    return sum(int(there or launching) for there, launching in counts)


def requested_of(status):
    """What `ray status` tells of requests by `request_resources`."""
    return status.partition("From request_resources:\n")[2].partition("\nPending Demands:")[0]


class Training:
    """A run, looked at all the time.

    Args:
        cluster: where it is to run.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.folder = cluster.host.home / "pianist" / "runs" / RUN
        self.samples = []
        self.process = cluster.host.start(
            f"export RAY_AUTH_MODE=token\nexec {shlex.join(TRAIN)} >~/train.log 2>&1"
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()
        end(self.process)
        self.process.wait()

    def _look(self):
        while not self._ended.wait(0.1):
            status = self.status()
            if not self.samples or status != self.samples[-1]:
                self.samples.append(status)

    def status(self):
        try:
            return json.loads((self.folder / "status.json").read_text())
        except OSError:
            return {"learner_steps": 0, "actors_wanted": 0, "actors_running": 0}

    def said(self):
        """So that the reason of a failure can be found."""
        log = (self.cluster.host.home / "train.log").read_text()
        return f"{self.status()}\n{log}\n{self.cluster.said()}"

    def wait(self, condition):
        """Waits until its status is as wanted."""

        def holds():
            assert self.process.poll() is None, self.said()
            return condition(self.status())

        wait_for(holds, self.said)

    def wait_for_steps(self, learner_steps):
        """Waits until it has made so many further learner steps."""
        wanted = self.status()["learner_steps"] + learner_steps
        self.wait(lambda status: status["learner_steps"] >= wanted)

    def scale(self, actors):
        return self.cluster.type(f"pianist scale {RUN} --actors {actors}")

    def reasons(self, wanted, pending):
        """Why actors waited for a place, in the order of time."""
        return [
            status["actors_pending_because"]
            for status in self.samples
            if status["actors_wanted"] == wanted and status["actors_pending"] == pending
        ]


# --- What happens, step by step: each fixture is the one before, some time later --------------


@pytest.fixture(scope="module")
def cluster():
    """A cluster that has a head only."""
    require_hosts()
    with Network() as network:
        yield Cluster(network.desk)


@pytest.fixture(scope="module")
def training(cluster):
    """A training with one actor is under way."""
    with Training(cluster) as training:
        training.wait(lambda status: status["actors_running"] == 1 and status["learner_steps"])
        training.held_back = HeldBack(cluster.host.process("ray::Learner"))
        training.status_at_first = cluster.status()
        yield training


@pytest.fixture(scope="module")
def grown(training):
    """It is to have more actors than the cluster can ever hold, and has as many as it can."""
    training.scale(MOST_WORKERS + 1)
    training.printed_when_grown = training.cluster.type(f"pianist status {RUN}")
    training.wait(lambda status: status["actors_running"] == MOST_WORKERS)
    training.status_when_grown = training.cluster.status()
    training.wait_for_steps(20)
    return training


@pytest.fixture(scope="module")
def shrunk(grown):
    """It has one actor again, and the other's node has gone."""
    grown.scale(1)
    begun = len(grown.samples)
    grown.cluster.wait_for_workers(1)
    grown.wait_for_steps(20)
    grown.samples_when_shrunk = grown.samples[begun:]
    grown.status_when_shrunk = grown.cluster.status()
    return grown


@pytest.fixture(scope="module")
def ended(shrunk):
    """The training was ended when it had asked for a node, and all but the head have gone."""
    shrunk.printed_before_end = shrunk.scale(MOST_WORKERS)
    shrunk.held_back.end()
    shrunk.cluster.type(f"kill -INT {shrunk.status()['process']}")
    try:
        shrunk.exit_code = shrunk.process.wait(STEP_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(shrunk.said())
    shrunk.status_when_ended = shrunk.cluster.status()
    shrunk.cluster.wait_for_workers(0)
    return shrunk


# --- What has to be true of it ----------------------------------------------------------------


def test_a_training_brings_the_node_that_its_actor_needs(training):
    assert workers_of(training.cluster.status_at_first) == 0
    assert workers_of(training.status_at_first) == 1


def test_the_request_is_withdrawn_when_all_have_a_place(training):
    assert requested_of(training.status_at_first) == " (none)"


def test_an_actor_without_a_place_says_why_and_plays_when_its_node_is_there(grown):
    assert re.fullmatch(WAITS.format(1), grown.reasons(wanted=3, pending=2)[0])
    assert workers_of(grown.status_when_grown) == 2


def test_what_the_cluster_can_never_hold_waits_and_stays_requested(grown):
    waits = rf"^{RUN}: [12] of 3 actors wait: {WAITS.format('[12]')}$"
    assert re.search(waits, grown.printed_when_grown, re.MULTILINE)
    assert re.fullmatch(WAITS.format(2), grown.reasons(wanted=3, pending=1)[-1])
    assert ": 3 from request_resources()" in requested_of(grown.status_when_grown)


def test_a_node_that_is_no_longer_needed_goes_and_the_other_plays_on(shrunk):
    assert requested_of(shrunk.status_when_shrunk) == " (none)"
    assert {sample["state"] for sample in shrunk.samples_when_shrunk} == {"training"}
    assert {sample["actors_running"] for sample in shrunk.samples_when_shrunk} == {1}


def test_with_the_training_its_request_and_all_its_nodes_go(ended):
    assert re.search(WAITS.format(1), ended.printed_before_end)
    assert ended.exit_code == 130
    assert ended.status()["state"] == "stopped"
    assert requested_of(ended.status_when_ended) == " (none)"
    assert ended.cluster.raylets() == 1


def test_the_learner_never_goes_back(ended):
    steps = [status["learner_steps"] for status in ended.samples]
    assert len(set(steps)) > 10
    assert steps == sorted(steps)
    lines = [json.loads(line) for line in (ended.folder / "logbook.jsonl").open()]
    steps = [line["learner_steps"] for line in lines]
    assert len(set(steps)) > 3
    assert steps == sorted(steps)
