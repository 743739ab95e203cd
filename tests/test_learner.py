"""The learner step as it runs against the plain one on whole observations; the learner itself."""

import pickle
import time
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from benchmarks import baseline
from common.errors import BadInput
from common.files import PackedFolder
from common.health import UnhealthyStep
from learner import learner, sac
from learner.active_inputs import ActiveInputs
from learner.config import LearnerConfig, SACConfig
from learner.learner import Learner, Shape, assemble_batch, learner_steps
from learner.networks import policy
from learner.observation import assemble
from learner.parameters import Published
from learner.ring import Ring, gather
from piano.config import EnvironmentConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.repertoire import Repertoire
from piano.song import load_songs
from replay import journal
from replay.client import Replay
from replay.config import ReplayConfig
from replay.packing import pack_chunk, unpack_batch
from replay.transition import Step

BATCH = 16
CONFIG = LearnerConfig(
    agent_config=SACConfig(
        hidden_dims=(32, 32), critic_dropout_rate=0.0, actor_lr=1e-3, actor_ema_tau=0.1
    )
)


@pytest.fixture(scope="module", params=[1, 2])
def repertoire(request):
    config = EnvironmentConfig(
        frame_stack=request.param, action_reward_observation=True, reduced_action_space=True
    )
    return Repertoire(load_songs(SongConfig()), config)


@pytest.fixture(scope="module")
def played(repertoire):
    """What was really played, as a chunk."""
    environment = PianoEnvironment(repertoire.piano(0))
    random = np.random.default_rng(0)
    observation, steps = environment.reset().observation, []
    for _ in range(60):
        action = random.uniform(-1, 1, environment.piano.action_dim).astype(np.float32)
        timestep = environment.step(action)
        steps.append(Step(observation, action, timestep.reward, timestep.discount))
        observation = timestep.observation
    return pack_chunk(steps, observation)


@pytest.fixture(scope="module")
def batches(played):
    """Five batches of it, (5, BATCH, 2, packed size)."""
    first = np.random.default_rng(0).integers(60, size=(5, BATCH))
    return np.stack([played[first], played[first + 1]], axis=2)


@pytest.fixture
def ring(played):
    """A replay that holds it, after something else that it has no room for."""
    ring = Ring(60, played.shape[1])
    for _ in range(3):
        ring.put(played[:40])
    ring.put(played)
    ring.flush()
    return ring


def shape_of(layout, updates=1):
    return Shape(CONFIG, layout, updates, BATCH)


def as_reference(state):
    """The same parameters in the plain version's own form."""

    def critics(parameters):
        members = [
            {
                **{f"Dense_{i}": member["MLP_0"][f"Dense_{i}"] for i in range(2)},
                **{f"LayerNorm_{i}": member["MLP_0"][f"LayerNorm_{i}"] for i in range(2)},
                "Dense_2": member["value"],
            }
            for member in parameters["params"].values()
        ]
        return {"params": {"critics": jax.tree.map(lambda *leaves: np.stack(leaves), *members)}}

    return state.actor, critics(state.critic), critics(state.target_critic), state.log_temperature


@pytest.mark.parametrize("cores", [1, 2])
def test_steps_on_active_inputs_are_the_plain_ones_on_whole_observations(
    repertoire, ring, monkeypatch, cores
):
    monkeypatch.setattr(learner, "available_cores", lambda: range(cores))
    layout, action_dim = repertoire.piano(0).layout, repertoire.piano(0).action_dim
    active = ActiveInputs(layout, repertoire.table)
    assert active.layout.observation_dim < 0.4 * layout.observation_dim
    whole = sac.initial_state(CONFIG, layout.observation_dim, action_dim, seed=3)
    before = jax.device_get(whole)

    actor, critic, target, log_temperature = as_reference(before)
    plain = baseline.initial_state(CONFIG, layout.observation_dim, action_dim, seed=3)._replace(
        actor=actor,
        critic=critic,
        target_critic=target,
        log_temperature=log_temperature,
        key=before.key,
    )
    state = active.prune(whole)
    update = learner.compile_steps(state, ring.rings, active.table, shape_of(active.layout))
    for _ in range(5):
        state, metrics, healthy, indices = update(
            state, ring.rings, ring.window, active.table, np.float32(1)
        )
        assert healthy
        steps = np.asarray(gather(ring.rings, indices[0]))
        batch = unpack_batch(steps, layout.frames, layout.proprioception_dim)
        plain_batch = sac.Batch(
            assemble(layout, repertoire.table, batch.observation),
            batch.action,
            batch.reward,
            batch.discount,
            assemble(layout, repertoire.table, batch.next_observation),
        )
        plain, plain_metrics = baseline.update(plain, plain_batch, CONFIG)
        for name, value in plain_metrics.items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    after = active.unprune(state, before)
    moved = []
    for name, ours, theirs, first in zip(
        ("actor", "critic", "target", "temperature"),
        as_reference(after),
        (plain.actor, plain.critic, plain.target_critic, plain.log_temperature),
        as_reference(before),
        strict=True,
    ):
        for our, their, start in zip(*map(jax.tree.leaves, (ours, theirs, first)), strict=True):
            # Five steps of Adam, at a learning rate of 1e-3 at most, move by up to 5e-3.
            np.testing.assert_allclose(our, their, atol=1e-4, err_msg=name)
            moved.append(np.abs(np.asarray(our) - np.asarray(start)).max())
    assert max(moved) > 3e-3


