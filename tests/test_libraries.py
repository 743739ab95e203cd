"""Settings of libraries that do not suit them, and libraries that do not work: one line each."""

import builtins
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import imageio_ffmpeg
import pytest
from runs_for_tests import assert_refused, command

from common import host
from common.errors import BadInput
from common.storage import Location
from piano import graphics, recording
from piano.config import SongConfig
from piano.song import load_songs
from training import run
from training.config import WandbConfig

EXAMPLE = pathlib.Path(__file__).parent.parent / "example_checkpoints" / "twinkle"


@pytest.fixture(autouse=True)
def clean():
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(("JAX_", "XLA_", "MUJOCO_", "IMAGE"))]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MUJOCO_GL", "bogus", "MUJOCO_GL (bogus) is none of egl, osmesa, glfw"),
        ("MUJOCO_GL", "glx", "MUJOCO_GL (glx) is none of"),  # Which dm_control does not know.
        *(
            ("IMAGEIO_FFMPEG_EXE", program, f"IMAGEIO_FFMPEG_EXE ({program}) is no ffmpeg")
            for program in ("/nonexistent", "/bin/false", "/bin/true", "/bin", "sh")
        ),
    ],
)
def test_a_setting_that_a_library_stops_at_is_left_out_and_said(capsys, name, value, words):
    os.environ[name] = value
    host.prepare()
    assert name not in os.environ
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("value", ["egl", "osmesa", "glfw", "disable", "off"])
def test_what_suits_a_library_stays(capsys, value):
    os.environ["MUJOCO_GL"] = value
    host.prepare()
    assert os.environ["MUJOCO_GL"] == value
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"), [("XLA_FLAGS", "--xla_no_such_flag=1"), ("JAX_ENABLE_X64", "maybe")]
)
def test_settings_that_jax_does_not_start_with_are_refused(run_cli, name, value):
    os.environ[name] = value
    assert_refused(run_cli("train"), f"JAX does not start with {name} as set")


def test_settings_with_which_jax_takes_too_long_are_refused(monkeypatch):
    os.environ["XLA_FLAGS"] = "--xla_cpu_enable_fast_math=false"
    monkeypatch.setattr(host, "_JAX_SECONDS", 0.05)
    with pytest.raises(BadInput, match="JAX does not start with XLA_FLAGS as set: it takes more"):
        host.require_jax()


def test_an_ffmpeg_that_works_is_used(capsys):
    own = imageio_ffmpeg.get_ffmpeg_exe()
    os.environ["IMAGEIO_FFMPEG_EXE"] = own
    host.prepare()
    assert os.environ["IMAGEIO_FFMPEG_EXE"] == own
    assert capsys.readouterr().err == ""


