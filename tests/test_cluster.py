"""The cluster guide, followed line by line on several hosts, with Ray's own commands.

The hosts are network namespaces of this machine; see `hosts_for_tests`. What people would do with
a large training is done with a small one: `ADDED` has all that is added to the guide's commands.
"""

import itertools
import json
import os
import re
import shlex
import subprocess
import threading
import time

import pytest
import yaml
from hosts_for_tests import KEY, USER, Network, end, require_hosts
from runs_for_tests import FLAGS, PATIENCE, ROOT, HeldBack

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(2000)]

GUIDE = ROOT / "docs" / "guides" / "cluster.md"
CLUSTER_FILE = "cluster/onprem.yaml"
RUN = "scale"
SMALL = shlex.join(
    [
        *map(str, FLAGS[2:]),
        *("--warmstart-steps", "300", "--max-steps", "10000000"),
        *("--eval-interval", "2000", "--log-interval", "50"),
        # The actors wait for the learner most of the time: their hosts have two processors in all.
        *("--update-to-data-ratio", "10"),
    ]
)
ADDED = {
    "pianist train": SMALL,
    "pianist submit segments": "--actors 2 --record-resolution 48 64",
    # With noise, so that hardly any two are equal: the policy cannot play yet.
    "pianist rate": "--simulate smoothness --simulated-noise 3",
    "pianist submit cpl": (
        "--raters 'simulated smoothness' --max-steps 10 --eval-interval 5 --eval-episodes 2 "
        "--record-resolution 48 64"
    ),
}
PROCESSORS = len(os.sched_getaffinity(0))
COMMAND_SECONDS = STARTS_SECONDS = PATIENCE
# What the guide promises, on two busy processors.
GIVEN_UP_SECONDS = 60
LEARNER_STOPS_SECONDS = 60
ENDS_SECONDS = 60


def commands_of_the_guide():
    """What stands in the blocks of the guide that are marked `sh`, in their order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith("#")]


def wait_for(condition, seconds, what, pause=0.2):
    """What `condition` returns, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what()}"
        time.sleep(pause)
    return value


def until(beginning, lines):
    """The lines up to the first that begins like that."""
    for line in lines:
        yield line
        if line.startswith(beginning):
            return


