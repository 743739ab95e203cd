"""Submission of a command as a job of a Ray cluster: the short form of `ray job submit`.

All checks that are possible on this machine come first, before anything is sent. The job then runs
independently of the command that submitted it. `ray job logs` shows its output.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
import shlex
import socket
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from cluster.package import pack
from common import addresses, proxies
from common.errors import BadInput, require, summarize_error
from common.files import as_utf8
from common.time_limit import call_with_timeout
from training import run

if TYPE_CHECKING:  # Ray takes a second to import, and bad flags are rejected without it.
    from ray.job_submission import JobSubmissionClient

Parse = Callable[[type[Any], str, Sequence[str]], Any]
"""Type of `pianist.parse`, which takes a config dataclass, a command's name and its arguments."""

_CONNECT_SECONDS = 30.0
_SEND_SECONDS = 300.0
_ANSWER_SECONDS = 15.0
_SECONDS_BETWEEN_LOOKS = 5.0
_AWAY_SECONDS = 60.0
_TAIL_SECONDS = 300.0
# Seconds that a stopped job gets for its last checkpoint; Ray's default of 3 is too short.
_SECONDS_TO_STOP = 300
_NOT_SENT = (
    *(".git/", ".venv/", "venv/", "/runs/", "/wandb/", "/build/", "*.mp4"),
    *("__pycache__/", "*.egg-info/", ".*_cache/", ".hypothesis/", "node_modules/"),
)
_PASSED_ON = re.compile(r"WANDB_\w+|MUJOCO_GL|XLA_\w+")
_EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}  # Of jobs that have ended.


@dataclasses.dataclass(frozen=True)
class SubmitConfig:
    """Runs a command as a job of a Ray cluster, and follows it until it ends.

    Arguments after the command's name belong to the command, as in `pianist train`, and are checked
    here before anything is sent. Ctrl-C only stops following; `ray job stop` stops the job.

    The working directory is sent, without runs, videos, caches, .git, .venv, and without files
    excluded by .gitignore or .rayignore. Of the environment variables, by default only MUJOCO_GL,
    WANDB_* and XLA_* are passed on. The cluster stores them in plain text: they appear in its logs,
    and Ray shows them to everybody who has the cluster's token (the dashboard hides them from
    browsers). WANDB_API_KEY is therefore passed on only with `--mode online`, and credentials of
    object stores are not passed on: set those on the machines themselves.
    """

    command: tyro.conf.Positional[Literal["train", "segments", "cpl"]]
    """Command that runs on the cluster; its options follow, see `pianist train --help`."""
    address: str = ""
    """Address of the cluster, as for `ray job submit`, such as http://127.0.0.1:8265; by default
    the one in RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else that of the cluster on this machine."""
    wait: bool = True
    """Whether to follow the job's logs until it ends; --no-wait returns after the submission."""
    env_vars: str = ""
    """Names of further environment variables to pass on, separated by commas."""


def submit(arguments: Sequence[str], parse: Parse) -> dict[str, Any]:
    """Submits a job and, by default, follows it.

    Args:
        arguments: Arguments of the command line.
        parse: Parser of config dataclasses, see `Parse`.

    Returns:
        The run's name, the job's submission id, its status as Ray names it, the address of its
        dashboard page, and the exit code: 0; 1 if the job failed; 130 if it was stopped or
        following was interrupted.

    Raises:
        BadInput: The job cannot be sent, or the cluster no longer answers.
    """
    # Copied first: the packages below set MUJOCO_GL for this machine when they are imported.
    environment = dict(os.environ)
    for argument in arguments:
        require(
            argument == as_utf8(argument), f"{argument!r} must be UTF-8 to be sent to a cluster"
        )
    own, others = _split(arguments)
    if any(argument in ("-h", "--help") for argument in own):
        parse(SubmitConfig, "submit", ["--help"])
    config = parse(SubmitConfig, "submit", [*others[:1], *own])
    given = _given_address(config)
    if not given:
        _use_own_token()
    job = parse(_config_class(config.command), config.command, others[1:])
    address = given or _own_address(config.command)
    planned = _plan(config.command, job, others[1:])
    variables = _variables(environment, config, job)
    folder = pathlib.Path.cwd()
    excludes = [*_NOT_SENT, *_root_dir_of(job, folder)]
    with tempfile.TemporaryDirectory() as temporary:
        package = pathlib.Path(temporary) / "working_dir.zip"
        size = pack(folder, excludes, planned.files, package)
        client = _connect(address)
        _say(f"sending {size} to {_without_user(address)}")
        job_of_ray = _Job(client, planned)
        job_of_ray.send({"working_dir": str(package), "env_vars": variables})
    return job_of_ray.follow() if config.wait else job_of_ray.leave()


