"""`pianist submit`: what is refused before anything is sent, and real jobs of a real cluster."""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import pytest
from ray_cluster_for_tests import RayCluster, forwarder
from runs_for_tests import FLAGS, SCALE, assert_refused, command, wait_until_nothing_is_left

from cluster import package, submit
from common import time_limit

pytestmark = pytest.mark.run

# What the cluster's machines have as `pianist`: jobs named so say something and end quickly, all
# others are the real command's.
PIANIST = f"""#!/bin/sh
case "$*" in
  *"--name counting"*)
    echo "MUJOCO_GL=$MUJOCO_GL WANDB_PROJECT=$WANDB_PROJECT in $PWD: $*"
    for i in $(seq 1 "${{COUNT:-24}}"); do echo "line $i."; sleep 0.25; done;;
  *"--name failing"*) echo "it cannot be done" >&2; exit 3;;
  *"--name stubborn"*)
    trap 'echo "saving"; sleep 6; echo "saved"; exit 130' TERM
    echo "working"; while true; do sleep 0.2; done;;
  *) exec "{sys.executable}" "{pathlib.Path(submit.__file__).parent.parent}/pianist.py" "$@";;
esac
"""


@pytest.fixture(scope="module")
def cluster():
    shared_memory = set(os.listdir("/dev/shm"))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="p-"))
    (folder / "bin").mkdir()
    (folder / "bin" / "pianist").write_text(PIANIST)
    (folder / "bin" / "pianist").chmod(0o755)
    cluster = RayCluster(folder)
    cluster.variables["PATH"] = f"{folder / 'bin'}{os.pathsep}{cluster.variables['PATH']}"
    try:
        cluster.start_head()
        yield cluster
        cluster.stop()
        wait_until_nothing_is_left(folder)
    finally:
        cluster.stop()
        shutil.rmtree(folder)
    assert set(os.listdir("/dev/shm")) <= shared_memory


def working_directory(path):
    """A song and other things that are to be sent or not."""
    shutil.copy(SCALE, path / "scale.mid")
    for name in ("notes.txt", "runs/old/config.json", "models/big", "video.mp4", "kept/out.mid"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * 1000)
    shutil.copy(SCALE, path / "secret.mid")
    (path / ".gitignore").write_text("secret.*\n")
    (path / "kept" / ".rayignore").write_text("out.mid\n")
    return path


@pytest.fixture
def work(tmp_path):
    return working_directory(tmp_path)


def small(name, song="scale.mid"):
    flags = ["--midi-file", song, *map(str, FLAGS[2:])]
    return ["train", *flags, *(["--name", name] if name else [])]


# --- Refused here -----------------------------------------------------------------------


