"""Imports run downwards only, and the CLI stays light."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

from common.project import PACKAGES

ROOT = pathlib.Path(__file__).parent.parent
CLI = "pianist"
# Of an environment that `make peers` makes.
PEERS = {"gymnasium", "sbx"}
# Not installed with every Python.
ABSENT = {"reverb", "tensorflow"}
# MuJoCo looks for OpenGL when it is first imported, and `piano` has to settle before which.
_SIMULATION = {"robopianist", "mujoco", "dm_control"}
FOREIGN = {
    "common": _SIMULATION | {"jax", "flax"},
    "replay": _SIMULATION | {"jax", "flax"},
    "learner": _SIMULATION,
    "piano": {"ray"},
    **dict.fromkeys(("actors", "training", "rlhf", "report", "cluster"), _SIMULATION),
}
MODULES = sorted(
    path
    for name in (*PACKAGES, CLI)
    for path in [ROOT / f"{name}.py", *(ROOT / name).rglob("*.py")]
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
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    imported = set(imported_packages(path))
    order = (*PACKAGES, CLI)
    upwards = imported & set(order[order.index(package) + 1 :])
    assert not upwards, f"{package} must not know {upwards}"
    assert not imported & FOREIGN.get(package, set())


def test_the_packages_are_named_alike_everywhere():
    installed = re.findall(r'"([a-z]+)\*"', (ROOT / "pyproject.toml").read_text())
    there = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert set(installed) == there == set(PACKAGES)


def test_what_lies_beside_the_modules_is_installed():
    section = (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools.package-data]")[2]
    installed = {
        file
        for package, patterns in re.findall(r'"([\w.]+)" = \[(.*)\]', section.partition("\n[")[0])
        for pattern in re.findall(r'"(.*?)"', patterns)
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    beside = {path.parent for path in MODULES} - {ROOT}
    there = {
        file
        for folder in beside
        for kind in ("html", "css", "js")
        for file in folder.glob(f"*.{kind}")
    }
    assert installed == there != set()


def test_what_is_imported_is_declared():
    declared = {
        re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")
        for requirement in importlib.metadata.requires("robot-pianist") or ()
    }
    brought_by = importlib.metadata.packages_distributions()
    for path in MODULES:
        for package in set(imported_packages(path)) - set(PACKAGES) - PEERS:
            if package not in sys.stdlib_module_names and package != CLI:
                names = {name.lower().replace("_", "-") for name in brought_by.get(package, [])}
                assert names & declared or package in ABSENT, f"{path}: {package}"


def test_the_cli_imports_nothing_heavy():
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
except TypeError:  # The synthesizer is none; what matters is that it was asked.
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
