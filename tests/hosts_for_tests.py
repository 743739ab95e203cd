"""Hosts on this machine: each has its own network, processes, home, /tmp and sshd.

All of a host lives in Linux namespaces below one process. When that process is gone, so are its
processes, its mounts and its network; and it goes with the process that made it, even if that is
killed. Nothing is set up outside of the namespaces but one temporary folder.
"""

import contextlib
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

PROJECT = pathlib.Path(__file__).parent.parent
HOME = pathlib.Path("/srv")  # Of root, on each host.
USER = "root"
KEY = ".ssh/id_ed25519"
_COMPILED = HOME / ".compiled"  # JAX's, on each host; what one has compiled serves the others.
_VARIABLES = {
    "JAX_COMPILATION_CACHE_DIR": str(_COMPILED),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
_PYTHON = pathlib.Path(sys.executable).resolve()
_NETWORK = "10.77.0"
_START_SECONDS = 30.0
_END_SECONDS = 30.0
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "sshd", "ssh-keygen", "ssh", "rsync")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LEFT_OUT = (".git", ".venv*", "runs", "wandb", "build", "__pycache__", ".*_cache", ".hypothesis")

# The order matters: the sources of what is mounted may lie below what is mounted over.
_BEGIN = """
set -euo pipefail
hostname {name}
mkdir -p {folder}/home/pianist/.venv {folder}/tmp
mount --bind {project}/.venv {folder}/home/pianist/.venv
mount -o remount,bind,ro {folder}/home/pianist/.venv
mount --bind {folder}/setup-stamp {folder}/home/pianist/.venv/setup-stamp
mkdir -p {folder}/home/{compiled}
mount --bind "$JAX_COMPILATION_CACHE_DIR" {folder}/home/{compiled}
for file in passwd hosts resolv.conf; do mount --bind {folder}/$file /etc/$file; done
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
mkdir -p /run/sshd
mount --rbind {folder}/home {home}
mount --bind {folder}/tmp /tmp
mkdir -p {project}
mount --rbind {home}/pianist {project}
chmod 1777 /tmp
/usr/sbin/sshd -D -f {home}/.ssh/sshd_config -E /tmp/sshd.log &
wait
"""


class Host:
    """One host; see `Network`.

    Args:
        name: of the host.
        address: its own.
        folder: for its files.
    """

    def __init__(self, name: str, address: str, folder: pathlib.Path):
        self.name = name
        self.address = address
        self.home = folder / "home"
        script = _BEGIN.format(
            name=name, folder=folder, project=PROJECT, home=HOME, compiled=_COMPILED.name
        )
        namespaces = ("--mount", "--net", "--pid", "--ipc", "--uts")
        with open(folder / "log", "w") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", *namespaces, "--fork", "--kill-child", "--mount-proc"),
                    *("bash", "-c", script),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not (self.home.parent / "tmp" / "sshd.log").exists():
            said = (folder / "log").read_text()
            assert self._process.poll() is None, f"host {name} did not start: {said}"
            assert time.monotonic() < deadline, f"host {name} does not start: {said}"
            time.sleep(0.02)
        (first,) = psutil.Process(self._process.pid).children()
        self.first_process = first.pid
        self._namespace = os.readlink(f"/proc/{self.first_process}/ns/pid")

    def start(self, command: str, **options) -> subprocess.Popen:
        """Starts a shell command, as somebody who has logged in there and entered the project."""
        environment = {
            "HOME": str(HOME),
            "USER": USER,
            "LOGNAME": USER,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PYTHONUNBUFFERED": "1",  # As if it was a terminal.
            "PATH": f"{PROJECT}/.venv/bin:{_PATH}",
            **_VARIABLES,
        }
        return subprocess.Popen(
            [
                *("nsenter", "--target", str(self.first_process), "--all"),
                *("bash", "-c", f"cd {shlex.quote(str(PROJECT))}\n{command}"),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            **options,
        )

    def run(self, command: str, seconds: float = 60, check: bool = True) -> str:
        """Runs a shell command; returns what it printed.

        Args:
            command: for bash, in the project's folder.
            seconds: that it may take.
            check: whether its exit code has to be 0.
        """
        with self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                printed, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                end(process)
                printed, _ = process.communicate()
                raise AssertionError(
                    f"no end within {seconds:.0f} s: {command}\n{printed}"
                ) from None
        assert not check or process.returncode == 0, f"{command}\n{printed}"
        return printed

    def processes(self) -> list[str]:
        """Command lines of what runs here, but for the host itself and its sshd."""
        return list(self._living().values())

    def process(self, beginning: str) -> psutil.Process:
        """The one whose command line begins like that."""
        (found,) = (one for one, line in self._living().items() if line.startswith(beginning))
        return found

    def _living(self) -> dict[psutil.Process, str]:
        """What runs here, but for the host itself and its sshd, and the command lines."""
        found = {}
        for process in psutil.process_iter():
            try:
                here = os.readlink(f"/proc/{process.pid}/ns/pid") == self._namespace
                alive = process.status() != psutil.STATUS_ZOMBIE
                if here and alive and process.pid != self.first_process:
                    found[process] = " ".join(process.cmdline())
            except (OSError, psutil.NoSuchProcess):
                continue
        return {process: line for process, line in found.items() if "sshd" not in line}

    def close(self) -> None:
        """Ends the host, with all that runs there."""
        self._process.kill()
        self._process.wait()
        # It is the kernel that ends the rest; when the first is gone, all are.
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.first_process)
            deadline = time.monotonic() + _END_SECONDS
            while first.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                time.sleep(0.02)