@pytest.fixture
def recorder(monkeypatch):
    """The address of a server that notes what it is asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(500, "not a cluster")

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_arguments):
            pass

    asked: list[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        yield asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["{train,segments,cpl}", "pianist submit --help"]),
        (["tarin"], ["tarin", "train"]),
        (["--no-wait", "train", "--sead", "3"], ["--sead", "pianist train --help"]),
        (["train", "--actors", "0"], ["--actors is 0"]),
        (["train", "--midi-file", "missing.mid"], ["no MIDI file at missing.mid"]),
        (["train", "--midi-file", "notes.txt"], ["notes.txt is not a MIDI file"]),
        (["train", "--midi-file", "../outside.mid"], ["../outside.mid lies outside"]),
        (["train", "--midi-file", "secret.mid"], ["secret.mid would not be sent", ".gitignore"]),
        (["train", "--environment-name", "RoboPianist-x"], ["unknown --environment-name"]),
        (["train", "--env-vars", "PIANIST_NONE"], ["--env-vars: PIANIST_NONE is not set here"]),
        (["train", "--address"], ["--address"]),
        (["segments"], ["Run whose checkpoints play", "pianist segments --help"]),
        (["segments", "some", "--noise", "9"], ["--noise is (9.0,)"]),
        (["cpl", "some"], ["--load-checkpoint"]),
        (["cpl", "--load-checkpoint", "it"], ["COLLECTION is missing"]),
        (["cpl", "some", "--load-checkpoint", "it", "--name", "../up"], ["--name is"]),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_sent(
    run_cli, recorder, work, monkeypatch, arguments, words
):
    shutil.copy(SCALE, work.parent / "outside.mid")
    monkeypatch.chdir(work)
    assert_refused(run_cli("submit", *arguments), *words)
    assert recorder == []


def test_what_can_be_done_is_sent(run_cli, recorder, work, monkeypatch):
    monkeypatch.chdir(work)
    assert_refused(run_cli("submit", *small("it")), "no Ray cluster answers", "500")
    assert recorder


def test_a_working_directory_that_is_too_large_is_refused(run_cli, recorder, work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setattr(package, "_MOST_BYTES", 100_000)
    (work / "data.bin").write_bytes(bytes(200_000))
    assert_refused(run_cli("submit", *small("it")), "too large", ".rayignore", "data.bin")
    assert recorder == []
    (work / ".rayignore").write_text("*.bin\n")
    assert_refused(run_cli("submit", *small("it")), "no Ray cluster answers")
    (work / ".rayignore").write_text("!\n")
    assert_refused(run_cli("submit", *small("it")), ".rayignore cannot be used", "'!'")


def test_what_is_ignored_is_not_packed(work, tmp_path_factory):
    (work / "notes.txt").chmod(0o755)
    (work / "deep" / "er").mkdir(parents=True)
    (work / "deep" / "er" / "kept.bin").touch()
    (work / "deep" / "er" / "left.bin").touch()
    (work / "deep" / ".gitignore").write_text("*.bin\n!kept.bin\n")
    file = tmp_path_factory.mktemp("package") / "it.zip"
    (work / "loop").symlink_to(work)
    said = package.pack(work, ["*.mp4", "/runs/", "/models/"], ["scale.mid"], file)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        mode = archive.getinfo("notes.txt").external_attr >> 16
    assert sorted(names) == sorted(
        [
            *(".gitignore", "deep/.gitignore", "deep/er/kept.bin", "kept/.rayignore"),
            *("notes.txt", "scale.mid"),
        ]
    )
    assert mode & 0o777 == 0o755
    assert said.startswith("6 files (0.0 MB")


def test_without_a_cluster_there_is_a_word_what_to_do(run_cli, work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(work))  # Where Ray notes the cluster of this machine.
    monkeypatch.setattr("tempfile.tempdir", None)  # What it was before is remembered there.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    words = ("no cluster to submit to", "run `pianist train` itself", "--address")
    assert_refused(run_cli("submit", *small("it")), *words)


def test_options_of_submit_may_stand_anywhere():
    split = submit._split(["--no-wait", "train", "--address=a", "--seed", "3", "--env_vars", "X"])
    assert split == (["--no-wait", "--address=a", "--env_vars", "X"], ["train", "--seed", "3"])
    assert submit._split(["train", "--help"]) == ([], ["train", "--help"])
    assert submit._split(["--help", "train"])[0] == ["--help"]


# --- The network ------------------------------------------------------------------------


def test_an_address_where_nothing_listens_is_refused(run_cli, work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = f"no Ray cluster answers at {address}: ", "refused"
    assert_refused(run_cli("submit", "--address", address, *small("it")), *words)


def test_a_server_that_never_answers_is_given_up_in_time(run_cli, work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(submit, "_CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://someone:password@127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        result = run_cli("submit", "--address", address, *small("it"))
    assert time.monotonic() - started < 30
    assert_refused(result, "no Ray cluster answers at http://127.0.0.1", "within 2 s")
    assert "password" not in result[2]


def test_an_address_that_is_none_is_refused(run_cli):
    result = run_cli("submit", "--address", "http://[::1:8265", *small("it"))
    assert_refused(result, "--address is 'http://[::1:8265', no address of a cluster")


def test_the_cluster_is_reached_without_a_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "own.example")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other.example")
    submit._given_address(submit.SubmitConfig("train", address="http://head.example:8265"))
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name] == "own.example,head.example"


def test_within_gives_what_is_in_time_and_raises_what_is_raised():
    assert time_limit.call_with_timeout(5, int, "3") == 3
    with pytest.raises(ValueError, match="x"):
        time_limit.call_with_timeout(5, int, "x")
    with pytest.raises(TimeoutError):
        time_limit.call_with_timeout(0.1, time.sleep, 1)


# --- Real jobs --------------------------------------------------------------------------


def submitted(cluster, work, *arguments, **variables):
    """Exit code, answer and what was said."""
    result = cluster.run("submit", *arguments, "--json", cwd=work, **variables)
    return result.returncode, json.loads(result.stdout or "null"), result.stderr


def wait_for(cluster, submission_id, *statuses, seconds=60):
    deadline = time.monotonic() + seconds
    while (job := cluster.get(f"/api/jobs/{submission_id}"))["status"] not in statuses:
        assert time.monotonic() < deadline, job
        time.sleep(0.3)
    return job


@pytest.fixture(scope="module")
def followed(cluster, tmp_path_factory):
    """A training was submitted and followed to its end: answer, and what was said."""
    work = working_directory(tmp_path_factory.mktemp("work"))
    exit_code, answer, said = submitted(
        cluster,
        work,
        *("--env-vars", "COUNT,ONE_MORE", *small("counting", work / "scale.mid")),
        *("--root-dir", "models", "--mode", "online"),
        COUNT="12",
        ONE_MORE="2",
        MUJOCO_GL="glfw",
        WANDB_API_KEY="confidential",
        WANDB_PROJECT="hands",
        XLA_FLAGS="--xla_cpu_multi_thread_eigen=true",
        AWS_SECRET_ACCESS_KEY="confidential",
    )
    assert exit_code == 0, said
    return answer, said


@pytest.mark.clusters
def test_a_training_is_submitted_and_followed_to_its_end(cluster, followed):
    answer, said = followed
    assert answer == {
        "name": "counting",
        "submission_id": "counting",
        "status": "SUCCEEDED",
        "dashboard": f"{cluster.dashboard}/#/jobs/counting",
        "exit_code": 0,
    }
    # The name comes at once, the logs as they are written.
    said_at = [said.index(part) for part in ("run counting: job counting", "line 1.", "line 12.")]
    assert said_at == sorted(said_at)
    job = cluster.get("/api/jobs/counting")
    assert f"--midi-file scale.mid {FLAGS[2]}" in job["entrypoint"]
    (package,) = cluster.folder.glob("ray/session_latest/runtime_resources/working_dir_files/*/")
    sent = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    assert sent == {"scale.mid", "notes.txt", ".gitignore", "kept/.rayignore"}


@pytest.mark.clusters
def test_variables_that_matter_are_passed_on_and_hidden_from_browsers(cluster, followed):
    answer, said = followed
    assert "MUJOCO_GL=glfw WANDB_PROJECT=hands in " in said
    path = f"/api/jobs/{answer['submission_id']}"
    assert cluster.get(path)["runtime_env"]["env_vars"] == {
        "COUNT": "12",
        "MUJOCO_GL": "glfw",
        "ONE_MORE": "2",
        "RAY_JOB_STOP_WAIT_TIME_S": "300",
        "WANDB_API_KEY": "confidential",
        "WANDB_PROJECT": "hands",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true",
    }
    shown = cluster.get(path, **{"User-Agent": "Mozilla/5.0"})["runtime_env"]["env_vars"]
    assert set(shown.values()) == {"<redacted>"}


@pytest.mark.clusters
def test_a_run_without_a_name_gets_one_and_is_left_alone_when_told(cluster, work):
    exit_code, answer, said = submitted(
        cluster,
        work,
        *("cpl", "none", "--load-checkpoint", "none", "--seed", "7", "--no-wait"),
        WANDB_API_KEY="confidential",
        SOMETHING_ELSE="confidential",
    )
    assert exit_code == 0, said
    # It is offline, and the other was not asked for.
    assert "confidential" not in json.dumps(cluster.get(f"/api/jobs/{answer['submission_id']}"))
    assert answer["name"].startswith("CPL-7-20")
    assert answer["submission_id"] == answer["name"]
    assert answer["status"] == "PENDING"
    assert f"ray job logs --follow {answer['name']}" in said
    job = wait_for(cluster, answer["name"], "FAILED")
    assert job["entrypoint"].endswith(f"--name {answer['name']}")


@pytest.mark.clusters
def test_a_job_that_fails_gives_exit_code_1_and_its_name_can_be_used_again(cluster, work):
    for submission_id in ("failing", "failing-2"):
        exit_code, answer, said = submitted(cluster, work, *small("failing"))
        assert exit_code == 1, said
        assert answer["exit_code"] == 1
        assert (answer["status"], answer["submission_id"]) == ("FAILED", submission_id)
        assert "it cannot be done" in said
        assert "failed with exit code 3" in said


@pytest.mark.clusters
def test_segments_are_submitted_under_the_name_of_their_run(cluster, work):
    exit_code, answer, said = submitted(cluster, work, "segments", "runs/nowhere")
    assert exit_code == 1
    assert answer["name"] == "nowhere"
    assert answer["submission_id"].startswith("nowhere-segments-20")
    assert "no run at runs/nowhere" in said


@pytest.mark.clusters
def test_ctrl_c_stops_following_and_not_the_job(cluster, work):
    arguments = ("submit", *small("stubborn"), "--json")
    with subprocess.Popen(
        command(*arguments),
        cwd=work,
        env=cluster.client_variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == "working\n":
                break
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    answer = json.loads(output)
    assert (answer["status"], answer["exit_code"]) == ("RUNNING", 130)
    address = f"--address {cluster.dashboard}"
    assert f"ray job logs --follow stubborn {address}" in errors
    assert f"ray job stop stubborn {address}" in errors
    assert "Traceback" not in errors
    assert cluster.get("/api/jobs/stubborn")["status"] == "RUNNING"

    again = cluster.run("submit", *small("stubborn"), cwd=work)
    result = again.returncode, again.stdout, again.stderr
    assert_refused(result, "the job stubborn runs already", "choose another --name")

    # Ray's default would kill it after three seconds.
    cluster.ray("job", "stop", "stubborn", "--address", cluster.dashboard)
    assert cluster.get("/api/jobs/stubborn")["status"] == "STOPPED"
    assert "saving\nsaved\n" in cluster.get("/api/jobs/stubborn/logs")["logs"]


@pytest.mark.clusters
def test_a_job_that_is_stopped_gives_exit_code_130(cluster, work):
    def works():
        with contextlib.suppress(OSError):  # It may not be there yet.
            return "working\n" in cluster.get("/api/jobs/stubborn-again/logs")["logs"]
        return False

    def stop():
        deadline = time.monotonic() + 500
        while not works() and time.monotonic() < deadline:
            time.sleep(0.3)
        cluster.ray("job", "stop", "stubborn-again", "--no-wait")

    thread = threading.Thread(target=stop)
    thread.start()
    exit_code, answer, said = submitted(cluster, work, *small("stubborn-again"))
    thread.join()
    assert exit_code == 130, said
    assert (answer["submission_id"], answer["status"]) == ("stubborn-again", "STOPPED")
    assert "saved" in said


def impatient(*arguments):
    """`pianist`, but it gives a cluster that is silent up after few seconds."""
    code = (
        "import sys; from cluster import submit; import pianist;"
        "submit._AWAY_SECONDS, submit._SECONDS_BETWEEN_LOOKS, submit._ANSWER_SECONDS = 6, 1, 3;"
        "sys.argv[0] = 'pianist'; sys.exit(pianist.main())"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.clusters
@pytest.mark.parametrize("away_for", [3, 1000])
def test_a_network_that_goes_away_is_waited_for_but_not_for_ever(cluster, work, away_for):
    with forwarder(cluster.dashboard) as line:
        variables = cluster.client_variables() | {"RAY_API_SERVER_ADDRESS": line.address}
        with subprocess.Popen(
            impatient("submit", *small(f"counting-{away_for}"), "--json"),
            cwd=work,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            said = []
            assert process.stderr is not None
            for text in process.stderr:
                said.append(text)
                if text == "line 3.\n":
                    break
            line.cut()
            if away_for < 100:
                time.sleep(away_for)
                line.repair()
            # Not `communicate`, which would forget what has been read ahead.
            said += process.stderr.readlines()
            output, errors = process.communicate(timeout=600)[0], "".join(said)
    lines = [text.strip() for text in said if text.startswith("line ")]
    if away_for < 100:
        assert process.returncode == 0, errors
        assert lines == [f"line {number}." for number in range(1, 25)]
        return
    assert_refused(
        (process.returncode, output, "".join(said)), "has not answered for", "goes on", "--follow"
    )
    assert lines == [f"line {number}." for number in range(1, len(lines) + 1)]
    wait_for(cluster, f"counting-{away_for}", "SUCCEEDED")


@pytest.mark.clusters
def test_a_token_that_is_not_given_is_asked_for(cluster, work):
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    result = cluster.run("submit", *small("it"), cwd=work, **variables)
    words = "refuses this machine's token", "RAY_AUTH_MODE=token"
    assert_refused((result.returncode, result.stdout, result.stderr), *words)


@pytest.mark.clusters
def test_the_cluster_of_this_machine_is_found_with_its_token(cluster, work):
    (cluster.folder / ".ray").mkdir(exist_ok=True)
    (cluster.folder / ".ray" / "auth_token").write_text(cluster.token)
    variables = cluster.client_variables()
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        del variables[name]
    result = subprocess.run(
        command("submit", *small("counting-here"), "--no-wait", "--json"),
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    wait_for(cluster, "counting-here", "SUCCEEDED")