def test_settings_that_jax_starts_with_are_left_alone():
    os.environ["XLA_FLAGS"] = "--xla_cpu_enable_fast_math=false"
    host.require_jax()
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["eval", "--help"],
        ["status"],
        ["scale", "--help"],
        ["doctor", "--help"],
        ["report", "twinkle"],
    ],
)
def test_settings_of_jax_are_not_tried_where_nothing_is_computed(tmp_path, arguments):
    shutil.copytree(EXAMPLE, tmp_path / "runs" / "twinkle")
    result = subprocess.run(
        command(*arguments),
        cwd=tmp_path,
        env=os.environ | {"JAX_ENABLE_X64": "maybe", "XLA_FLAGS": "--xla_no_such_flag=1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("variables", "settled"),
    [
        ({}, "egl"),
        ({"DISPLAY": ":98765"}, "egl"),
        ({"DISPLAY": ":98765", "MUJOCO_GL": "glfw"}, "disable"),
        ({"MUJOCO_GL": "off"}, "off"),
    ],
)
def test_a_display_that_is_gone_is_not_used(variables, settled):
    code = "import os, piano; print(os.environ['MUJOCO_GL']); import mujoco"
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={name: value for name, value in os.environ.items() if name != "DISPLAY"} | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    expected = settled if graphics._loads("egl") or settled != "egl" else "disable"
    assert result.stdout.strip() == expected
    assert "GLFW" not in result.stderr


def test_a_video_is_made_without_running_python_in_a_fork(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "runs" / "twinkle")
    result = subprocess.run(
        command("eval", "--load-checkpoint", "runs/twinkle"),
        cwd=tmp_path,
        env=os.environ | {"DISPLAY": ":98765"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert "playing Twinkle Twinkle" in result.stderr
    assert "Warning" not in result.stderr
    assert "GLFW" not in result.stderr


@pytest.mark.parametrize("error", [OSError("invalid ELF header"), AttributeError("undefined")])
def test_a_damaged_fluidsynth_is_said_in_one_line(monkeypatch, error):
    imported = builtins.__import__

    def import_(name, *more):
        if name == "fluidsynth":
            raise error
        return imported(name, *more)

    monkeypatch.setattr(builtins, "__import__", import_)
    (line,) = [line for line in recording.what_is_missing() if "sound" in line]
    assert line.startswith(f"no sound: FluidSynth does not work here ({error})")


@pytest.mark.parametrize("name", ["FrenchSuiteNo1Allemande", "PianoSonataD8451StMov"])
def test_a_piece_whose_data_is_not_there_is_refused_in_one_line(name):
    from robopianist import suite

    full = next((one for one in suite.ALL if name in one), None)
    if full is None:
        pytest.skip(f"robopianist has no {name}")
    with pytest.raises(BadInput, match="needs the PIG data set") as refused:
        load_songs(dataclasses.replace(SongConfig(), environment_name=full))
    assert "RoboPianist-debug-TwinkleTwinkleRousseau-v0" in str(refused.value)


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


_REQUIRE = """
import sys
from training import run
from training.config import WandbConfig
from common.errors import BadInput
from common.storage import Location
try:
    run.require_usable(Location.of(sys.argv[1]), WandbConfig(sys.argv[2], project="hands"))
except BadInput as error:
    print(error)
"""


def said_of_weights_and_biases(folder, mode):
    """In a process of its own, since wandb reads its settings once."""
    return subprocess.run(
        [sys.executable, "-c", _REQUIRE, str(folder), mode],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.usefixtures("no_key")
def test_weights_and_biases_without_a_key_is_refused_before_anything_is_made(tmp_path):
    said = said_of_weights_and_biases(tmp_path, "online")
    assert said.startswith("--mode online needs a key of Weights & Biases")


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("name", "value", "mode", "words"),
    [
        ("WANDB_MODE", "bogus", "offline", "cannot use WANDB_MODE: Input should be"),
        ("WANDB_BASE_URL", "nonsense", "offline", "cannot use WANDB_BASE_URL: Input should be"),
        ("WANDB_SILENT", "maybe", "online", "cannot use WANDB_SILENT: Input should be"),
        ("WANDB_API_KEY", "short", "online", "API key must have 40+ characters, has 5"),
        ("WANDB_DIR", "/proc/wandb", "offline", "/proc/wandb cannot be written"),
    ],
)
def test_settings_that_weights_and_biases_stops_at_are_refused(
    monkeypatch, tmp_path, name, value, mode, words
):
    monkeypatch.setenv(name, value)
    said = said_of_weights_and_biases(tmp_path, mode)
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("no_key")
def test_settings_of_weights_and_biases_count_only_where_it_is_used(monkeypatch, tmp_path):
    location = Location.of(str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "short")
    run.require_usable(location, WandbConfig("offline"))  # It needs no key.
    monkeypatch.setenv("WANDB_MODE", "bogus")
    run.require_usable(location, WandbConfig("disabled"))
    with pytest.raises(BadInput, match="WANDB_MODE"):
        run.require_usable(location, WandbConfig("offline"))
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(BadInput, match=r"cannot use --project: .*cannot contain"):
        run.require_usable(location, WandbConfig("offline", project="a/b"))
    with pytest.raises(BadInput, match="which is not UTF-8"):
        run.require_usable(Location.of(os.fsdecode(b"caf\xe9")), WandbConfig("offline"))
    assert list(tmp_path.iterdir()) == []
