"""The replay room: Reverb and the table in memory, behind the same doors of a real Ray actor."""

import collections

import jax
import numpy as np
import pytest
import ray
from runs_for_tests import wait_until_nothing_is_left

from cluster import ray_session
from cluster.parts import remote
from replay import server as server_module
from replay.client import Replay
from replay.config import ReplayConfig
from replay.errors import BadInput
from replay.pacing import BATCHES_ON_THEIR_WAY, pacing
from replay.packing import pack_step, unpack_batch
from replay.reverb_table import rate_limiter
from replay.server import ReplayServer
from replay.transition import Observation

FRAMES, PROPRIOCEPTION_DIM, ACTION_DIM = 2, 3, 2
BATCH = 4


@pytest.fixture(scope="module")
def session(folder):
    with ray_session.connect(None, folder / "logs"):
        yield
    wait_until_nothing_is_left(folder)


@pytest.fixture(params=["reverb", "memory"])
def kind(request):
    return request.param


@pytest.fixture
def serve(session, kind):  # noqa: ARG001
    """Starts a replay server with some settings."""
    servers = []

    def start(inserted=0, restored=0, **settings):
        settings = {"warmstart_steps": 10, "batch_size": BATCH, "replay_capacity": 1000} | settings
        server = remote(ReplayServer, num_cpus=0, max_concurrency=8).remote(
            ReplayConfig(replay=kind, **settings),
            (FRAMES, PROPRIOCEPTION_DIM),
            ACTION_DIM,
            inserted,
            restored,
        )
        servers.append(server)
        return Replay(server, ray.get(server.address.remote(), timeout=60))

    yield start
    for server in servers:
        ray.kill(server)


def counts(replay):
    return ray.get(replay.server.counts.remote(), timeout=20)


def unpacked(batch):
    assert batch is not None
    assert batch.dtype == np.float32
    return unpack_batch(batch, FRAMES, PROPRIOCEPTION_DIM)


def observation(episode, step):
    newest = np.array([episode, step, 0.5], np.float32)
    return Observation(np.stack([newest - 1, newest]), np.int32(100 * episode + step))


def write_episodes(writer, episodes, steps, seconds=5.0):
    """Writes what tells its origin, until the server takes no more in time."""
    for episode in episodes:
        writer.begin(observation(episode, 0))
        for step in range(steps):
            action = np.array([episode, step], np.float32)
            last = step == steps - 1
            writer.add(
                action, episode, 10.0 * step, float(not last), observation(episode, step + 1), last
            )
            if not writer.wait(seconds):
                return


def test_transitions_come_back_whole_and_never_span_two_episodes(serve, kind):
    replay = serve(update_to_data_ratio="free")
    assert bool(replay.address) == (kind == "reverb")
    writer = replay.writer()
    write_episodes(writer, episodes=range(5), steps=4)
    assert writer.wait(5.0, everything=True)
    assert counts(replay)["inserted"] == 20
    sampler = replay.sampler()
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    for _ in range(BATCHES_ON_THEIR_WAY):  # Some were drawn before all was written.
        sampler.sample(seconds=10.0)
    for _ in range(100):
        batch = unpacked(sampler.sample(seconds=10.0))
        for i in range(BATCH):
            episode, step = (int(x) for x in batch.action[i])
            for stored, written in (
                (batch.observation, observation(episode, step)),
                (batch.next_observation, observation(episode, step + 1)),
            ):
                np.testing.assert_array_equal(stored.proprioception[i], written.proprioception)
                assert stored.row[i] == written.row
            assert batch.reward[i] == 10.0 * step
            assert batch.discount[i] == (0.0 if step == 3 else 1.0)
            assert batch.parameter_version[i] == episode
            seen[episode, step] += 1
    assert len(seen) == 20
    # Uniform: 400 draws of 20, each with a mean of 20 and a standard deviation of 4.4.
    assert max(seen.values()) < 20 + 6 * 4.4
    assert batch.reward.dtype == np.float32
    assert batch.parameter_version.dtype == np.int32
    assert counts(replay)["sampled"] >= 400


def test_oldest_transitions_leave_first(serve):
    replay = serve(update_to_data_ratio="free", replay_capacity=30)
    writer = replay.writer()
    write_episodes(writer, episodes=range(20), steps=5)
    assert writer.wait(5.0, everything=True)
    assert counts(replay)["size"] == 30
    sampler = replay.sampler()
    # What was drawn ahead may be older.
    for _ in range(2 * BATCHES_ON_THEIR_WAY):
        sampler.sample(seconds=10.0)
    batches = [unpacked(sampler.sample(seconds=10.0)) for _ in range(50)]
    assert min(int(batch.action[:, 0].min()) for batch in batches) == 14