class Desk:
    """The machine of a person who follows the guide.

    Args:
        network: with the desk; its first three hosts are what the cluster file names.
    """

    def __init__(self, network):
        self.network = network
        self.hosts = [network.add(number) for number in (1, 2, 3)]
        self.head = self.hosts[0]
        self.folder = network.desk.home / "pianist"
        self.commands = commands_of_the_guide()
        """Of the guide, that have not been followed yet."""
        self.said = {}
        """What some of the others have printed."""
        self._remembered = []
        self.write_cluster_file()

    def write_cluster_file(self):
        """Fills in addresses, user and key, as the guide asks for; all the rest stays."""
        text = (ROOT / CLUSTER_FILE).read_text()
        before = yaml.safe_load(text)
        head, *workers = (host.address for host in self.hosts)
        for line in (
            f"  head_ip: {head}",
            f"  worker_ips: [{', '.join(workers)}]",
            f"  ssh_user: {USER}",
            f"  ssh_private_key: ~/{KEY}",
        ):
            text, found = re.subn(f"^{line.partition(':')[0]}:.*$", line, text, flags=re.MULTILINE)
            assert found == 1
        after = yaml.safe_load(text)
        assert [name for name in before if after[name] != before[name]] == ["provider", "auth"]
        assert set(after["provider"]) == set(before["provider"])
        (self.folder / CLUSTER_FILE).write_text(text)

    def follow(self, beginning, seconds=COMMAND_SECONDS):
        """Types the guide's next command, which has to begin like that; what it printed."""
        return self.type(self._next(beginning), seconds)

    def follow_elsewhere(self, beginning):
        """Types it into another terminal; its process."""
        lines = [*self._remembered, f"exec {self._next(beginning)}"]
        return self.network.desk.start(
            "\n".join(lines), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def type(self, command, seconds=COMMAND_SECONDS, check=True):
        """Types a command; what it printed."""
        # Of what was typed before, the shell remembers this.
        if command.startswith((". ", "export ")):
            self._remembered.append(command)
        started = time.monotonic()
        printed = self.network.desk.run("\n".join([*self._remembered, command]), seconds, check)
        # So that the reason of a failure can be found.
        print(f"$ {command}   # {time.monotonic() - started:.0f} s\n{printed}")
        return printed

    def _next(self, beginning):
        command = self.commands.pop(0)
        assert command.startswith(beginning), f"the guide has: {command}"
        return next((f"{command} {ADDED[name]}" for name in ADDED if name in command), command)

    def ray_status(self):
        return self.head.run("RAY_AUTH_MODE=token ray status", check=False)

    def wait_for_nodes(self, wanted):
        """Waits until so many take part in the cluster, the head among them."""

        def are_there():
            return re.search(rf"^Active:\n {wanted} ", self.ray_status(), re.MULTILINE)

        def said():
            log = "tail -n 60 /tmp/ray/session_latest/logs/monitor.log"
            return f"{self.ray_status()}\n{self.head.run(log, check=False)}"

        # `ray status` keeps a processor busy for two seconds, which the others need.
        wait_for(lambda: sum(map(has_a_raylet, self.hosts)) == wanted, PATIENCE, said)
        wait_for(are_there, PATIENCE, said, pause=3)


class Run:
    """A run on the head, looked at all the time."""

    def __init__(self, head):
        self.path = head.home / "runs" / RUN
        self.samples = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while not self._ended.wait(0.2):
            self.samples.append((time.monotonic(), self.status()))

    def end(self):
        self._ended.set()
        self._thread.join()

    def status(self):
        try:
            return json.loads((self.path / "status.json").read_text())
        except OSError:
            return dict.fromkeys(
                ("learner_steps", "environment_steps", "actors_running", "actors_wanted"), 0
            ) | {"state": "not there yet"}

    def wait_for_actors(self, running, seconds=PATIENCE):
        wait_for(lambda: self.status()["actors_running"] == running, seconds, self.status)

    def wait_for_steps(self, learner_steps, seconds=PATIENCE):
        """Waits until it has made so many further learner steps."""
        wanted = self.status()["learner_steps"] + learner_steps
        wait_for(lambda: self.status()["learner_steps"] >= wanted, seconds, self.status)

    def longest_stop(self):
        """Seconds for which the learner made no step, at most, since its first."""
        changes = [
            after[0]
            for before, after in itertools.pairwise(self.samples)
            if after[1]["learner_steps"] > before[1]["learner_steps"]
        ]
        training = [moment for moment, status in self.samples if status["state"] == "training"]
        return max(b - a for a, b in itertools.pairwise([*changes, training[-1]]))


def has_a_raylet(host):
    return any("/raylet " in line for line in host.processes())


def processes_of(part, host):
    return [line for line in host.processes() if re.match(rf"ray::{part}\b", line)]


# --- The guide, part by part: each fixture is the desk, some commands later -------------------


@pytest.fixture(scope="module")
def desk():
    require_hosts()
    with Network() as network:
        yield Desk(network)


@pytest.fixture(scope="module")
def cluster(desk):
    """A cluster has come up."""
    desk.follow(". .venv/bin/activate")
    desk.follow("ray get-auth-token --generate")
    desk.follow("chmod 600")
    desk.follow("ray up --yes")
    desk.follow("ray exec")
    desk.wait_for_nodes(3)
    return desk


@pytest.fixture(scope="module")
def tunnel(cluster):
    """There is a tunnel to the dashboard."""
    cluster.follow(". .venv/bin/activate")
    with cluster.follow_elsewhere("ray dashboard") as process:
        cluster.follow("export RAY_AUTH_MODE")
        check_reachable = "(exec 3<>/dev/tcp/127.0.0.1/8265) 2>/dev/null && echo open"
        wait_for(
            lambda: "open" in cluster.type(check_reachable, check=False),
            PATIENCE,
            lambda: "the tunnel",
        )
        cluster.tunnel = process
        yield cluster
        end(process)


@pytest.fixture(scope="module")
def training(tunnel):
    """A training is under way, and the command that submitted it has ended."""
    with tunnel.follow_elsewhere("ray job submit --submission-id scale") as submitter:
        # No wait is endless.
        too_late = threading.Timer(STARTS_SECONDS, end, [submitter])
        too_late.start()
        said = list(until("learner on", submitter.stdout))
        too_late.cancel()
        end(submitter)
    assert said[-1].startswith("learner on"), "".join(said)
    tunnel.run = Run(tunnel.head)
    wait_for(lambda: tunnel.run.status()["learner_steps"], PATIENCE, tunnel.run.status)
    # Its learner never waits for data, and would take a processor of its own.
    tunnel.held_back = HeldBack(tunnel.head.process("ray::Learner"))
    tunnel.said["logs"] = tunnel.follow("ray job logs scale")
    tunnel.said["status"] = tunnel.follow("ray exec")
    yield tunnel
    tunnel.run.end()


@pytest.fixture(scope="module")
def scaled(training):
    """It has four actors instead of one."""
    training.said["scale"] = training.follow("ray exec")
    training.run.wait_for_actors(4)
    return training


@pytest.fixture(scope="module")
def cut_off(scaled):
    """A host was cut off, and has been given up."""
    started = time.monotonic()
    scaled.network.pull_out(scaled.hosts[2])
    run = scaled.run
    wait_for(lambda: run.status()["actors_running"] < 4, 2 * GIVEN_UP_SECONDS, run.status)
    scaled.seconds_until_given_up = time.monotonic() - started
    run.wait_for_steps(20)
    return scaled


@pytest.fixture(scope="module")
def joined(cut_off):
    """Another host has joined."""
    cut_off.hosts.append(cut_off.network.add(4))
    cut_off.write_cluster_file()
    cut_off.follow("ray up --yes --no-restart")
    cut_off.run.wait_for_actors(4)
    return cut_off


@pytest.fixture(scope="module")
def taken_back(joined):
    """The host that had been cut off has answered again."""
    joined.network.plug_in(joined.hosts[2])
    joined.wait_for_nodes(4)
    return joined


@pytest.fixture(scope="module")
def stopped(taken_back):
    """The training was stopped."""
    taken_back.held_back.end()
    taken_back.follow("ray job stop scale")
    taken_back.run.end()
    return taken_back


@pytest.fixture(scope="module")
def rated(stopped):
    """A job has recorded a collection, which was rated on the desk and copied back."""
    stopped.follow("pianist submit segments")
    stopped.follow("mkdir")
    stopped.follow("ray rsync-down")
    stopped.follow("pianist rate")
    stopped.follow("ray rsync-up")
    return stopped


@pytest.fixture(scope="module")
def tuned(rated):
    """A job has fine-tuned the policy on it, and the report is on the desk."""
    rated.said["cpl"] = rated.follow("pianist submit cpl")
    rated.follow("mkdir")
    rated.follow("ray rsync-down")
    return rated


@pytest.fixture(scope="module")
def down(tuned):
    """The tunnel was closed, and the cluster ended."""
    end(tuned.tunnel)
    tuned.follow("ray down")
    return tuned


# --- What has to be true of it ----------------------------------------------------------------


def test_every_worker_joins_and_offers_its_processors(cluster):
    status = cluster.ray_status()
    assert f"/{3 * PROCESSORS}.0 actor" in status
    assert "/1.0 learner" in status
    assert f"/{3 * PROCESSORS}.0 CPU" in status


def test_the_token_is_on_every_host_and_in_no_file_that_others_read(cluster):
    token = (cluster.head.home / ".ray" / "auth_token").read_text()
    for host in cluster.hosts:
        path = host.home / ".ray" / "auth_token"
        assert path.read_text() == token
        assert path.stat().st_mode & 0o077 == 0
    for name in ("ray_bootstrap_config.yaml", ".bashrc", "pianist/cluster/onprem.yaml"):
        assert token not in (cluster.head.home / name).read_text()


def test_without_the_token_access_is_refused(tunnel):
    wrong = f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64}"
    assert "InvalidAuthToken" in tunnel.head.run(f"{wrong} ray status", check=False)
    assert "Authentication failed" in tunnel.type(f"{wrong} ray job list", check=False)