# --- The request ------------------------------------------------------------------------


class _Planned(NamedTuple):
    """The command for the cluster to run."""

    command: str
    name: str
    """Name of the run."""
    arguments: list[str]
    """Arguments of the command, with paths as they are on the cluster."""
    files: list[str]
    """Paths of the files that the job needs, relative to the working directory."""


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the options of `pianist submit`, at any position, from all other arguments."""
    with_value = {"--address": True, "--env-vars": True, "--wait": False, "--no-wait": False}
    own: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        flag = flag.replace("_", "-")
        if flag in with_value or (flag in ("-h", "--help") and not others):
            own.append(argument)
            if with_value.get(flag) and not equals:
                own.extend(value for value in [next(rest, None)] if value is not None)
        else:
            others.append(argument)
    return own, others


def _config_class(command: str) -> type[Any]:
    if command == "segments":
        from rlhf.segments import SegmentsConfig

        return SegmentsConfig
    if command == "cpl":
        from rlhf.fine_tune import FineTuneConfig

        return FineTuneConfig
    from training.config import TrainConfig

    return TrainConfig


def _plan(command: str, job: Any, arguments: Sequence[str]) -> _Planned:
    """Plans the job, and checks as much as possible on this machine.

    Raises:
        BadInput: The songs cannot be played, or lie outside the working directory.
    """
    if command == "segments" or (command == "train" and job.resume):
        known = job.run if command == "segments" else job.resume
        _say_where_it_is_read(known)
        return _Planned(command, pathlib.PurePath(known).name, list(arguments), [])
    files: dict[pathlib.Path, str] = {}
    if command == "cpl":
        _say_where_it_is_read(*job.collections, job.load_checkpoint)
        method, title = "CPL", ""
    else:
        from piano.repertoire import Repertoire
        from piano.song import load_songs

        method, title = "SAC", Repertoire(load_songs(job.song), job.environment).title
        files = {path: _inside(path) for path in job.song.midi_file}
    made_up = run.new_name(method, title, job.seed)
    there = [_with_path(argument, files) for argument in arguments]
    named = [] if job.name else ["--name", made_up]
    return _Planned(command, job.name or made_up, [*there, *named], list(files.values()))


def _inside(path: pathlib.Path) -> str:
    """Returns the path relative to the working directory."""
    relative = os.path.relpath(path)
    require(
        not relative.startswith(os.pardir),
        f"--midi-file {path} lies outside the working directory {os.getcwd()}, which is all that "
        "is sent: copy it there",
    )
    return relative


def _with_path(argument: str, files: Mapping[pathlib.Path, str]) -> str:
    """Returns the argument, with the path of a file as it is on the cluster."""
    if pathlib.Path(argument) in files:
        return files[pathlib.Path(argument)]
    flag, equals, value = argument.partition("=")
    if equals and pathlib.Path(value) in files:
        return f"{flag}={files[pathlib.Path(value)]}"
    return argument


def _say_where_it_is_read(*paths: Any) -> None:
    """Tells the user that an existing local path is read on the cluster, not sent."""
    for path in dict.fromkeys(map(str, paths)):
        if "://" not in path and not os.path.isabs(path) and os.path.exists(path):
            _say(f"{path} is read on the cluster (below the head's home folder); it is not sent")


def _root_dir_of(job: Any, folder: pathlib.Path) -> list[str]:
    """Returns the pattern that excludes the runs' folder, if it lies in the working directory."""
    root_dir = str(job.root_dir)
    if "://" in root_dir:
        return []
    relative = os.path.relpath(root_dir, folder)
    return [] if relative.startswith(os.pardir) or relative == "." else [f"/{relative}/"]


def _variables(environment: Mapping[str, str], config: SubmitConfig, job: Any) -> dict[str, str]:
    """Returns the environment variables of the job."""
    further = [name for name in config.env_vars.split(",") if name]
    absent = [name for name in further if name not in environment]
    require(not absent, f"--env-vars: {', '.join(absent)} is not set here")
    passed = {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}
    wandb = getattr(job, "wandb", None)  # `pianist segments` has no such option.
    online = wandb is not None and wandb.mode == "online"
    if not online:
        passed.pop("WANDB_API_KEY", None)
    elif "WANDB_API_KEY" not in passed:
        _say("WANDB_API_KEY is not set here: --mode online needs a cluster that is logged in")
    passed |= {name: environment[name] for name in further}
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(_SECONDS_TO_STOP)} | passed