def test_writers_wait_for_a_learner_that_lags(serve):
    replay = serve(update_to_data_ratio="0.5")
    write_episodes(replay.writer(), episodes=range(100), steps=5, seconds=0.5)
    # n * s - m <= s * warmstart_steps + e, with s = 2 and e = 32 batches; m is what the server
    # has drawn ahead.
    most = 10 + (BATCHES_ON_THEIR_WAY * BATCH + counts(replay)["sampled"]) // 2
    assert counts(replay)["inserted"] == most


def test_learner_waits_for_actors_that_lag(serve):
    replay = serve(update_to_data_ratio="0.5")
    sampler = replay.sampler()
    assert sampler.sample(seconds=0.3) is None
    writer = replay.writer()
    write_episodes(writer, episodes=range(2), steps=10)
    assert writer.wait(5.0, everything=True)
    # m <= s * (n - warmstart_steps) + e = 2 * 10 + 32 batches.
    most = (2 * 10 + BATCHES_ON_THEIR_WAY * BATCH) // BATCH
    for _ in range(most - 1):
        assert sampler.sample(seconds=20.0) is not None
    more = 0
    while sampler.sample(seconds=1.0) is not None:
        more += 1
    assert more <= 1


@pytest.mark.parametrize("ratio", ["0.1", "1", "20", "free"])
def test_neither_side_ever_waits_for_itself(serve, ratio):
    """Actors and learner in turn, each as long as it can: both get on, and the ratio is held."""
    replay = serve(update_to_data_ratio=ratio, warmstart_steps=50, replay_capacity=10_000)
    writer, sampler = replay.writer(), replay.sampler()
    batches = rounds = 0
    while batches < 100:
        rounds += 1
        assert rounds < 50, (counts(replay), batches)
        write_episodes(writer, range(10 * rounds, 10 * rounds + 10), steps=5, seconds=0.2)
        while batches < 100 and sampler.sample(seconds=0.2) is not None:
            batches += 1
    if ratio != "free":
        wanted = (counts(replay)["inserted"] - 50) * float(ratio)
        buffer = max(BATCHES_ON_THEIR_WAY, 0.1 * 50 * float(ratio), 2 * float(ratio))
        assert abs(batches - wanted) <= 2 * buffer


@pytest.mark.parametrize("ratio", ["0.1", "1", "20"])
@pytest.mark.parametrize("warmstart_steps", [1, 50, 5000])
def test_error_buffer_is_never_one_that_can_deadlock(ratio, warmstart_steps):
    config = ReplayConfig(
        warmstart_steps=warmstart_steps, batch_size=256, update_to_data_ratio=ratio
    )
    rate_limiter(config)  # Reverb itself refuses a buffer below 2 * max(1, samples per insert).
    wanted = pacing(config)
    assert wanted.samples_per_insert is not None
    assert wanted.error_buffer >= 2 * max(1.0, wanted.samples_per_insert)


def test_a_server_that_is_gone_is_noticed_by_whoever_samples(serve):
    replay = serve(update_to_data_ratio="free")
    sampler = replay.sampler()
    write_episodes(replay.writer(), episodes=range(5), steps=4)
    ray.kill(replay.server)
    with pytest.raises(ray.exceptions.RayError):
        [sampler.sample(seconds=20.0) for _ in range(200)]


def test_memory_is_taken_where_there_is_no_reverb(monkeypatch):
    monkeypatch.setattr(server_module, "has_reverb", lambda: False)

    def serve(replay):
        shape = (FRAMES, PROPRIOCEPTION_DIM)
        return ReplayServer(ReplayConfig(replay=replay), shape, ACTION_DIM)

    server = serve("auto")
    assert server.address() == ""
    server.stop()
    with pytest.raises(BadInput, match="--replay reverb: dm-reverb is not installed"):
        serve("reverb")


