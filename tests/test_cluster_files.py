"""The files that bring up a cluster: accepted by Ray and KubeRay, and safe as the docs say."""

import contextlib
import copy
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
import jsonschema
import psutil
import pytest
import ray
import yaml
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

import pianist
from common.project import PACKAGES
from training.config import TrainConfig

pytestmark = pytest.mark.run

ROOT = pathlib.Path(__file__).parent.parent
MANIFEST = ROOT / "cluster" / "kuberay.yaml"
RAY_UP = sorted(path for path in ROOT.glob("cluster/*.yaml") if path != MANIFEST)
CLOUDS = [path for path in RAY_UP if path.stem != "onprem"]
TOKEN = "~/.ray/auth_token"
# Where EC2 and Google tell a machine about itself, and an address where nothing answers.
METADATA = ("http://169.254.169.254/", "http://metadata.google.internal/")
UNREACHABLE = "http://127.0.0.1:9/"
# Processors, GPUs and GiB, as the clouds' own pages have them.
MACHINES = {
    "g4dn.2xlarge": (8, 1, 32),
    "c6i.2xlarge": (8, 0, 16),
    "n1-standard-8": (8, 0, 30),  # What GPUs it has is asked for.
    "n2-standard-8": (8, 0, 32),
}
GIB_OF_AN_ACTOR = 1.1
GIB_OF_REPLAY = 1_000_000 * 872 / 2**30 + 0.7  # A full one, and TensorFlow.


def test_there_are_files_for_every_place():
    assert [path.stem for path in RAY_UP] == ["aws", "gcp", "onprem"]


# --- What Ray makes of them ------------------------------------------------------------------


def read(path: pathlib.Path) -> dict[str, Any]:
    """A cluster file as `ray up` has it after its own preparations."""
    config: dict[str, Any] = prepare_config(yaml.safe_load(path.read_text()))
    return config


def name(path: pathlib.Path) -> str:
    """Of a file, in the name of a test."""
    return path.stem


@pytest.fixture(params=RAY_UP, ids=name)
def path(request):
    return request.param


@pytest.fixture(params=CLOUDS, ids=name)
def cloud(request):
    return request.param


def test_ray_accepts_the_file(path):
    validate_config(read(path))


@pytest.mark.parametrize("where", [(), ("provider", "security_group"), ("auth",)])
def test_ray_would_refuse_a_misspelt_field(path, where):
    config = read(path)
    inside = config
    for name in where:
        inside = inside.setdefault(name, {})
    inside["idle_timeuot_minutes"] = 1
    with pytest.raises(jsonschema.ValidationError, match="idle_timeuot_minutes"):
        validate_config(config)


class Call(NamedTuple):
    """A call of `ray`."""

    options: dict[str, Any]
    """As Ray's own command line parses them."""
    environment: dict[str, str]