class Network:
    """A desk with a project folder and an ssh key, and hosts which that key opens.

    The desk is the machine of the person who has the cluster; it is the switch, too, to which
    the cables of all hosts lead. Each host finds the project's .venv in ~/pianist/.venv, as if
    `scripts/setup.sh` had been run there before. Its home is not that of this machine.
    """

    def __init__(self) -> None:
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="pianist-hosts-"))
        self.hosts: dict[str, Host] = {}
        try:
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / "key")
            self.desk = self._add("desk", f"{_NETWORK}.1", own_project=True)
            _run(*self._in_network_of(self.desk), "link", "add", "switch", "type", "bridge")
            _run(*self._in_network_of(self.desk), "link", "set", "switch", "up")
            self._give_address(self.desk, "switch")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, number: int) -> str:
        """That of the host with this number, from 1, whether it is there or not."""
        return f"{_NETWORK}.{10 + number}"

    def add(self, number: int) -> Host:
        """Makes a host and plugs in its cable.

        Args:
            number: from 1.
        """
        host = self._add(f"host{number}", self.address(number), own_project=False)
        switch = self._in_network_of(self.desk)
        ends = ("type", "veth", "peer", "name", "eth0", "netns", str(host.first_process))
        _run(*switch, "link", "add", host.name, *ends)
        _run(*switch, "link", "set", host.name, "master", "switch")
        self._give_address(host, "eth0")
        self.plug_in(host)
        _run(*self._in_network_of(host), "route", "add", "default", "via", self.desk.address)
        return host

    def plug_in(self, host: Host) -> None:
        """Gives the host its network back."""
        _run(*self._in_network_of(self.desk), "link", "set", host.name, "up")

    def pull_out(self, host: Host) -> None:
        """Cuts the host off the network, as if its cable was pulled out."""
        _run(*self._in_network_of(self.desk), "link", "set", host.name, "down")

    def close(self) -> None:
        """Ends all hosts; nothing of them is left behind."""
        for host in reversed(self.hosts.values()):
            host.close()
        shutil.rmtree(self._folder)

    def _add(self, name: str, address: str, own_project: bool) -> Host:
        folder = self._folder / name
        home, ssh = folder / "home", folder / "home" / ".ssh"
        ssh.mkdir(parents=True)
        ssh.chmod(0o700)
        if own_project:
            ignored = shutil.ignore_patterns(*_LEFT_OUT)
            shutil.copytree(PROJECT, home / "pianist", ignore=ignored, symlinks=True)
            shutil.copy(self._folder / "key", home / KEY)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key")
        shutil.copy(self._folder / "key.pub", ssh / "authorized_keys")
        (ssh / "sshd_config").write_text(
            f"HostKey {HOME}/.ssh/host_key\n"
            f"AuthorizedKeysFile {HOME}/.ssh/authorized_keys\n"
            "PermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\n"
            "UsePAM no\n"
            "PidFile none\n"
        )
        # Root's home is ours, and .venv is the one that setup.sh would have made there.
        accounts = pathlib.Path("/etc/passwd").read_text().splitlines()
        others = "\n".join(line for line in accounts if not line.startswith("root:"))
        (folder / "passwd").write_text(f"root:x:0:0:root:{HOME}:/bin/bash\n{others}\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (folder / "resolv.conf").write_text("")  # No name server is asked.
        variables = {"PYTHON": _PYTHON, **_VARIABLES}
        exported = "".join(f"export {name}={value}\n" for name, value in variables.items())
        (home / ".bashrc").write_text(exported)
        (folder / "setup-stamp").write_text(_stamp(PROJECT if own_project else HOME / "pianist"))
        self.hosts[name] = Host(name, address, folder)
        return self.hosts[name]

    def _give_address(self, host: Host, device: str) -> None:
        here = self._in_network_of(host)
        _run(*here, "link", "set", "lo", "up")
        _run(*here, "address", "add", f"{host.address}/24", "dev", device)
        _run(*here, "link", "set", device, "up")

    def _in_network_of(self, host: Host) -> tuple[str, ...]:
        return "nsenter", "--target", str(host.first_process), "--net", "ip"


def end(process: subprocess.Popen) -> None:
    """Kills what `Host.start` has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def require_hosts() -> None:
    """Skips where no hosts can be made; where CI is set, fails instead."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    reason = ""
    if os.geteuid():
        reason = "hosts can be made by root only"
    elif missing:
        reason = f"not installed: {', '.join(missing)} (scripts/setup.sh test installs them)"
    else:
        tried = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            reason = f"no namespaces can be made here: {tried.stderr.strip()}"
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    elif reason:
        pytest.skip(reason)


def _stamp(project: pathlib.Path) -> str:
    """What setup.sh would write on a host, had it made .venv in that folder there."""
    version = ".".join(map(str, sys.version_info[:3]))
    constraints = "constraints.txt" if sys.version_info < (3, 12) else "constraints-py312.txt"
    sources = [(PROJECT / name).read_bytes() for name in (constraints, "pyproject.toml")]
    total = hashlib.sha256(b"".join(sources)).hexdigest()
    return f"Python {version}, {_PYTHON}, {project}, {total}  -\n"


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(words)}: {result.stderr}"
