"""Imports run downwards only, and the front door stays light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each may import those after it: jobs, those of rlhf too, are the cluster's.
ALLOWED = {
    "pianist": {"benchmarks", "cluster", "rlhf", "actors", "learner", "replay"},
    "benchmarks": {"cluster", "rlhf", "actors", "learner", "replay"},
    "cluster": {"rlhf", "actors", "learner", "replay"},
    "rlhf": {"actors", "learner", "replay"},
    "actors": {"learner", "replay"},
    "learner": {"replay"},
    "replay": set(),
}
# MuJoCo looks for OpenGL when it is first imported, and `actors` has to settle before which.
FOREIGN = {
    "cluster": {"robopianist", "mujoco", "dm_control"},
    "rlhf": {"robopianist", "mujoco", "dm_control"},
    "replay": {"robopianist", "mujoco", "dm_control", "jax", "flax"},
    "learner": {"robopianist", "mujoco", "dm_control"},
}
MODULES = sorted(
    path
    for room in ALLOWED
    for path in [ROOT / f"{room}.py", *(ROOT / room).rglob("*.py")]
    # `make peers` keeps an environment of its own in there.
    if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    imported = set(imported_packages(path))
    upwards = (imported & set(ALLOWED)) - ALLOWED[room] - {room}
    assert not upwards, f"{room} must not know {upwards}"
    assert not imported & FOREIGN.get(room, set())


def test_the_front_door_imports_nothing_heavy():
    code = "import sys, pianist; print([m for m in ('jax', 'ray', 'mujoco') if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert output.stdout.strip() == "[]", output.stderr


def test_what_is_hardly_ever_used_is_imported_when_it_is_called():
    code = """
import sys
from actors import actor
import dm_env_wrappers
import note_seq
print("without", "bokeh" in sys.modules, "scipy.signal" in sys.modules)
try:
    note_seq.play_sequence(note_seq.NoteSequence(), synth=print)
except TypeError:  # The synthesiser is none; what matters is that it was asked.
    pass
print("with", "bokeh" in sys.modules, sys.modules["note_seq.notebook_utils"].__file__)
try:
    dm_env_wrappers.ActionSmootherWrapper()
except TypeError as error:  # It was asked, too.
    print("with", error)
"""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    # pyfluidsynth, too, prints something where CI is set.
    lines = [line for line in output.stdout.splitlines() if line.startswith("with")]
    assert lines[0] == "without False False", output.stderr
    assert lines[1].startswith("with True "), output.stderr
    assert lines[1].endswith("notebook_utils.py")
    assert "ActionSmootherWrapper.__init__() missing" in lines[2]