# --- The cluster ------------------------------------------------------------------------


def _given_address(config: SubmitConfig) -> str:
    """Returns the address that the user gave, as Ray's client takes it; empty if there is none.

    Raises:
        BadInput: It is not an address.
    """
    variables = {name: os.environ.get(name) for name in addresses.VARIABLES}
    given = {"--address": config.address, **variables}
    source, address = next(((name, value) for name, value in given.items() if value), ("", ""))
    if address in ("", "auto", "local"):
        for name in variables:
            os.environ.pop(name, None)
        return ""
    proxies.keep_from([addresses.parts_of(address, source).host or ""])
    # In Ray's client this variable takes precedence over everything else.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    return address


def _use_own_token() -> None:
    """Makes Ray send the token of this machine, if it has one.

    Ray itself does so for a cluster of this machine only: no other machine gets the token. Ray
    reads the variable when it is first imported.
    """
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or os.path.isfile(file):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _own_address(command: str) -> str:
    """Returns the address of the cluster on this machine.

    Raises:
        BadInput: There is no cluster.
    """
    from common import ray_session

    found = ray_session.cluster_address()
    if found is None:
        raise BadInput(
            f"no cluster to submit to: run `pianist {command}` itself on this machine, or "
            "start a cluster (`ray up`, `ray start --head`) or name one with --address"
        )
    proxies.keep_from([addresses.parts_of(found, "the cluster's address").host or ""])
    return found


def _connect(address: str) -> "JobSubmissionClient":
    """Returns a client of the cluster's job server.

    Raises:
        BadInput: The server does not answer, or requires another token.
    """
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    # This module prints everything important itself.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    shown = _without_user(address)
    try:
        headers = json.loads(os.environ.get("RAY_JOB_HEADERS") or "{}")
    except ValueError as error:
        raise BadInput(f"RAY_JOB_HEADERS is not JSON: {error}") from error
    try:
        _check_reachable(address)
        return call_with_timeout(
            _CONNECT_SECONDS,
            lambda: JobSubmissionClient(address, create_cluster_if_needed=True, headers=headers),
        )
    except ray.exceptions.AuthenticationError as error:
        raise BadInput(
            f"the cluster at {shown} refuses this machine's token: set RAY_AUTH_MODE=token, and "
            "have the cluster's token in ~/.ray/auth_token, or in RAY_AUTH_TOKEN"
        ) from error
    except Exception as error:  # Ray's client passes on errors of its libraries.
        raise BadInput(f"no Ray cluster answers at {shown}: {summarize_error(error)}") from error


def _check_reachable(address: str) -> None:
    """Checks that the address accepts connections, faster and more quietly than Ray's client.

    Raises:
        OSError: Nothing listens at the address.
    """
    parts = addresses.parts_of(address, "the address")
    ports = {"http": 80, "https": 443, "ray": 10001, "": None}
    port = parts.port or ports.get(parts.scheme)
    if parts.host and port:
        socket.create_connection((parts.host, port), timeout=_ANSWER_SECONDS).close()


