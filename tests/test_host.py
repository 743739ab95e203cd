"""What environment variables and folders of strangers' machines may do to a command."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from runs_for_tests import FLAGS, SCALE, WARM_UP, assert_refused, command, environment_variables

import pianist
from common import addresses, host, proxies, ray_session, watchdog
from common.errors import BadInput
from replay import reverb_without_tensorflow

pytestmark = pytest.mark.run

ROOT = pathlib.Path(__file__).parent.parent
OTHER_USER = 65534
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def clean():
    """Without proxies, and with every variable as before afterwards."""
    before, folder = dict(os.environ), tempfile.tempdir
    for name in (*PROXIES, "no_proxy", "no_grpc_proxy", *addresses.VARIABLES, *host._CACHES):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    tempfile.tempdir = None
    yield
    tempfile.tempdir = folder
    os.environ.clear()
    os.environ.update(before)


def prepare():
    """As in a process that has just begun."""
    tempfile.tempdir = None
    host.prepare()


def as_ordinary_user(function):
    """What a function returns in a process of an ordinary user, who has no entry on the machine."""
    if os.getuid():
        return function()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            answer = function()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.load(pipe)
    os.waitpid(child, 0)
    return answer


# --- Proxies ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PROXIES, *(name.upper() for name in PROXIES)])
def test_proxies_are_for_the_internet_alone(monkeypatch, name):
    monkeypatch.setenv(name, DEAD)
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://head.example:8265/x")
    monkeypatch.setenv("no_proxy", "own.example, other")
    prepare()
    for excepted in ("no_proxy", "NO_PROXY"):
        hosts = os.environ[excepted].split(",")
        assert {"own.example", "other", "localhost", "127.0.0.1", "10.1.2.3"} < set(hosts)
        assert "head.example" in hosts
        assert len(hosts) == len(set(hosts))
    ends = os.environ[proxies.NO_PROXY].split(",")
    for node in ("10.1.2.3", "localhost", "node-7.cluster", "fe80::1"):
        assert any(node.endswith(end) for end in ends)
    assert os.environ[name] == DEAD


def test_without_a_proxy_nothing_is_set():
    prepare()
    assert not {"no_proxy", "NO_PROXY", "no_grpc_proxy"} & os.environ.keys()


def test_on_a_node_reverb_uses_no_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", DEAD)
    pytest.importorskip("reverb")
    reverb_without_tensorflow.load()
    assert os.environ[proxies.NO_PROXY]


def test_no_proxy_at_all_stays_so(monkeypatch):
    monkeypatch.setenv("https_proxy", DEAD)
    monkeypatch.setenv("no_proxy", "*")
    prepare()
    assert os.environ["no_proxy"] == "*"


@pytest.mark.parametrize("name", addresses.VARIABLES)
@pytest.mark.parametrize("address", ["[::1:6379", "http://[head:8265", "head:99999"])
def test_an_address_that_is_none_is_refused(monkeypatch, name, address):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv(name, address)
    with pytest.raises(BadInput, match=f"{name} is '.*', no address of a cluster: "):
        prepare()


# --- Folders ----------------------------------------------------------------------------


@pytest.mark.parametrize("home", [None, "/", "/nonexistent", "/proc", "{unwritable}"])
def test_a_home_that_cannot_be_written_is_replaced(capfd, home):
    folder = pathlib.Path("/tmp") / f"p-home-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o777)
    unwritable = folder / "unwritable"
    unwritable.mkdir(mode=0o555)
    os.environ["TMPDIR"] = str(folder)
    os.environ.pop("HOME", None)
    if home:
        os.environ["HOME"] = home.format(unwritable=unwritable)

    def prepared():
        os.environ.pop("USER", None)
        prepare()
        own = pathlib.Path.home()
        (own / ".ray").mkdir()
        prepare()  # It is kept.
        return [str(own), own.stat().st_mode & 0o777, str(pathlib.Path.home())]

    try:
        found = as_ordinary_user(prepared)
        own, mode, again = found
        assert own == again
        assert own.startswith(f"{folder}/pianist-home-")
        assert mode == 0o700
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("pianist: HOME ")
        assert line.endswith(f": caches are kept in {own}")
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def test_a_working_folder_that_is_gone_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    inside = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    result = subprocess.run(
        ["sh", "-c", inside, "sh", gone, *command("status")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("pianist: the working folder has been removed")


def test_another_users_folder_is_not_taken_for_a_home(monkeypatch, tmp_path):
    if os.getuid():
        pytest.skip("takes root, to give a folder away")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    taken = tmp_path / f"pianist-home-{os.getuid()}"
    taken.mkdir()
    os.chown(taken, OTHER_USER, OTHER_USER)
    prepare()
    assert pathlib.Path.home() != taken
    assert pathlib.Path.home().parent == tmp_path


def test_a_temporary_folder_that_is_not_there_is_replaced_and_said(monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", "/nonexistent/scratch")
    prepare()
    assert os.environ["TMPDIR"] == "/tmp"
    assert "TMPDIR (/nonexistent/scratch) cannot be written" in capsys.readouterr().err


def test_a_temporary_folder_that_is_full_is_replaced_and_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host, "has_room", lambda folder: folder != tmp_path)
    prepare()
    assert os.environ["TMPDIR"] == "/tmp"
    assert f"TMPDIR ({tmp_path}) is full: temporary files are kept in /tmp" in (
        capsys.readouterr().err
    )


def test_without_room_anywhere_ray_does_not_start(monkeypatch):
    monkeypatch.setattr(host, "LEAST_ROOM", 10**18)
    prepare()
    with (
        pytest.raises(BadInput, match=r"/tmp.*are free, which Ray takes for its files: make room"),
        ray_session.connect(None, pathlib.Path("logs")),
    ):
        pass


def test_a_disk_that_fills_up_is_said(run_cli, monkeypatch):
    def fill(_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(pianist.COMMANDS, "status", pianist.Command(fill, "fill"))
    assert_refused(run_cli("status"), "No space left on device: make room in ")


@pytest.mark.parametrize("name", host._CACHES)
def test_a_cache_that_cannot_be_written_is_not_used(monkeypatch, tmp_path, capsys, name):
    monkeypatch.setenv(name, "/proc/caches/deep")
    prepare()
    assert name not in os.environ
    assert f"{name} (/proc/caches/deep) cannot be written" in capsys.readouterr().err
    monkeypatch.setenv(name, str(tmp_path / "not" / "there" / "yet"))
    prepare()
    assert os.environ[name] == str(tmp_path / "not" / "there" / "yet")


@pytest.mark.parametrize(
    "name", ["b23456789012345678901234567", "with space", "ümlaut", "a" * 150, "quote's"]
)
def test_ray_gets_a_short_plain_folder(monkeypatch, tmp_path, name):
    odd = tmp_path / name
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert ray_session._short_folders()[0] == pathlib.Path("/tmp")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert ray_session._short_folders()[0] == pathlib.Path("/var/tmp")


def test_without_a_short_folder_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host, "OTHER_FOLDERS", ("/nonexistent",))
    with pytest.raises(BadInput, match="set TMPDIR to a folder with a short name"):
        ray_session._short_folders()


# --- Arguments --------------------------------------------------------------------------

_ENTRYPOINT = """
import sys
from common import host
host.prepare()
from ray._private.utils import get_entrypoint_name
for text in (get_entrypoint_name(), *sys.argv):
    sys.stdout.buffer.write(text.encode() + b"\\n")
