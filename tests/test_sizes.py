"""What a run takes, and that too much is refused before anything is made."""

import dataclasses
import types
from typing import Any

import jax
import pytest
from runs_for_tests import FLAGS, assert_refused

from common.errors import BadInput
from learner import sac
from learner.config import LearnerConfig, SACConfig
from learner.observation import ObservationLayout
from replay.config import ReplayConfig
from training import sizes
from training.config import TrainConfig

pytestmark = pytest.mark.run

# Of Twinkle, with which a transition takes 872 bytes.
PIANO: Any = types.SimpleNamespace(layout=ObservationLayout(100, 989, 75), action_dim=39)


def settings(replay: ReplayConfig | None = None, **agent: Any) -> TrainConfig:
    return dataclasses.replace(
        TrainConfig(),
        max_steps=10**9,
        replay=replay or ReplayConfig(),
        learner=LearnerConfig(agent_config=SACConfig(**agent)),
    )


@pytest.mark.parametrize(
    "agent",
    [
        {},
        {"hidden_dims": (7,), "num_qs": 3, "critic_layer_norm": False},
        {"hidden_dims": (8, 5), "actor_ema_tau": 0.1},
    ],
)
def test_the_size_of_a_training_state_is_known_without_making_it(agent):
    config = LearnerConfig(agent_config=SACConfig(**agent))
    state = jax.eval_shape(lambda: sac.initial_state(config, 30, 4, seed=0))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert 0 <= size - sac.state_bytes(config, 30, 4) < 100


def test_what_people_use_has_room():
    for replay in ("memory", "reverb"):
        config = dataclasses.replace(settings(ReplayConfig(replay=replay)), max_steps=10**6)
        assert sum(sizes.needed(config, PIANO).values()) < 3.5e9


@pytest.mark.parametrize(
    ("config", "flag"),
    [
        (settings(ReplayConfig(replay="memory", replay_capacity=10**9)), "--replay-capacity"),
        (settings(ReplayConfig(replay="reverb", replay_capacity=10**9)), "--replay-capacity"),
        (settings(ReplayConfig(batch_size=10**6)), "--batch-size"),
    ],
)
def test_a_run_larger_than_the_machine_is_refused(monkeypatch, config, flag):
    monkeypatch.setattr(sizes.memory, "free", lambda: (8e9, 16e9))
    words = rf"the run takes [\d.e+]+ GB of memory, and this machine has 16 GB: lower {flag}, for"
    with pytest.raises(BadInput, match=words):
        sizes.require_room(config, PIANO, on_cluster=False)
    sizes.require_room(config, PIANO, on_cluster=True)


def test_a_network_whose_checkpoints_could_not_be_read_is_refused():
    config = settings(hidden_dims=(65_536, 65_536))
    with pytest.raises(BadInput, match=r"--agent-config.hidden-dims .* takes 1\d\d GB"):
        sizes.require_room(config, PIANO, on_cluster=True)


def test_it_is_refused_before_anything_is_made(run_cli, folder, monkeypatch):
    def free():
        return 0.0, 0.5e9

    monkeypatch.setattr(sizes.memory, "free", free)
    names = [path.name for path in folder.iterdir()]
    refused = run_cli("train", *FLAGS, "--replay-capacity", 1_000_000, "--root-dir", "sizes")
    assert_refused(refused, "0.5 GB: lower --replay-capacity", "0.89 GB are needed")
    assert [path.name for path in folder.iterdir()] == names