def test_the_dashboard_is_reached_through_the_tunnel_only(tunnel):
    worker = tunnel.hosts[1]
    check_reachable = f"exec 3<>/dev/tcp/{tunnel.head.address}/"
    worker.run(f"{check_reachable}6379")
    assert "refused" in worker.run(f"{check_reachable}8265", check=False)


def test_a_job_outlives_the_command_that_submitted_it(training):
    training.run.wait_for_steps(50)
    assert "learner on" in training.said["logs"]
    (line,) = (line for line in training.said["status"].splitlines() if line.startswith(RUN))
    assert " training " in line
    assert " 1/1 " in line


def test_learner_replay_and_evaluator_are_on_the_head(training):
    for part in ("Learner", "ReplayServer", "Evaluator"):
        on = [host for host in training.hosts if processes_of(part, host)]
        assert on == [training.head], part


def test_a_run_is_scaled_over_the_hosts(scaled):
    assert re.search(r"^actors wanted +4$", scaled.said["scale"], re.MULTILINE)
    assert all(processes_of("Actor", host) for host in scaled.hosts[1:3])


def test_a_host_that_is_cut_off_is_given_up_and_the_run_goes_on(cut_off):
    assert cut_off.seconds_until_given_up < GIVEN_UP_SECONDS
    status = cut_off.run.status()
    assert status["state"] == "training"
    assert status["actors_wanted"] == 4