def test_whole_states_come_back_to_the_bit(repertoire, ring):
    layout, action_dim = repertoire.piano(0).layout, repertoire.piano(0).action_dim
    active = ActiveInputs(layout, repertoire.table)
    whole = jax.device_get(sac.initial_state(CONFIG, layout.observation_dim, action_dim, seed=3))
    # Restricting copies: the step below gives its input away.
    state, *_ = learner_steps(
        active.prune(whole),
        ring.rings,
        ring.window,
        active.table,
        np.float32(1),
        shape_of(active.layout),
    )
    state = jax.device_get(state)
    once = active.unprune(state, whole)
    assert jax.tree.structure(once) == jax.tree.structure(whole)
    for ours, theirs in zip(jax.tree.leaves(once), jax.tree.leaves(whole), strict=True):
        assert np.shape(ours) == np.shape(theirs)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(active.prune(once)), state)
    jax.tree.map(np.testing.assert_array_equal, active.unprune(active.prune(once), whole), once)


def test_several_updates_in_one_dispatch_are_those_of_the_batches_that_were_drawn(repertoire, ring):
    layout, action_dim = repertoire.piano(0).layout, repertoire.piano(0).action_dim
    active = ActiveInputs(layout, repertoire.table)
    whole = jax.device_get(sac.initial_state(CONFIG, layout.observation_dim, action_dim, seed=3))
    together, metrics, healthy, indices = learner_steps(
        active.prune(whole),
        ring.rings,
        ring.window,
        active.table,
        np.float32(1),
        shape_of(active.layout, updates=5),
    )
    state = active.prune(whole)
    assert indices.shape == (5, BATCH)
    for drawn in indices:
        batch = assemble_batch(gather(ring.rings, drawn), active.table, active.layout)
        state, last = sac.update(state, batch, CONFIG)
    assert healthy
    assert int(together.step) == int(state.step) == 5
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert float(metrics["q"]) == pytest.approx(float(last["q"]), rel=1e-4)


def test_a_policy_on_active_inputs_is_the_whole_one(repertoire, batches):
    layout, action_dim = repertoire.piano(0).layout, repertoire.piano(0).action_dim
    active = ActiveInputs(layout, repertoire.table)
    whole = sac.initial_state(CONFIG, layout.observation_dim, action_dim, seed=3)
    observation = unpack_batch(batches[0], layout.frames, layout.proprioception_dim).observation
    agent = CONFIG.agent_config
    theirs = policy(agent, whole.actor, assemble(layout, repertoire.table, observation))
    ours = policy(
        agent, active.prune(whole).actor, assemble(active.layout, active.table, observation)
    )
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-5)
    np.testing.assert_allclose(ours.log_std, theirs.log_std, atol=1e-5)
    assert jnp.ptp(theirs.mean) > 0.1


# --- Going on, and numbers that go bad --------------------------------------------------------