class Node:
    """A machine on which `ray` and `curl` only write down how they were called.

    Everything else is real: a cluster file's commands are run by bash, in the way in which Ray runs
    them by ssh.

    Args:
        folder: the home folder.
        config: the cluster file.
    """

    def __init__(self, folder: pathlib.Path, config: dict[str, Any]):
        self.home = folder
        self._config = config
        self.programs = folder / "pianist" / ".venv" / "bin"
        self.programs.mkdir(parents=True)
        self.notice = folder / "notice"
        self._asked = folder / "asked"
        self._calls = folder / "calls"
        record = (
            "import json, os, sys; "
            f"print(json.dumps([sys.argv[1:], dict(os.environ)]), file=open('{self._calls}', 'a'))"
        )
        self._program("ray", f'exec {sys.executable} -c "{record}" "$@"')
        # The metadata of EC2 and of Google: `notice` says that the machine is about to be taken.
        self._program(
            "curl",
            'case "$*" in *api/token*) echo a-token; exit ;; esac; '
            f'echo "$PPID $*" >>{self._asked}; '
            f"if [ -e {self.notice} ]; then echo TRUE; else echo FALSE; "
            'case "$*" in *instance-action*) exit 22 ;; esac; fi',
        )
        # What waits for a notice does not outlive the tests, even if they are killed.
        self._program(
            "sleep", f"kill -0 {os.getpid()} 2>/dev/null || kill $PPID; exec /usr/bin/sleep 0.2"
        )

    def _program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.programs / name).chmod(0o755)

    def _run(self, command: str) -> None:
        # Whatever happens, nothing here may ask what is really at these addresses.
        for address in METADATA:
            command = command.replace(address, UNREACHABLE)
        subprocess.run(
            ["bash", "-c", " ".join(_with_interactive(command))],
            env={"HOME": str(self.home), "RAY_HEAD_IP": "10.0.0.1"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=30,
            check=True,
        )

    def start(self, kind: str) -> Call:
        """Does what `ray up` does on this machine, without installing anything.

        Args:
            kind: `head` or `worker`.

        Returns:
            The one call of `ray start`.
        """
        for command in self._config[f"{kind}_setup_commands"]:
            if ".bashrc" in command:
                self._run(command)
        for command in self._config[f"{kind}_start_ray_commands"]:
            self._run(command)
        (*_, found) = self.calls("start")
        return found

    def calls(self, name: str) -> list[Call]:
        """How `ray NAME` has been called until now."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        called = [json.loads(line) for line in lines]
        return [
            Call(parse(name, arguments), environment)
            for (command, *arguments), environment in called
            if command == name
        ]

    def end(self) -> None:
        """Ends all that runs on this machine: the processes with its home folder."""
        quiet = 0
        while quiet < 2:
            processes = list(self._processes())
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)
            quiet = 0 if processes else quiet + 1

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                zombie = process.status() == psutil.STATUS_ZOMBIE
                if not zombie and process.environ().get("HOME") == str(self.home):
                    yield process

    def watchers(self) -> list[int]:
        """Process ids of what has asked for a notice, as often as it has."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        assert all(UNREACHABLE in line for line in lines)
        return [int(line.split()[0]) for line in lines]


def parse(command: str, arguments: list[str]) -> dict[str, Any]:
    """What Ray's command line makes of arguments; nothing is run.

    Raises:
        click.UsageError: it does not know one.
    """
    return dict(cli.commands[command].make_context(command, arguments).params)


@pytest.fixture
def machine(tmp_path):
    """Makes one for a cluster file; ends what runs there, and sees that nothing is left."""
    made: list[Node] = []

    def make(path: pathlib.Path) -> Node:
        made.append(Node(tmp_path / str(len(made)), read(path)))
        return made[-1]

    yield make
    for node in made:
        node.end()


def require_token_and_path(called: Call, node: Node) -> None:
    """A process without the token's mode cannot join; jobs find `pianist` in Ray's PATH."""
    assert called.environment["RAY_AUTH_MODE"] == "token"
    assert called.environment["PATH"].split(":")[0] == str(node.programs)


def test_the_head_starts_with_token_and_with_a_dashboard_of_its_own_machine(path, machine):
    node = machine(path)
    called = node.start("head")
    require_token_and_path(called, node)
    assert len(node.calls("start")) == 1
    assert called.options["head"]
    assert called.options["dashboard_host"] == "127.0.0.1"
    # Otherwise no worker is ever started.
    assert called.options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_a_worker_starts_with_token_and_joins_the_head(path, machine):
    node = machine(path)
    called = node.start("worker")
    require_token_and_path(called, node)
    assert len(node.calls("start")) == 1
    assert not called.options["head"]
    assert called.options["address"] == "10.0.0.1:6379"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_workers_keep_the_priority_of_ray_itself(path, machine, kind):
    # Ray would add 15 to their niceness.
    assert machine(path).start(kind).environment["RAY_worker_niceness"] == "0"


def test_workers_in_the_images_keep_the_priority_of_ray_itself():
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    assert "ENV RAY_worker_niceness=0" in lines


def test_what_ran_before_is_stopped(path, machine):
    for kind in ("head", "worker"):
        node = machine(path)
        node.start(kind)
        assert node.calls("stop")


def test_the_autoscaler_is_one_that_starts_workers(path, machine):
    # Ray's second takes the head of a local cluster for a worker. `ray up` switches it on before.
    called = machine(path).start("head")
    version = called.environment.get("RAY_enable_autoscaler_v2", "1")
    assert version == ("0" if path.stem == "onprem" else "1")


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_machines_in_a_cloud_open_many_files(cloud, kind):
    (command,) = (c for c in read(cloud)[f"{kind}_start_ray_commands"] if "ray start" in c)
    assert " ulimit -n 65536;" in command.partition("ray start")[0]


def test_an_unknown_option_of_ray_start_would_be_noticed():
    with pytest.raises(click.UsageError, match="dashbord"):
        parse("start", ["--head", "--dashbord-host=127.0.0.1"])


def test_ray_is_told_when_a_spot_machine_is_about_to_be_taken(cloud, machine):
    node = machine(cloud)
    node.start("worker")
    wait_until(lambda: len(node.watchers()) > 2)
    assert not node.calls("drain-node")
    node.notice.touch()
    wait_until(lambda: node.calls("drain-node"))
    (called,) = node.calls("drain-node")
    require_token_and_path(called, node)
    assert called.environment["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert called.options["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert 0 < called.options["deadline_remaining_seconds"] < 120


def test_the_notice_is_looked_for_where_the_cloud_gives_it(cloud):
    commands = " ".join(read(cloud)["worker_start_ray_commands"])
    root, name = {
        "aws": ("http://169.254.169.254/latest;", "$METADATA/meta-data/spot/instance-action "),
        "gcp": (
            "http://metadata.google.internal/computeMetadata/v1;",
            "$METADATA/instance/preempted)",
        ),
    }[cloud.stem]
    assert f"METADATA={root}" in commands
    assert name in commands


def test_a_spot_machine_that_is_set_up_again_is_watched_once(cloud, machine):
    node = machine(cloud)
    for _ in range(2):
        node.start("worker")
    asked = len(node.watchers())
    wait_until(lambda: len(node.watchers()) > asked + 4)
    assert len(set(node.watchers())) == 1


def test_setting_up_again_adds_nothing_to_what_shells_read(path, machine):
    node = machine(path)
    node.start("head")
    once = (node.home / ".bashrc").read_text()
    node.start("head")
    assert (node.home / ".bashrc").read_text() == once


def wait_until(happened: Any) -> None:
    """Waits, and fails if it does not happen."""
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- Who does what ---------------------------------------------------------------------------


def test_in_a_cloud_one_machine_learns_and_spot_machines_act(cloud):
    config = read(cloud)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["max_workers"] == 0
    assert not is_spot(head["node_config"])
    assert head["resources"]["learner"] == head["resources"]["GPU"] == 1
    assert "actor" not in head["resources"]
    (worker,) = types.values()
    assert worker["min_workers"] in (0, 1)
    assert worker["max_workers"] == config["max_workers"] == 16
    assert is_spot(worker["node_config"])
    assert worker["resources"] == {
        "CPU": worker["resources"]["CPU"],
        "actor": worker["resources"]["CPU"],
    }


def test_what_a_machine_offers_is_what_it_has(cloud):
    for node_type in read(cloud)["available_node_types"].values():
        config, resources = node_type["node_config"], node_type["resources"]
        processors, gpus, memory = MACHINES[config.get("InstanceType") or config["machineType"]]
        gpus += sum(gpu["acceleratorCount"] for gpu in config.get("guestAccelerators", []))
        assert resources["CPU"] == processors
        assert resources.get("GPU", 0) == gpus
        # Ray's object store may take a third of it.
        needed = resources.get("actor", 0) * GIB_OF_AN_ACTOR + 2
        needed += resources.get("learner", 0) * (GIB_OF_REPLAY + 4)
        assert memory * 0.7 > needed


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether a cloud may take the machine back."""
    return (
        node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )


def test_on_premises_the_head_learns_and_every_machine_acts(machine):
    path = ROOT / "cluster" / "onprem.yaml"
    processors = len(os.sched_getaffinity(0))
    head = json.loads(machine(path).start("head").options["resources"])
    assert head == {"learner": 1, "actor": processors}
    worker = json.loads(machine(path).start("worker").options["resources"])
    assert worker == {"actor": processors}


# --- What is installed -----------------------------------------------------------------------


def needed_to_install() -> set[str]:
    """Files and folders without which the project cannot be installed or run."""
    text = (ROOT / "pyproject.toml").read_text()
    modules = re.search(r"py-modules = (\[.*\])", text)
    assert modules
    names = set(PACKAGES)
    names |= {f"{name}.py" for name in json.loads(modules.group(1))}
    constraints = {"constraints.txt", "constraints-py312.txt"}
    return (
        names
        | constraints
        | {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "scripts"}
        | {"example_midis"}
    )


def test_the_whole_project_and_the_token_are_copied_and_nothing_else(path):
    mounts = yaml.safe_load(path.read_text())["file_mounts"]
    assert mounts.pop(TOKEN) == TOKEN
    assert mounts == {f"~/pianist/{name}": name for name in needed_to_install()}
    assert all((ROOT / name).exists() for name in mounts.values())


def test_the_image_has_the_whole_project():
    copied = set()
    for line in (ROOT / "cluster" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *names, to = line.split()[1:]
            assert to == "./" or names == [to]
            copied |= set(names)
    assert copied == needed_to_install()


def test_everything_is_installed_at_pinned_versions(path):
    config = read(path)
    setup = config["setup_commands"]
    assert any("~/pianist/scripts/setup.sh" in command for command in setup)
    assert 'install -c "$constraints"' in (ROOT / "scripts" / "setup.sh").read_text()
    for command in [*config["head_setup_commands"], *config["worker_setup_commands"]]:
        if "pip" in shlex.split(command):
            assert "-c constraints.txt" in command
            assert command.startswith("cd ~/pianist && .venv/bin/python -m pip")


def test_a_head_in_a_cloud_can_use_its_gpu_and_start_workers(cloud):
    packages = {"aws": "boto3==", "gcp": "google-api-python-client=="}
    config = read(cloud)
    commands = " ".join(config["head_setup_commands"])
    assert "'jax[cuda12]'" in commands
    assert packages[cloud.stem] in commands
    version = re.search(re.escape(packages[cloud.stem]) + r"[\d.]+", commands)
    assert version
    # The machine that brings the cluster up needs the same.
    assert version.group() in cloud.read_text().partition("cluster_name")[0]
    assert not any("jax" in command for command in config["worker_setup_commands"])


# --- No secrets ------------------------------------------------------------------------------

SECRETS = (
    r"-----BEGIN",
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_\w{20,}",
    r"\bya29\.",
    # A key or a token, as they are made: long, with letters and digits.
    r"(?<![\w/.-])(?=[A-Za-z+]*\d)(?=[\d+]*[A-Za-z])[A-Za-z0-9+]{32,}(?![\w/.-])",
    r"(?i)(auth_?token|secret\w*|password|api_?key|credentials?)['\"]?\s*[:=](?! ~/)\s*\S",
)


def secret_in(text: str) -> str | None:
    """The first thing in a text that looks like a secret."""
    found = (re.search(pattern, text) for pattern in SECRETS)
    return next((match.group() for match in found if match), None)


@pytest.mark.parametrize("file", [*RAY_UP, MANIFEST, ROOT / "cluster" / "Dockerfile"], ids=name)
def test_no_file_has_a_secret(file):
    assert secret_in(file.read_text()) is None


@pytest.mark.parametrize(
    "planted",
    [
        "export RAY_AUTH_TOKEN=short;",
        f"value: {'3f' * 32}",
        "aws_secret_access_key: abc",
        f"key: {'AKIA' + 'ABCDEFGH' * 2}",
        "password: 'piano'",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "credentials: '{}'",
    ],
)
def test_a_secret_would_be_noticed(planted):
    assert secret_in(f"{(ROOT / 'cluster' / 'aws.yaml').read_text()}\n{planted}\n")


# --- KubeRay ---------------------------------------------------------------------------------

# Names, types and what is required of the fields that we use, and no others. They are facts of
# KubeRay's published definitions of RayCluster and RayJob, ray.io/v1 (the operator's Helm chart,
# rayclusters at commit 017710c, rayjobs at 037e91b; `authOptions` came with 1.5.1), and for what is
# in a pod of Kubernetes' own API. The API server would drop an unknown field in silence.
STRING: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NAMES: dict[str, Any] = {"type": "object", "additionalProperties": STRING}
QUANTITY = {
    "anyOf": [
        {"type": "integer"},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"},
    ]
}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}


def fields(*required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object with these fields, and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


CONTAINER = fields(
    "name",
    "image",
    name=STRING,
    image=STRING,
    ports=listed(fields("containerPort", name=STRING, containerPort=COUNT)),
    resources=fields(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=listed(fields("name", "mountPath", name=STRING, mountPath=STRING)),
)
POD = fields(
    "containers",
    containers=listed(CONTAINER),
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    securityContext=fields(fsGroup=COUNT),
    tolerations=listed(
        fields(
            key=STRING,
            operator={"enum": ["Exists", "Equal"]},
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    affinity=fields(
        nodeAffinity=fields(
            preferredDuringSchedulingIgnoredDuringExecution=listed(
                fields(
                    "weight",
                    "preference",
                    weight={"type": "integer", "minimum": 1, "maximum": 100},
                    preference=fields(
                        matchExpressions=listed(
                            fields(
                                "key",
                                "operator",
                                key=STRING,
                                operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                                values=listed(STRING),
                            )
                        )
                    ),
                )
            )
        )
    ),
    volumes=listed(
        fields("name", name=STRING, persistentVolumeClaim=fields("claimName", claimName=STRING))
    ),
)
TEMPLATE = fields(spec=POD)
SPECS = {
    ("ray.io/v1", "RayCluster"): fields(
        "headGroupSpec",
        rayVersion=STRING,
        authOptions=fields(mode={"enum": ["disabled", "token"]}),
        enableInTreeAutoscaling={"type": "boolean"},
        autoscalerOptions=fields(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
        headGroupSpec=fields("template", rayStartParams=NAMES, template=TEMPLATE),
        workerGroupSpecs=listed(
            fields(
                "groupName",
                "maxReplicas",
                "minReplicas",
                "template",
                groupName=STRING,
                replicas=COUNT,
                minReplicas=COUNT,
                maxReplicas=COUNT,
                rayStartParams=NAMES,
                template=TEMPLATE,
            )
        ),
    ),
    ("ray.io/v1", "RayJob"): fields("entrypoint", clusterSelector=NAMES, entrypoint=STRING),
    ("v1", "PersistentVolumeClaim"): fields(
        accessModes=listed(STRING), resources=fields(requests=QUANTITIES)
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): fields(
        "podSelector",
        podSelector=fields(matchLabels=NAMES),
        policyTypes=listed({"enum": ["Ingress", "Egress"]}),
        ingress=listed(
            fields(
                **{
                    "from": listed(fields(podSelector=fields(matchLabels=NAMES))),
                    "ports": listed(fields(protocol={"enum": ["TCP", "UDP"]}, port=COUNT)),
                }
            )
        ),
    ),
}
# Whose names are not fields.
FREE = {"rayStartParams", "matchLabels", "clusterSelector", "requests", "limits"}


def schema(document: dict[str, Any]) -> dict[str, Any]:
    """The schema for what a document says it is."""
    return fields(
        *("apiVersion", "kind", "metadata", "spec"),
        apiVersion=STRING,
        kind=STRING,
        metadata=fields("name", name={"type": "string", "pattern": "^[a-z0-9-]{1,63}$"}),
        spec=SPECS[document["apiVersion"], document["kind"]],
    )


DOCUMENTS = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


def spelt_wrong(inside: Any) -> Iterator[tuple[Any, str]]:
    """Every field below: the object that has it, and its name."""
    if isinstance(inside, list):
        for item in inside:
            yield from spelt_wrong(item)
    elif isinstance(inside, dict):
        for name, value in inside.items():
            yield inside, name
            if name not in FREE:
                yield from spelt_wrong(value)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_kuberay_accepts_the_manifest(kind):
    jsonschema.validate(DOCUMENTS[kind], schema(DOCUMENTS[kind]))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_misspelt_field_of_the_manifest_would_be_noticed(kind):
    validator = jsonschema.Draft202012Validator(schema(DOCUMENTS[kind]))
    count = len(list(spelt_wrong(DOCUMENTS[kind])))
    assert count > 5
    for number in range(count):
        document = copy.deepcopy(DOCUMENTS[kind])
        inside, name = list(spelt_wrong(document))[number]
        inside[f"{name}s"] = inside.pop(name)
        assert not validator.is_valid(document), name


def ray_options(group: dict[str, Any]) -> dict[str, Any]:
    """What `ray start` makes of a group's parameters, as the shell hands them on."""
    parameters = group.get("rayStartParams", {}).items()
    return parse("start", shlex.split(" ".join(f"--{name}={text}" for name, text in parameters)))


def autoscaler_types() -> dict[str, Any]:
    """The node types that Ray's autoscaler reads out of the RayCluster."""
    cluster = copy.deepcopy(DOCUMENTS["RayCluster"])
    cluster["metadata"]["namespace"] = "default"
    types: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return types


def test_on_kubernetes_one_pod_learns_and_the_others_act():
    types = autoscaler_types()
    head, worker = types["headgroup"], types["actors"]
    assert head["resources"]["learner"] == head["resources"]["GPU"] == 1
    assert "actor" not in head["resources"]
    assert worker["resources"]["actor"] == worker["resources"]["CPU"]
    assert not {"learner", "GPU"} & set(worker["resources"])
    assert (worker["min_workers"], worker["max_workers"]) == (0, 16)
    for resources in (head["resources"], worker["resources"]):
        memory = resources["memory"] / 2**30
        needed = resources.get("actor", 0) * GIB_OF_AN_ACTOR
        needed += resources.get("learner", 0) * (GIB_OF_REPLAY + 4)
        assert memory * 0.7 >= needed


def test_on_kubernetes_ray_start_offers_what_the_autoscaler_expects():
    spec = DOCUMENTS["RayCluster"]["spec"]
    groups = {"headgroup": spec["headGroupSpec"], "actors": spec["workerGroupSpecs"][0]}
    for name, group in groups.items():
        offered = json.loads(ray_options(group)["resources"])
        expected = autoscaler_types()[name]["resources"]
        assert offered == {key: expected[key] for key in offered}
        (container,) = group["template"]["spec"]["containers"]
        # With less asked for than is allowed, Ray would count on what is not there.
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_on_kubernetes_the_token_guards_what_can_be_reached():
    spec = DOCUMENTS["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    pods = {"matchLabels": {"ray.io/cluster": DOCUMENTS["RayCluster"]["metadata"]["name"]}}
    assert policy["podSelector"] == pods
    among_themselves, from_anywhere = policy["ingress"]
    assert among_themselves == {"from": [{"podSelector": pods}]}
    assert [port["port"] for port in from_anywhere["ports"]] == [8265]


def test_ray_has_the_same_version_everywhere():
    for constraints in ("constraints.txt", "constraints-py312.txt"):
        pinned = re.search(r"^ray==(.*)$", (ROOT / constraints).read_text(), re.MULTILINE)
        assert pinned
        assert DOCUMENTS["RayCluster"]["spec"]["rayVersion"] == pinned.group(1) == ray.__version__


def test_the_images_are_those_of_the_dockerfile():
    spec = DOCUMENTS["RayCluster"]["spec"]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    built = re.findall(
        r"-t \$IMAGE(\S+)", (ROOT / "cluster" / "Dockerfile").read_text().partition("FROM")[0]
    )
    used = [
        group["template"]["spec"]["containers"][0]["image"]
        for group in (*spec["workerGroupSpecs"], spec["headGroupSpec"])
    ]
    assert used == [f"FILL-IN/pianist{tag}" for tag in built]
    assert all(tag.endswith(f":{version.group(1)}") for tag in built)


def test_runs_are_kept_on_the_volume():
    spec = DOCUMENTS["RayCluster"]["spec"]
    pod = spec["headGroupSpec"]["template"]["spec"]
    claim = DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert pod["volumes"] == [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}]
    (mount,) = pod["containers"][0]["volumeMounts"]
    # A job keeps runs below the home folder, which the image sets.
    assert mount == {"name": "runs", "mountPath": "/home/ray/runs"}
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    user = re.search(r"useradd --create-home --uid (\d+) .* ray\n", dockerfile)
    assert user
    assert int(user.group(1)) == pod["securityContext"]["fsGroup"]


def test_the_job_is_a_training_on_that_cluster():
    job = DOCUMENTS["RayJob"]["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": DOCUMENTS["RayCluster"]["metadata"]["name"]}
    program, command, *arguments = shlex.split(job["entrypoint"])
    assert (program, command) == ("pianist", "train")
    config = pianist.parse(TrainConfig, command, arguments)
    assert config.root_dir == "runs"
    assert config.actor.actors % autoscaler_types()["actors"]["resources"]["actor"] == 0
