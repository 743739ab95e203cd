"""Runs and collections kept at a URL; the file system behind it is a folder, by way of fsspec."""

import io
import pathlib
import sys
import time

import pytest
from fsspec.implementations.local import LocalFileSystem

from common import storage
from common.errors import BadInput
from common.storage import Location


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(storage._JOB_VARIABLE, raising=False)
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_UPLOADS", 0.05)


@pytest.fixture
def bucket(tmp_path):
    path = tmp_path / "bucket"
    path.mkdir()
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_folder_is_itself(tmp_path):
    location = Location.of(str(tmp_path))
    assert location.fetch() == tmp_path
    with (location / "run").uploaded():
        pass
    assert str(location / "run") == str(tmp_path / "run")


def test_in_a_submitted_job_a_relative_folder_is_below_the_home(monkeypatch):
    monkeypatch.setenv(storage._JOB_VARIABLE, "{}")
    assert Location.of("runs").path == pathlib.Path.home() / "runs"
    assert Location.of("/mnt/runs").path == pathlib.Path("/mnt/runs")


def test_what_is_written_is_at_the_url_soon_and_at_the_end(bucket):
    location = Location.of(f"file://{bucket}/") / "run"
    assert location.url == f"file://{bucket}/run"
    (location.path / "checkpoints").mkdir(parents=True)
    (location.path / "config.json").write_text("{}")
    with location.uploaded():
        assert contents(bucket) == {"run/config.json": "{}"}
        (location.path / "checkpoints" / "state").write_text("1")
        (location.path / ".state.partial").write_text("half")
        wait_until(lambda: "run/checkpoints/state" in contents(bucket))
        (location.path / "checkpoints" / "state").unlink()
        wait_until(lambda: "run/checkpoints/state" not in contents(bucket))
        (location.path / "logbook.jsonl").write_text("a\n")
    assert contents(bucket) == {"run/config.json": "{}", "run/logbook.jsonl": "a\n"}
    assert not (bucket / "run" / ".state.partial").exists()


def test_what_makes_a_folder_whole_comes_last(bucket, monkeypatch):
    order = []
    put = LocalFileSystem.put_file

    def note(self, local, remote, **more):
        order.append(pathlib.Path(remote).name)
        put(self, local, remote, **more)

    monkeypatch.setattr(LocalFileSystem, "put_file", note)
    location = Location.of(f"file://{bucket}")
    folder = location.path / "checkpoints" / "step_000000001"
    folder.mkdir(parents=True)
    for name in ("checkpoint.json", "training_state.safetensors"):
        (folder / name).write_text("x")
    (location.path / "status.json").write_text("{}")
    with location.uploaded():
        pass
    assert order.index("training_state.safetensors") < order.index("checkpoint.json")
    assert set(order) == {"training_state.safetensors", "checkpoint.json", "status.json"}


def test_only_what_has_changed_is_fetched(bucket):
    (bucket / "run").mkdir()
    (bucket / "run" / "config.json").write_text("{}")
    (bucket / "run" / "video.mp4").write_text("long")
    location = Location.of(f"file://{bucket}") / "run"
    folder = location.fetch("config.json")
    assert contents(folder) == {"config.json": "{}"}
    assert contents(location.fetch()) == {"config.json": "{}", "video.mp4": "long"}
    before = (folder / "video.mp4").stat().st_mtime_ns
    (bucket / "run" / "config.json").write_text("{ }")
    assert contents(location.fetch()) == {"config.json": "{ }", "video.mp4": "long"}
    assert (folder / "video.mp4").stat().st_mtime_ns == before


def test_what_was_fetched_is_not_uploaded_again(bucket):
    (bucket / "run").mkdir()
    (bucket / "run" / "video.mp4").write_text("long")
    before = (bucket / "run" / "video.mp4").stat().st_mtime_ns
    location = Location.of(f"file://{bucket}") / "run"
    location.fetch()
    with location.uploaded():
        (location.path / "report.html").write_text("new")
    assert contents(bucket) == {"run/video.mp4": "long", "run/report.html": "new"}
    assert (bucket / "run" / "video.mp4").stat().st_mtime_ns == before


def test_a_url_that_is_not_there_yet_is_empty(bucket):
    assert not list((Location.of(f"file://{bucket}") / "none").fetch().glob("*"))


def test_a_url_that_cannot_be_written_is_refused_before_anything_begins(tmp_path):
    (tmp_path / "file").write_text("no folder")
    location = Location.of(f"file://{tmp_path}/file/below")
    location.path.mkdir(parents=True)
    (location.path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="cannot be written"), location.uploaded():
        raise AssertionError


def test_a_url_that_goes_away_loses_nothing_and_is_tried_again(bucket, monkeypatch):
    # Not capsys: reading that while the thread writes can lose a line.
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    location = Location.of(f"file://{bucket}") / "run"
    location.path.mkdir(parents=True)
    with location.uploaded():
        bucket.rename(bucket.with_name("elsewhere"))
        bucket.write_text("no folder any more")
        (location.path / "logbook.jsonl").write_text("a\n")
        wait_until(lambda: "cannot be written" in said.getvalue())
        bucket.unlink()
        bucket.mkdir(exist_ok=True)  # The thread may have made it already.
        wait_until(lambda: contents(bucket) == {"run/logbook.jsonl": "a\n"})
    assert said.getvalue().count("everything is kept in") == 1  # Once is enough.


def test_what_could_not_be_uploaded_at_the_end_is_said_with_its_place(bucket):
    location = Location.of(f"file://{bucket}") / "run"
    location.path.mkdir(parents=True)
    upload = location.uploaded()
    upload.__enter__()
    bucket.rmdir()
    bucket.write_text("no folder any more")
    (location.path / "logbook.jsonl").write_text("a\n")
    with pytest.raises(BadInput, match=f"{location.path} has everything"):
        upload.__exit__(None, None, None)
    assert (location.path / "logbook.jsonl").read_text() == "a\n"


@pytest.mark.parametrize("url", ["nothing://x/y", "s3:"])
def test_a_url_that_nothing_can_read_is_refused(url):
    if "://" not in url:
        assert Location.of(url).url == ""
        return
    with pytest.raises(BadInput, match="cannot be used"):
        Location.of(url)


def test_a_place_is_found_by_folder_or_by_name_below_the_root(tmp_path):
    for name in ("chimes-1", "chimes-2", "ode"):
        (tmp_path / name / "checkpoints" / "step_1").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    root = str(tmp_path)
    for name in ("ode", str(tmp_path / "ode")):
        assert storage.find(name, root, "run", "config.json").path == tmp_path / "ode"
    within = storage.find("ode/checkpoints/step_1", root, "checkpoint")
    assert within.path == tmp_path / "ode" / "checkpoints" / "step_1"
    with pytest.raises(BadInput, match=r"no run at chime, nor chime in .*chimes-[12], chimes-"):
        storage.find("chime", root, "run", "config.json")
