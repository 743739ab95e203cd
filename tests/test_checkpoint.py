"""Checkpoints: whole, readable without anything else, and refused when damaged."""

import errno
import importlib.metadata
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from common import files
from common.errors import BadInput
from common.files import PackedFolder
from learner import checkpoint, sac
from learner.config import LearnerConfig, SACConfig

WRITTEN = {"written_by": f"pianist {importlib.metadata.version('robot-pianist')}"}
CONFIG = LearnerConfig(agent_config=SACConfig(hidden_dims=(8,)))
AVERAGED = LearnerConfig(agent_config=SACConfig(hidden_dims=(8,), actor_ema_tau=0.1))


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
    assert checkpoint.load_description(folder) == {"song": "x"} | WRITTEN
    actor = checkpoint.load_actor(PackedFolder.pack(folder), make_state(seed=2).actor)
    jax.tree.map(np.testing.assert_array_equal, actor, state.actor)


def test_a_checkpoint_with_names_as_they_were_still_opens(tmp_path):
    state, file = make_state(seed=1), "training_state.safetensors"
    saved = checkpoint.pack(state, {})
    arrays = safetensors.numpy.load(saved.files[file])
    old = {name.replace("optimizer", "optimiser"): array for name, array in arrays.items()}
    assert old.keys() != arrays.keys()
    files_ = {file: safetensors.numpy.save(old), "checkpoint.json": saved.files["checkpoint.json"]}
    folder = PackedFolder.sealed(saved.name, files_).write(tmp_path)
    loaded = checkpoint.load_state(PackedFolder.pack(folder), make_state(seed=2))
    jax.tree.map(np.testing.assert_array_equal, loaded, state)


def test_a_snapshot_has_the_policy_alone_and_can_have_another(tmp_path):
    state, other = make_state(seed=1), make_state(seed=2)
    saved = checkpoint.pack(state, {"song": "x"})
    snapshot = checkpoint.snapshot(saved)
    arrays = safetensors.numpy.load(snapshot.files["training_state.safetensors"])
    assert sum(array.size for array in arrays.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(state.actor)
    )
    assert checkpoint.find(snapshot.write(tmp_path)).name == "step_000000012"
    assert checkpoint.description_of(snapshot) == {"song": "x"} | WRITTEN
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.load_actor(snapshot, other.actor), state.actor
    )
    with pytest.raises(BadInput, match=r"it has no \.critic"):
        checkpoint.load_state(snapshot, other)
    for origin in (snapshot, saved):
        tuned = checkpoint.with_actor(origin, other.actor, 7, {"song": "y"})
        assert tuned.name == "step_000000007"
        assert checkpoint.description_of(tuned) == {"song": "y"} | WRITTEN
        jax.tree.map(
            np.testing.assert_array_equal, checkpoint.load_actor(tuned, state.actor), other.actor
        )
    whole = checkpoint.load_state(tuned, other)
    assert int(whole.step) == 7
    jax.tree.map(np.testing.assert_array_equal, whole.critic, state.critic)


def test_what_plays_is_the_average_where_there_is_one():
    def assert_same(these, those):
        jax.tree.map(np.testing.assert_array_equal, these, those)

    plain, state, other = make_state(seed=1), make_state(AVERAGED, 1), make_state(AVERAGED, 2)
    state = state._replace(actor_ema=make_state(seed=3).actor)
    saved = checkpoint.pack(state, {})
    assert_same(checkpoint.load_state(saved, other), state)
    for played in (saved, checkpoint.snapshot(saved)):
        assert_same(checkpoint.load_actor(played, other.actor), state.actor_ema)
        tuned = checkpoint.with_actor(played, other.actor, 7, {})
        assert_same(checkpoint.load_actor(tuned, plain.actor), other.actor)
    # An average that is new, since the policy is another or the setting is, begins with it.
    again = checkpoint.load_state(checkpoint.with_actor(saved, other.actor, 7, {}), state)
    assert_same(again.actor_ema, other.actor)
    assert_same(again.critic, state.critic)
    assert_same(checkpoint.load_state(checkpoint.pack(plain, {}), state).actor_ema, plain.actor)
    assert_same(checkpoint.load_state(saved, plain), plain)


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
    assert json.loads((folder / "checkpoint.json").read_text()) == {"config": {"seed": 1}} | WRITTEN


# --- Damage, and what is kept ---------------------------------------------------------------


def names(folder):
    return [path.name for path in checkpoint.list_checkpoints(folder)]


def test_the_newest_that_is_whole_is_taken_and_the_damaged_are_named(tmp_path):
    for step in (1, 2, 3):
        checkpoint.pack(make_state(step=step), {"learner_steps": step}).write(tmp_path)
    saved, damaged = checkpoint.newest_whole(tmp_path)
    assert saved is not None
    assert (saved.name, damaged) == ("step_000000003", [])
    state = tmp_path / "step_000000003" / "training_state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")  # As long as before.
    (tmp_path / "step_000000002" / "checkpoint.json").unlink()
    saved, damaged = checkpoint.newest_whole(tmp_path)
    assert saved is not None
    assert saved.name == "step_000000001"
    assert [word in line for word, line in zip(("_state", ".json"), damaged, strict=True)]
    assert "step_000000003 is damaged" in damaged[0]
    assert "step_000000002 is damaged" in damaged[1]
    with pytest.raises(BadInput, match="step_000000003 is damaged"):
        checkpoint.load_state(PackedFolder.pack(tmp_path / "step_000000003"), make_state())
    assert checkpoint.newest_whole(tmp_path / "nothing") == (None, [])


def test_the_best_is_kept_besides_the_newest(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.pack(make_state(step=step), {}).write(tmp_path)
    checkpoint.remove_all_but_newest(tmp_path, keep=2, best="step_000000001")
    assert names(tmp_path) == ["step_000000001", "step_000000003", "step_000000004"]


def test_what_a_full_disk_takes_half_of_leaves_nothing(tmp_path, monkeypatch):
    checkpoint.pack(make_state(step=1), {}).write(tmp_path)

    def full(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.pack(make_state(step=2), {}).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]