def test_a_new_host_joins_a_run_that_goes_on(joined):
    assert processes_of("Actor", joined.hosts[3])
    joined.run.wait_for_steps(50)


def test_a_host_that_answers_again_is_taken_back(taken_back):
    assert has_a_raylet(taken_back.hosts[2])


def test_the_counts_of_a_run_never_go_back(stopped):
    lines = [json.loads(line) for line in (stopped.run.path / "logbook.jsonl").open()]
    # An evaluation is written down when it has ended, with the counts of its checkpoint.
    lines = [line for line in lines if "learner/steps_per_second" in line]
    assert len(lines) > 10
    for counts in (lines, [status for _, status in stopped.run.samples]):
        for name in ("environment_steps", "learner_steps"):
            values = [count[name] for count in counts]
            assert values == sorted(values)


def test_the_learner_never_stops_for_long(stopped):
    assert stopped.run.longest_stop() < LEARNER_STOPS_SECONDS


def test_segments_are_recorded_by_a_job(rated):
    (collection,) = (rated.run.path / "collections").iterdir()
    planned = json.loads((collection / "collection.json").read_text())["segments"]
    recorded = list(collection.glob("segments/*/segment.json"))
    assert len(recorded) == len(planned) > 1
    assert all(path.with_name("video.mp4").exists() for path in recorded)


def test_a_policy_is_fine_tuned_by_a_job_and_reported_on_the_desk(tuned):
    assert "SUCCEEDED" in tuned.said["cpl"]
    assert (tuned.folder / "runs" / "better" / "report.html").exists()


def test_nothing_of_ray_is_left_on_any_host(down):
    def left():
        return {host.name: host.processes() for host in down.hosts if host.processes()}

    wait_for(lambda: not left(), ENDS_SECONDS, left)


def test_the_whole_guide_was_followed(down):
    assert down.commands == []