def test_packed_steps_are_read_alike_on_the_device():
    steps = np.stack(
        [
            [
                pack_step(observation(i, step), np.array([i, -i], np.float32), 0.5, 1.0, i - 1)
                for step in range(2)
            ]
            for i in range(3)
        ]
    )
    here = unpacked(steps)
    there = jax.jit(lambda array: unpack_batch(array, FRAMES, PROPRIOCEPTION_DIM))(steps)
    for ours, theirs in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert here.observation.row.tolist() == [0, 100, 200]
    assert here.parameter_version.tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"warmstart_steps": 0},
        {"warmstart_steps": 100, "replay_capacity": 100},
        {"update_to_data_ratio": "0"},
        {"update_to_data_ratio": "nan"},
        {"update_to_data_ratio": "fast"},
    ],
)
def test_settings_out_of_range_name_the_flag(settings):
    with pytest.raises(BadInput, match="--"):
        ReplayConfig(**settings)


# --- Going on with what a server had --------------------------------------------------------


def entries_of(replay, most=1000):
    """All that the journal has not got yet."""
    entries = []
    while (entry := ray.get(replay.server.take_new.remote(most), timeout=30)) is not None:
        entries.append(entry)
    return entries


def held(replay, batches=150):
    """Which transitions a server holds, by episode and step."""
    sampler, seen = replay.sampler(), set()
    for _ in range(batches):
        batch = unpacked(sampler.sample(seconds=10.0))
        seen |= {tuple(int(x) for x in action) for action in batch.action}
    return seen


def test_the_journal_gets_every_transition_once_and_another_server_goes_on_with_it(serve):
    first = serve(update_to_data_ratio="free")
    writer = first.writer()
    write_episodes(writer, episodes=range(5), steps=4)
    assert writer.wait(5.0, everything=True)
    entries = entries_of(first, most=8)
    write_episodes(writer, episodes=range(5, 7), steps=4)
    assert writer.wait(5.0, everything=True)
    entries += entries_of(first)
    assert [entry.name for entry in entries] == [
        "transitions_000000000000_000000000008",
        "transitions_000000000008_000000000016",
        "transitions_000000000016_000000000020",
        "transitions_000000000020_000000000028",
    ]

    # Of 30 that the run has had, two were lost.
    second = serve(update_to_data_ratio="free", inserted=30, restored=28)
    sampler = second.sampler()
    for entry in entries[:-1]:
        ray.get(second.server.restore.remote(entry), timeout=30)
    assert sampler.sample(seconds=0.3) is None  # Not all is there yet.
    ray.get(second.server.restore.remote(entries[-1]), timeout=30)
    assert counts(second)["inserted"] == 30
    assert counts(second)["size"] == 28
    assert held(second) == {(episode, step) for episode in range(7) for step in range(4)}
    # The journal has these already.
    assert entries_of(second) == []
    writer = second.writer()
    write_episodes(writer, episodes=range(7, 9), steps=4)
    assert writer.wait(5.0, everything=True)
    assert counts(second)["inserted"] == 38
    assert [entry.name for entry in entries_of(second)] == ["transitions_000000000030_000000000038"]


@pytest.mark.parametrize("ratio", ["0.5", "20"])
def test_a_restored_server_holds_the_ratio_from_where_it_is(serve, ratio):
    """Neither side has to make up for what was before: no burst of updates, no blocked actors."""
    first = serve(update_to_data_ratio="free")
    writer = first.writer()
    write_episodes(writer, episodes=range(100), steps=10)
    assert writer.wait(5.0, everything=True)
    (entry,) = entries_of(first)

    replay = serve(update_to_data_ratio=ratio, inserted=1000, restored=1000)
    ray.get(replay.server.restore.remote(entry), timeout=30)
    sampler, writer = replay.sampler(), replay.writer()
    ahead = 0
    while sampler.sample(seconds=1.0) is not None:
        ahead += 1
    buffer = pacing(
        ReplayConfig(update_to_data_ratio=ratio, batch_size=BATCH, warmstart_steps=10)
    ).error_buffer
    assert ahead * BATCH <= buffer
    write_episodes(writer, episodes=range(100, 200), steps=10, seconds=0.3)
    assert counts(replay)["inserted"] > 1000
    assert sampler.sample(seconds=10.0) is not None


def test_what_the_journal_does_not_fetch_blocks_nobody(serve):
    replay = serve(update_to_data_ratio="free", replay_capacity=30)
    writer = replay.writer()
    write_episodes(writer, episodes=range(20), steps=5)
    assert writer.wait(5.0, everything=True)
    assert counts(replay)["inserted"] == 100
    (entry,) = entries_of(replay)
    assert entry.name == "transitions_000000000000_000000000030"