@pytest.fixture
def start_learner(repertoire, played, monkeypatch):
    """Makes a learner that resumes from what was played, and is sent nothing more.

    It is told a ratio by which it takes one step a slice.
    """
    monkeypatch.setattr("ray.put", lambda value: value)

    class NothingNew:
        def ready(self):
            return 0

        def take(self, seconds=0.0):
            time.sleep(min(seconds, 0.01))

    def start(saved=None, data=played, capacity=100):
        piano = repertoire.piano(0)
        published: list[Published] = []

        class Server:
            publish = types.SimpleNamespace(remote=published.append)

        learner = Learner(  # What carries the chunks is not under test.
            CONFIG,
            piano.layout,
            repertoire.table,
            piano.action_dim,
            3,
            typing.cast(Replay, types.SimpleNamespace(reader=lambda _ahead: NothingNew())),
            ReplayConfig(
                batch_size=BATCH,
                warmstart_steps=1,
                replay_capacity=capacity,
                update_to_data_ratio="free",
            ),
            Server,
        )
        started = learner.start(saved=saved, restored=60)
        assert started == ("cpu", len(learner._ring.rings.starts))
        learner.restore(journal.pack(0, [data]))
        return learner, published

    return start


def test_a_replay_that_the_device_has_no_room_for_is_refused(start_learner, monkeypatch):
    def no_room(capacity, size):
        raise RuntimeError(f"RESOURCE_EXHAUSTED: Out of memory allocating {capacity * size} bytes.")

    monkeypatch.setattr(learner, "Ring", no_room)
    with pytest.raises(BadInput, match=r"--replay-capacity 100 takes .* GB, for which cpu has no"):
        start_learner()


def test_the_replay_takes_what_half_of_the_free_memory_holds(start_learner, monkeypatch):
    monkeypatch.setattr(learner, "free_memory", lambda: 2e6)
    ring = start_learner(capacity="auto")[0]._ring
    bytes_a_transition = 4 * (ring.rings.steps.shape[1] * 64 / 63 + 1)
    assert len(ring.rings.starts) == pytest.approx(1e6 / bytes_a_transition, rel=0.01)
    monkeypatch.setattr(learner, "free_memory", lambda: 1e9)
    monkeypatch.setattr(ReplayConfig, "most_kept", 200)
    assert len(start_learner(capacity="auto")[0]._ring.rings.starts) == 200
    monkeypatch.setattr(learner, "free_memory", lambda: 100.0)
    with pytest.raises(BadInput, match="cpu has room for 0 transitions, and --warmstart-steps is"):
        start_learner(capacity="auto")


def take(learner, steps):
    """Takes learner steps, one a slice."""
    for _ in range(steps):
        report = learner.learn(1e-4)
        assert report.steps == 1
    return report


def state_of(learner):
    return learner.checkpoint({}).files["training_state.safetensors"]


def test_going_on_from_a_checkpoint_is_never_having_stopped_to_the_bit(start_learner):
    whole, _ = start_learner()
    take(whole, 6)
    first, _ = start_learner()
    take(first, 3)
    second, published = start_learner(saved=first.checkpoint({}))
    assert [parameters.version for parameters in published] == [3]  # Actors act by it at once.
    assert take(second, 3).step == 6
    assert state_of(second) == state_of(whole)
    assert state_of(first) != state_of(whole)


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_a_step_whose_numbers_are_not_finite_is_caught_with_its_batch(start_learner, played, where):
    bad = np.array(played)
    bad[20, {"reward": -4, "observation": 0}[where]] = np.nan
    learner, published = start_learner(data=bad)
    with pytest.raises(UnhealthyStep, match=r"step \d+: .*critic_loss.* not finite") as caught:
        take(learner, 100)
    batch = caught.value.batch
    assert batch.shape == (1, BATCH, 2, played.shape[1])
    assert np.isnan(batch).any()
    known = {row.tobytes() for row in bad}
    assert all(row.tobytes() in known for row in batch.reshape(-1, played.shape[1]))
    assert len(published) == 1  # Before the first step; no actor plays by the last.
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_a_policy_that_has_collapsed_is_caught(start_learner):
    learner, _ = start_learner()
    saved = learner.checkpoint({})
    arrays = safetensors.numpy.load(saved.files["training_state.safetensors"])
    arrays[".actor['params']['log_std']['bias']"][:] = -20
    arrays[".actor['params']['log_std']['kernel']"][:] = 0
    narrow = PackedFolder.sealed(
        saved.name,
        {
            "training_state.safetensors": safetensors.numpy.save(arrays),
            "checkpoint.json": saved.files["checkpoint.json"],
        },
    )
    learner, _ = start_learner(saved=narrow)
    with pytest.raises(UnhealthyStep, match=r"the policy has collapsed: entropy -\d+ nats"):
        take(learner, 1)