"""


def test_libraries_get_a_command_line_of_utf8():
    # A name of before UTF-8.
    result = subprocess.run(
        [sys.executable, "-c", _ENTRYPOINT, "train", b"caf\xe9.mid", "\u66f2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=600,
        check=True,
    )
    entrypoint, *arguments = result.stdout.decode().splitlines()
    assert arguments == ["-c", "train", "caf\N{REPLACEMENT CHARACTER}.mid", "\u66f2"]
    assert "train 'caf\N{REPLACEMENT CHARACTER}.mid' '\u66f2'" in entrypoint


# --- Addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("ray://127.0.0.1:10001", "must be HOST:PORT of a cluster's head"),
        ("http://127.0.0.1:8265", "must be HOST:PORT of a cluster's head"),
        ("somewhere", "must be HOST:PORT of a Ray cluster"),
        ("auto", "must be HOST:PORT of a Ray cluster"),
        ("10.0.0.1:99999", "must be HOST:PORT of a Ray cluster"),
        ("nobody.invalid:6379", "no Ray cluster answers at nobody.invalid:6379"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_in_one_line(monkeypatch, address, words):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BadInput, match="RAY_ADDRESS") as refused:
        ray_session.cluster_address()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("of_whom", ["unreadable", "another user", "nobody"])
def test_another_users_ray_is_not_our_business(monkeypatch, tmp_path, of_whom):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file = tmp_path / "ray" / "ray_current_cluster"
    if of_whom != "nobody":
        file.parent.mkdir()
        file.write_text("127.0.0.1:9")
        if os.getuid():
            pytest.skip("takes root, to give a file away")
        os.chown(file, OTHER_USER, OTHER_USER)
        file.chmod(0o600 if of_whom == "unreadable" else 0o644)
    assert ray_session.cluster_address() is None


def test_the_own_ray_that_is_gone_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text("127.0.0.1:9\n")
    with pytest.raises(BadInput, match="run `ray stop`") as refused:
        ray_session.cluster_address()
    assert str(file) in str(refused.value)


# --- The end ----------------------------------------------------------------------------


def start_watchdog(folder):
    return subprocess.Popen(
        [sys.executable, watchdog.__file__, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture
def left_behind(tmp_path):
    """A folder, a process that belongs to it, and those that do not."""
    folder = tmp_path / "pianist-of-this-test"
    (folder / "session").mkdir(parents=True)
    sleeping = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    ours = subprocess.Popen(sleeping, env=os.environ | {"TMPDIR": str(folder)})
    other = subprocess.Popen(sleeping, env=os.environ | {"TMPDIR": str(tmp_path)})
    # Somebody who looks at it.
    looking = subprocess.Popen([*sleeping, str(folder / "session")], cwd=folder)
    yield folder, ours, (other, looking)
    for process in (ours, other, looking):
        process.kill()
        process.wait()


def test_the_watchdog_ends_what_a_killed_command_leaves(left_behind):
    folder, ours, others = left_behind
    dog = start_watchdog(folder)
    time.sleep(0.5)
    assert ours.poll() is None
    dog.stdin.close()
    assert ours.wait(timeout=10) == -9
    dog.wait(timeout=10)
    assert not folder.exists()
    assert all(other.poll() is None for other in others)


def test_the_watchdog_leaves_a_command_that_ends_in_good_order_alone(left_behind):
    folder, ours, _ = left_behind
    dog = start_watchdog(folder)
    dog.communicate(b"ended", timeout=10)
    assert dog.returncode == 0
    assert ours.poll() is None
    assert folder.exists()


def test_the_watchdog_leaves_other_users_alone(left_behind):
    if os.getuid():
        pytest.skip("takes root, to be another user")
    folder, ours, _ = left_behind
    theirs = subprocess.Popen(
        ["sleep", "600"], env=os.environ | {"TMPDIR": str(folder)}, user=OTHER_USER
    )
    try:
        assert [process.pid for process in watchdog.processes_of(folder)] == [ours.pid]
    finally:
        theirs.kill()
        theirs.wait()


@pytest.mark.parametrize(
    ("name", "age", "is_removed"),
    [
        ("pianist-ab12_xyz", 100, True),
        ("pianist-ab12_xyz", 10, False),
        ("pianist-home-0", 100, False),
        ("pianist-notes", 100, False),
    ],
)
def test_what_a_late_process_made_anew_is_removed_later(
    monkeypatch, tmp_path, name, age, is_removed
):
    monkeypatch.setattr(ray_session, "_short_folders", lambda: [tmp_path])
    folder = tmp_path / name
    (folder / "session_1" / "logs").mkdir(parents=True)
    made = time.time() - age
    os.utime(folder, (made, made))
    sleeping = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    user = subprocess.Popen(sleeping, env=os.environ | {"TMPDIR": str(folder)})
    try:
        ray_session._remove_abandoned()
        assert folder.exists()
    finally:
        user.kill()
        user.wait()
    ray_session._remove_abandoned()
    assert folder.exists() != is_removed


# The terminal is the one that the process is hung up by.
_WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def start_training(folder, name, **variables):
    where = folder / name
    where.mkdir()
    odd = where / os.fsdecode(b"caf\xe9.mid")
    shutil.copy(SCALE, odd)
    flags = [odd if flag == SCALE else flag for flag in FLAGS]
    for module in ("replay", "numpy", "jax", "queue", "random", "typing"):
        (where / f"{module}.py").write_text(f"raise RuntimeError('{module} of the folder')\n")
    reader, writer = os.openpty()
    more = ("--max-steps", 10**6, "--warmstart-steps", WARM_UP, "--preset", "few-cores")
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_TERMINAL, *command("train", *flags, "--name", "one", *more)],
        cwd=where,
        env=environment_variables(folder) | variables,
        stdin=writer,
        stdout=writer,
        stderr=writer,
        start_new_session=True,
    )
    os.close(writer)
    return process, reader, where / "runs" / "one"


def wait_until_it_trains(process, reader, run):
    begun, said = time.monotonic(), b""
    os.set_blocking(reader, False)
    status = run / "status.json"
    while time.monotonic() - begun < 240:
        with contextlib.suppress(BlockingIOError, OSError):
            said += os.read(reader, 10**5)
        assert process.poll() is None, said.decode()
        if status.is_file() and json.loads(status.read_text())["environment_steps"] > WARM_UP:
            return
        time.sleep(0.5)
    raise AssertionError("it did not start")


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_closed_terminal_saves_and_leaves_amid_proxies_and_odd_files(folder):
    """One real start in hostile surroundings, since each costs half a minute."""
    proxies = dict.fromkeys(PROXIES, DEAD)
    process, reader, run = start_training(folder, "closed", **proxies)
    wait_until_it_trains(process, reader, run)
    os.close(reader)
    assert process.wait(timeout=600) == 130
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert list((run / "checkpoints").glob("step_*"))
    assert not watchdog_finds(folder)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_nothing_outlives_a_killed_command(folder):
    process, reader, run = start_training(folder, "killed")
    wait_until_it_trains(process, reader, run)
    own = [one for one in pathlib.Path(folder).glob("pianist-*") if (one / "lock").exists()]
    assert len(own) == 1
    process.kill()
    process.wait()
    os.close(reader)
    begun = time.monotonic()
    while watchdog.processes_of(own[0]) or own[0].exists():
        assert time.monotonic() - begun < 10
        time.sleep(0.2)


def watchdog_finds(folder):
    """Processes of any Ray that had its files in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR", "").startswith(f"{folder}/pianist-"):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
