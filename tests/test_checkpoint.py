"""Checkpoints: whole, readable without anything else, and refused when damaged."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig
from replay.errors import BadInput
from replay.files import PackedFolder

CONFIG = LearnerConfig(agent_config=SACConfig(hidden_dims=(8,)))


def make_state(config=CONFIG, seed=0, step=12):
    return sac.initial_state(config, 5, 3, seed)._replace(step=jax.numpy.int32(step))


def test_state_comes_back_to_the_bit(tmp_path):
    state = make_state(seed=1)
    folder = checkpoint.pack(state, {"song": "x"}).write(tmp_path)
    assert folder.name == "step_000000012"
    loaded = checkpoint.load_state(PackedFolder.pack(folder), make_state(seed=2))
    for saved, read in zip(jax.tree.leaves(state), jax.tree.leaves(loaded), strict=True):
        assert saved.dtype == read.dtype
        np.testing.assert_array_equal(saved, read)
    assert jax.tree.structure(state) == jax.tree.structure(loaded)
    assert checkpoint.load_description(folder) == {"song": "x"}
    actor = checkpoint.load_actor(PackedFolder.pack(folder), make_state(seed=2).actor)
    jax.tree.map(np.testing.assert_array_equal, actor, state.actor)


def test_a_snapshot_has_the_policy_alone_and_can_have_another(tmp_path):
    state, other = make_state(seed=1), make_state(seed=2)
    saved = checkpoint.pack(state, {"song": "x"})
    snapshot = checkpoint.snapshot(saved)
    arrays = safetensors.numpy.load(snapshot.files["training_state.safetensors"])
    assert sum(array.size for array in arrays.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(state.actor)
    )
    assert checkpoint.find(snapshot.write(tmp_path)).name == "step_000000012"
    assert checkpoint.description_of(snapshot) == {"song": "x"}
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_actor(snapshot, other.actor), state.actor
    )
    with pytest.raises(BadInput, match=r"it has no \.critic"):
        checkpoint.load_state(snapshot, other)
    for origin in (snapshot, saved):
        tuned = checkpoint.with_actor(origin, other.actor, 7, {"song": "y"})
        assert (tuned.name, checkpoint.description_of(tuned)) == ("step_000000007", {"song": "y"})
        jax.tree.map(
            np.testing.assert_array_equal, checkpoint.load_actor(tuned, state.actor), other.actor
        )
    whole = checkpoint.load_state(tuned, other)
    assert int(whole.step) == 7
    jax.tree.map(np.testing.assert_array_equal, whole.critic, state.critic)


def test_a_run_s_folder_means_its_newest_checkpoint(tmp_path):
    for step in (9, 100, 20):
        checkpoint.pack(make_state(step=step), {}).write(tmp_path / "checkpoints")
    assert checkpoint.find(tmp_path).name == "step_000000100"
    assert checkpoint.find(tmp_path / "checkpoints" / "step_000000009").name == "step_000000009"
    checkpoint.remove_all_but_newest(tmp_path / "checkpoints", keep=2)
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step_000000020", "step_000000100"]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoint.pack(make_state(step=1), {}).write(tmp_path)
    (tmp_path / ".step_000000002.partial").mkdir()
    assert checkpoint.find(tmp_path).name == "step_000000001"


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damage_is_named(tmp_path, damage):
    folder = checkpoint.pack(make_state(), {}).write(tmp_path)
    file = folder / "training_state.safetensors"
    contents = file.read_bytes()
    file.write_bytes({"truncated": contents[:-10], "empty": b"", "text": b"x" * 100}[damage])
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.load_state(PackedFolder.pack(folder), make_state())
    (folder / "checkpoint.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.load_description(folder)


def test_another_network_is_refused_by_name_and_shape(tmp_path):
    folder = checkpoint.pack(make_state(), {}).write(tmp_path)
    wider = LearnerConfig(agent_config=SACConfig(hidden_dims=(16,)))
    with pytest.raises(BadInput, match=r"has shape \(8,\), this configuration needs \(16,\)"):
        checkpoint.load_state(PackedFolder.pack(folder), make_state(wider))
    deeper = LearnerConfig(agent_config=SACConfig(hidden_dims=(8, 8)))
    with pytest.raises(BadInput, match="Dense_1"):
        checkpoint.load_actor(PackedFolder.pack(folder), make_state(deeper).actor)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        checkpoint.find(tmp_path / "nothing")
    with pytest.raises(BadInput, match="no checkpoint"):
        checkpoint.find(tmp_path)


def test_description_is_plain_json(tmp_path):
    folder = checkpoint.pack(make_state(), {"config": {"seed": 1}}).write(tmp_path)
    assert json.loads((folder / "checkpoint.json").read_text()) == {"config": {"seed": 1}}
