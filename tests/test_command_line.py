"""The front door: help, and what bad input gets."""

import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from runs_for_tests import assert_refused

import pianist
from cluster.config import TrainConfig
from cluster.presets import default_for

ROOT = pathlib.Path(__file__).parent.parent
SCALE = ROOT / "example_midis" / "five_finger_scale.mid"

# What users of robopianist-rl come with.
KNOWN_COMMAND = """
    --root-dir models/CrossingField10s --warmstart-steps 5000 --max-steps 5000000
    --discount 0.8 --agent-config.critic-dropout-rate 0.01 --agent-config.critic-layer-norm
    --agent-config.hidden-dims 256 256 256 --trim-silence --gravity-compensation
    --reduced-action-space --control-timestep 0.05 --n-steps-lookahead 10
    --midi-file example_midis/ode_to_joy.mid --action-reward-observation
    --primitive-fingertip-collisions --eval-episodes 1 --camera-id piano/back --tqdm-bar
    --eval-interval 30000
"""


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, str(ROOT / "pianist.py"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CI": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_answers_in_under_a_second():
    run("--help")  # Once, so that the disk is warm.
    started = time.monotonic()
    result = run("--help")
    assert time.monotonic() - started < 1.0
    assert result.returncode == 0
    for command in pianist.COMMANDS:
        assert command in result.stdout


@pytest.mark.parametrize("command", pianist.COMMANDS)
def test_help_of_a_command_shows_defaults_and_no_empty_texts(command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert "(default: " in result.stdout
    options = [line.strip("│ ") for line in result.stdout.splitlines()]
    for option, text in itertools.pairwise(options):
        if option.startswith("--") and "  " not in option:  # Its text is on the next line.
            assert text, f"{option} has no help"
            assert not text.startswith(("--", "(default")), f"{option} has no help"


def test_known_training_command_is_understood():
    from cluster.config import TrainConfig

    arguments = KNOWN_COMMAND.split()
    config = pianist.parse(TrainConfig, "train", arguments)
    assert config.song.midi_file == (pathlib.Path("example_midis/ode_to_joy.mid"),)
    assert config.song.trim_silence
    assert config.environment.action_reward_observation
    assert config.learner.agent_config.hidden_dims == (256, 256, 256)
    assert config.replay.warmstart_steps == 5000
    assert config.eval_interval == 30000
    underscores = [
        "--" + argument[2:].replace("-", "_") if argument.startswith("--") else argument
        for argument in arguments
    ]
    assert pianist.parse(TrainConfig, "train", underscores) == config


def test_settings_survive_their_file():
    from cluster.config import TrainConfig, from_json, to_json

    config = pianist.parse(
        TrainConfig,
        "train",
        ["--midi-file", "a.mid", "--max-minutes", "3", "--agent-config.target-entropy", "-5"],
    )
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config))), "a file") == config


@pytest.mark.parametrize(
    "damage",
    [
        {"seed": "x"},
        {"seed": True},
        {"nonsense": 1},
        {"environment": {"clip": 1}},
        {"environment": []},
        {"learner": {"agent_config": {"activation": "sine"}}},
        {"replay": {"batch_size": -1}},
    ],
)
def test_damaged_settings_are_refused(damage):
    from cluster.config import TrainConfig, from_json, to_json
    from replay.errors import BadInput

    with pytest.raises(BadInput):
        from_json(TrainConfig, to_json(TrainConfig()) | damage, "a file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tarin"], ["no command 'tarin'", "train"]),
        (["train", "--sead", "3"], ["--sead", "pianist train --help"]),
        (["train", "--seed", "x"], ["--seed"]),
        (["train", "--seed", "-1"], ["--seed is -1"]),
        (["train", "--max-steps", "100"], ["--max-steps is 100", "--warmstart-steps"]),
        (["train", "--update-to-data-ratio", "fast"], ["--update-to-data-ratio is fast"]),
        (["train", "--actors", "0"], ["--actors is 0"]),
        (["train", "--control-timestep", "0.012"], ["--control-timestep is 0.012"]),
        (["train", "--agent-config.tau", "2"], ["--agent-config.tau is 2"]),
        (["train", "--name", "../elsewhere"], ["--name is"]),
        (["train", "--midi-file", "missing.mid"], ["no MIDI file at missing.mid"]),
        (["train", "--midi-file", "empty.mid"], ["empty.mid is empty"]),
        (["train", "--midi-file", "text.mid"], ["text.mid is not a MIDI file"]),
        (["train", "--environment-name", "RoboPianist-x"], ["unknown --environment-name"]),
        (["train", "--midi-file", str(SCALE), "--camera-id", "roof"], ["--camera-id is roof"]),
        (["eval"], ["--load-checkpoint"]),
        (["eval", "--load-checkpoint", "missing"], ["no checkpoint at missing"]),
        (["eval", "--load-checkpoint", "."], ["no checkpoint at ."]),
        (["report", "missing"], ["no run at missing"]),
        (["status", "missing"], ["no run at missing"]),
    ],
)
def test_bad_input_gets_one_line_and_starts_nothing(
    front_door, monkeypatch, tmp_path, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mid").write_bytes(b"")
    (tmp_path / "text.mid").write_text("la la la")
    assert_refused(front_door(*arguments), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mid", "text.mid"]


def test_status_without_runs_says_what_to_do(tmp_path):
    result = run("status", cwd=tmp_path)
    assert result.returncode == 0
    assert "pianist train" in result.stdout
    assert json.loads(run("status", "--json", cwd=tmp_path).stdout) == {"runs": []}


# --- Presets ----------------------------------------------------------------------------


@pytest.mark.parametrize("written", [("--preset", "few-cores"), ("--preset=few-cores",)])
def test_a_preset_gives_what_is_not_given(written):
    config = default_for(["--batch-size", "32", *written])
    assert config.preset == "few-cores"
    assert config.replay.ratio is None
    parsed = pianist.parse(
        TrainConfig, "train", ["--batch-size", "32", *written], default_for(written)
    )
    assert parsed.replay.batch_size == 32
    assert parsed.actor == config.actor
    assert parsed.learner == config.learner


def test_many_actors_play_more_for_each_learner_step():
    config = default_for(["--preset", "many-actors"])
    assert config.preset == "many-actors"
    assert (config.replay.ratio, config.replay.batch_size) == (0.05, 256)
    assert config.learner == default_for(["--preset", "few-cores"]).learner
    assert config.learner.agent_config.actor_ema_tau < 1


def test_without_a_preset_all_is_as_users_of_robopianist_rl_know_it():
    config = default_for(["--batch-size", "32"])
    assert config == TrainConfig()
    assert (config.replay.ratio, config.replay.batch_size) == (1.0, 256)


def test_an_unknown_preset_is_refused_by_the_process_itself():
    result = run("train", "--preset", "fast")
    refused = (result.returncode, result.stdout, result.stderr)
    assert_refused(refused, "preset", "few-cores")