class _Job:
    """A job from its submission to its end.

    Args:
        client: Client of the cluster's job server.
        planned: Command for the job to run.
    """

    def __init__(self, client: "JobSubmissionClient", planned: _Planned):
        self._client = client
        self._planned = planned
        self._address = _without_user(client.get_address())
        self._id = ""
        self._status = "PENDING"
        self._message: str | None = None
        self._shown = 0
        self._heard = time.monotonic()

    def send(self, runtime_env: dict[str, Any]) -> None:
        """Submits the job.

        Raises:
            BadInput: The cluster refuses the job, or runs one of that name already.
        """
        planned = self._planned
        # Other characters have a special meaning in the addresses of Ray's jobs.
        wanted = re.sub(r"[^\w.-]+", "-", planned.name, flags=re.ASCII)
        if planned.command == "segments":
            wanted += time.strftime("-segments-%Y%m%d-%H%M%S")
        try:
            self._id = call_with_timeout(
                _SEND_SECONDS,
                lambda: self._client.submit_job(
                    entrypoint=shlex.join(["pianist", planned.command, *planned.arguments]),
                    submission_id=self._free_id(wanted),
                    runtime_env=runtime_env,
                    metadata={"run": planned.name},
                ),
            )
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"the cluster at {self._address} did not take the job: {summarize_error(error)}"
            ) from error
        _say(f"run {planned.name}: job {self._id}, {self._dashboard}")

    def follow(self) -> dict[str, Any]:
        """Shows the job's logs until it ends; returns the answer of `submit`.

        Raises:
            BadInput: The cluster no longer answers.
        """
        _say("following it; Ctrl-C stops following, not the job")
        try:
            asyncio.run(self._follow())
        except KeyboardInterrupt:
            _say("")
            with contextlib.suppress(ConnectionError):
                self._look()
            return self.leave(exit_code=130)
        except ConnectionError as error:
            raise BadInput(
                f"{error}; what runs there goes on: ray job logs --follow {self._there}"
            ) from error
        return self.leave(_EXIT_CODES[self._status])

    def leave(self, exit_code: int = 0) -> dict[str, Any]:
        """Says how to look again, unless the job has ended; returns the answer of `submit`."""
        if self._status not in _EXIT_CODES:
            _say(f"the job goes on. To look again: ray job logs --follow {self._there}")
            _say(f"to stop it, with a last checkpoint: ray job stop {self._there}")
        return {
            "name": self._planned.name,
            "submission_id": self._id,
            "status": self._status,
            "dashboard": self._dashboard,
            "exit_code": exit_code,
        }

    @property
    def _dashboard(self) -> str:
        return f"{self._address}/#/jobs/{self._id}"

    @property
    def _there(self) -> str:
        """Returns the arguments with which Ray's own commands find the job."""
        return f"{self._id} --address {shlex.quote(self._address)}"

    def _free_id(self, wanted: str) -> str:
        """Returns the id, with a number appended if jobs of that name have ended already."""
        taken = {job.submission_id: str(job.status) for job in self._client.list_jobs()}
        name, number = wanted, 1
        while name in taken:
            require(
                taken[name] in _EXIT_CODES,
                f"the job {name} runs already on that cluster: choose another --name, or look at "
                f"it with `ray job logs --follow {name}`",
            )
            number += 1
            name = f"{wanted}-{number}"
        return name

    async def _follow(self) -> None:
        """Shows the job's logs until it ends.

        Raises:
            ConnectionError: The cluster has not answered for a minute.
        """
        tail = asyncio.create_task(self._show_tail())
        while not self._look():
            await asyncio.wait({tail}, timeout=_SECONDS_BETWEEN_LOOKS)
            if tail.done():
                await asyncio.sleep(1.0)
                tail = asyncio.create_task(self._show_tail())
        # Show the output since the end of the tail.
        with contextlib.suppress(Exception):  # The cluster may be gone already.
            logs = call_with_timeout(_ANSWER_SECONDS, self._client.get_job_logs, self._id)
            self._show(logs[self._shown :])
        if self._status == "FAILED":
            message = summarize_error(self._message or "the job failed")
            _say(message.partition(", last available")[0])

    async def _show_tail(self) -> None:
        """Shows the logs as they are written, until the job ends or the connection breaks.

        A connection that a machine on the way has dropped stays silent forever, so a silent one is
        given up after a while. The next one begins with the first line again.
        """
        seen = 0
        # Errors of the network, a long silence, and the end of the logs.
        with contextlib.suppress(Exception):
            texts = aiter(self._client.tail_job_logs(self._id))
            while True:
                text = await asyncio.wait_for(anext(texts), _TAIL_SECONDS)
                self._show(text[max(0, self._shown - seen) :])
                seen += len(text)
                self._heard = time.monotonic()

    def _show(self, text: str) -> None:
        self._shown += len(text)
        print(text, end="", file=sys.stderr, flush=True)

    def _look(self) -> bool:
        """Asks for the job's status, and returns whether the job has ended.

        Raises:
            ConnectionError: The cluster has not answered for a minute.
        """
        try:
            info = call_with_timeout(_ANSWER_SECONDS, self._client.get_job_info, self._id)
        except Exception as error:
            silence = time.monotonic() - self._heard
            if silence > _AWAY_SECONDS:
                raise ConnectionError(
                    f"the cluster at {self._address} has not answered for {silence:.0f} s"
                ) from error
            return False
        self._heard = time.monotonic()
        self._status, self._message = str(info.status), info.message
        return self._status in _EXIT_CODES


def _without_user(address: str) -> str:
    """Returns the address without user name and password."""
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
