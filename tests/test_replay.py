"""From actors to the learner: by Reverb and by a queue in memory, each a real Ray actor."""

import collections
import dataclasses
import time
import types

import jax
import numpy as np
import pytest
import ray
from kept_chunks import Kept
from runs_for_tests import wait_until_nothing_is_left

from common import ray_session
from common.errors import BadInput, PartFailed
from common.files import PackedFolder
from replay import client, journal
from replay import server as server_module
from replay.config import ReplayConfig
from replay.pacing import pacing, waiting_chunks
from replay.packing import CHUNK_ROWS, pack_chunk, packed_size, unpack_batch
from replay.server import ReplayServer
from replay.transition import Observation, Step
from training.parts import start_replay

pytestmark = pytest.mark.run

FRAMES, PROPRIOCEPTION_DIM, ACTION_DIM = 2, 3, 2
SIZE = packed_size((FRAMES, PROPRIOCEPTION_DIM), ACTION_DIM)


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
    """Starts replay servers with some settings."""
    started = []

    def start(**settings):
        config = ReplayConfig(replay=kind, warmstart_steps=10, update_to_data_ratio="free")
        started.append(start_replay(dataclasses.replace(config, **settings)))
        return started[-1]

    yield start
    for replay in started:
        for server in replay.servers:
            ray.kill(server)


def inserted(replay):
    return sum(ray.get([server.inserted.remote() for server in replay.servers], timeout=20))


def observation(episode, step):
    newest = np.array([episode, step, 0.5], np.float32)
    return Observation(np.stack([newest - 1, newest]), np.int32(1000 * episode + step))


def write_episodes(writer, episodes, steps, seconds=5.0):
    """Writes what tells its origin, until the server takes no more in time; whether it took all."""
    for episode in episodes:
        writer.begin(observation(episode, 0))
        for step in range(steps):
            action = np.array([episode, step], np.float32)
            last = step == steps - 1
            writer.add(
                action, episode, 10.0 * step, float(not last), observation(episode, step + 1), last
            )
            if not writer.wait(seconds):
                return False
    return writer.wait(seconds, everything=True)


def read(reader, transitions, seconds=20.0):
    """Chunks of so many transitions at least."""
    chunks: list[np.ndarray] = []
    deadline = time.monotonic() + seconds
    while sum(len(chunk) - 1 for chunk in chunks) < transitions:
        chunk = reader.take(seconds=deadline - time.monotonic())
        assert chunk is not None, [len(chunk) for chunk in chunks]
        chunks.append(chunk)
    return chunks


def transitions_of(chunks):
    """What chunks hold, by episode and step; each is checked against what was written."""
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    for chunk in chunks:
        assert chunk.dtype == np.float32
        assert 2 <= len(chunk) <= CHUNK_ROWS
        batch = unpack_batch(np.stack([chunk[:-1], chunk[1:]], axis=1), FRAMES, PROPRIOCEPTION_DIM)
        for i, (episode, step) in enumerate(batch.action.astype(int).tolist()):
            for stored, written in (
                (batch.observation, observation(episode, step)),
                (batch.next_observation, observation(episode, step + 1)),
            ):
                np.testing.assert_array_equal(stored.proprioception[i], written.proprioception)
                assert stored.goal_index[i] == written.goal_index
            assert batch.reward[i] == 10.0 * step
            assert batch.parameter_version[i] == episode
            assert batch.discount[i] in (0.0, 1.0)
            seen[episode, step] += 1
    return seen


def all_of(episodes, steps):
    return collections.Counter((episode, step) for episode in episodes for step in range(steps))


@pytest.mark.parametrize("servers", [1, 3])
def test_every_transition_arrives_once_and_none_spans_two_episodes(serve, kind, servers):
    replay = serve(replay_servers=servers)
    assert all(bool(address) == (kind == "reverb") for address in replay.addresses)
    reader = replay.reader()
    # Episodes shorter than a chunk, as long, and of several chunks.
    lengths = {0: 4, 1: 63, 2: 64, 3: 200}
    for number, steps in lengths.items():
        assert write_episodes(replay.writer(number), [number], steps)
    chunks = read(reader, sum(lengths.values()))
    wanted = sum((all_of([number], steps) for number, steps in lengths.items()), all_of([], 0))
    assert transitions_of(chunks) == wanted
    assert reader.take(seconds=0.3) is None
    assert inserted(replay) == sum(lengths.values())
    each = ray.get([server.inserted.remote() for server in replay.servers], timeout=20)
    assert (min(each) > 0) == (servers <= len(lengths))


def test_the_oldest_chunks_arrive_first(serve):
    replay = serve()
    reader = replay.reader()
    assert write_episodes(replay.writer(), range(20), steps=5)
    episodes = [int(chunk[0, -1:].view(np.int32)[0]) for chunk in read(reader, 100)]
    assert episodes == list(range(20))


def test_a_slow_environment_is_heard_of_after_a_second(serve):
    replay = serve()
    reader, writer = replay.reader(), replay.writer()
    writer.begin(observation(0, 0))
    writer.add(np.array([0, 0], np.float32), 0, 0.0, 1.0, observation(0, 1), last=False)
    assert writer.wait(1.0)
    assert reader.take(seconds=0.2) is None
    time.sleep(1.0)
    assert writer.wait(1.0)
    assert transitions_of(read(reader, 1)) == {(0, 0): 1}


@pytest.mark.parametrize("ratio", ["0.5", "free"])
def test_writers_wait_for_a_learner_that_reads_nothing(serve, kind, ratio):
    replay = serve(update_to_data_ratio=ratio)
    assert not write_episodes(replay.writer(), range(10_000), steps=5, seconds=0.5)
    waiting = waiting_chunks(ReplayConfig(warmstart_steps=10, update_to_data_ratio=ratio))
    # Reverb takes in a few more than its table has room for.
    assert 5 * waiting <= inserted(replay) <= 5 * (waiting + 8), kind
    # It goes on as soon as something has been read, and nothing was lost.
    reader = replay.reader()
    transitions_of(read(reader, 5 * waiting))


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
def test_a_server_that_is_gone_is_noticed_by_who_reads(serve):
    """Reverb's reader tries to connect again without end: the training asks the server itself."""
    replay = serve()
    reader = replay.reader()
    assert write_episodes(replay.writer(), range(5), steps=4)
    ray.kill(replay.servers[0])
    with pytest.raises(PartFailed, match="a replay server is gone"):
        read(reader, 10**9, seconds=60.0)


def test_memory_is_taken_where_there_is_no_reverb(monkeypatch):
    monkeypatch.setattr(server_module, "has_reverb", lambda: False)
    server = ReplayServer(ReplayConfig(replay="auto"))
    assert server.address() == ""
    with pytest.raises(BadInput, match="--replay reverb: dm-reverb is not installed"):
        ReplayServer(ReplayConfig(replay="reverb"))


def test_packed_steps_are_read_alike_on_the_device():
    chunk = pack_chunk(
        [Step(observation(i, i), np.array([i, -i], np.float32), 0.5, 1.0, i - 1) for i in range(3)],
        observation(3, 3),
    )
    assert chunk.shape == (4, SIZE)
    pairs = np.stack([chunk[:-1], chunk[1:]], axis=1)
    here = unpack_batch(pairs, FRAMES, PROPRIOCEPTION_DIM)
    there = jax.jit(lambda array: unpack_batch(array, FRAMES, PROPRIOCEPTION_DIM))(pairs)
    for ours, theirs in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert here.observation.goal_index.tolist() == [0, 1001, 2002]
    assert here.next_observation.goal_index.tolist() == [1001, 2002, 3003]
    assert here.parameter_version.tolist() == [-1, 0, 1]


def test_an_episode_that_was_broken_off_keeps_what_was_whole():
    writer = Kept()
    writer.begin(observation(0, 0))
    for step in range(3):
        writer.add(
            np.array([0, step], np.float32), 0, 10.0 * step, 1.0, observation(0, step + 1), False
        )
    assert write_episodes(writer, [1], steps=2)
    assert transitions_of(writer.kept) == all_of([0], 3) + all_of([1], 2)
    assert [len(chunk) for chunk in writer.kept] == [4, 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"warmstart_steps": 0},
        {"replay_servers": 0},
        {"warmstart_steps": 100, "replay_capacity": 100},
        {"update_to_data_ratio": "0"},
        {"update_to_data_ratio": "nan"},
        {"update_to_data_ratio": "fast"},
    ],
)
def test_settings_out_of_range_name_the_flag(settings):
    with pytest.raises(BadInput, match="--"):
        ReplayConfig(**settings)


# --- The ratio ------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 64])
@pytest.mark.parametrize("restored", [0, 3000])
@pytest.mark.parametrize("ratio", ["0.01", "1", "20", "free"])
def test_the_learner_never_waits_for_itself_and_the_ratio_is_held(ratio, restored, at_once):
    """As the learner does: reads what is there if it may, steps if it may, and never stands."""
    config = ReplayConfig(warmstart_steps=500, update_to_data_ratio=ratio)
    pace = pacing(config, at_once, restored)
    transitions, steps = restored, 0
    random = np.random.default_rng(0)
    for _ in range(20_000):
        there = random.random() < 0.5  # Actors are now faster, now slower.
        if there and pace.may_read(transitions, steps):
            transitions += int(random.integers(1, CHUNK_ROWS))
        if pace.may_step(transitions, steps):
            assert transitions >= 500
            steps += at_once
        else:
            assert pace.may_read(transitions, steps)
    new = transitions - max(500, restored)
    if ratio != "free":
        assert abs(steps - new * float(ratio)) <= (
            0.05 * steps + pace.tolerance + at_once + CHUNK_ROWS * float(ratio)
        )
    assert steps > 10 * at_once


def test_with_a_learner_that_waits_the_ratio_is_that_of_what_has_been_inserted(serve):
    """Actors and learner in turn, each as long as it can."""
    replay = serve(update_to_data_ratio="0.5", warmstart_steps=100)
    config = ReplayConfig(update_to_data_ratio="0.5", warmstart_steps=100)
    pace = pacing(config)
    reader, writer = replay.reader(), replay.writer()
    transitions = steps = rounds = 0
    while steps < 1000:
        rounds += 1
        assert rounds < 200, (inserted(replay), transitions, steps)
        write_episodes(writer, range(10 * rounds, 10 * rounds + 10), steps=20, seconds=0.2)
        while steps < 1000:
            if pace.may_step(transitions, steps):
                steps += 1
                continue
            chunk = reader.take(seconds=0.2)
            if chunk is None:
                break
            transitions += len(chunk) - 1
    # What waits in the server, in the reader and on the way.
    waiting = 20 * (waiting_chunks(config) + 16 + 8)
    assert inserted(replay) - 100 + pace.tolerance / 0.5 >= 1000 / 0.5
    assert inserted(replay) - 100 <= 1000 / 0.5 + waiting


@pytest.mark.parametrize("kind", [ValueError, IndexError, RuntimeError])
def test_a_reader_says_each_time_that_a_server_is_gone(monkeypatch, kind):
    def fail():
        raise kind("no more")

    monkeypatch.setattr(client, "_reader_of", lambda *_: types.SimpleNamespace(next=fail))
    reader = client.Reader(client.Replay([None, None], ["", ""]), 4)
    deadline = time.monotonic() + 60
    while reader._failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(PartFailed, match="a replay server is gone: no more"):
        reader.take(0.01)
    for _ in range(3):
        with pytest.raises(PartFailed):
            reader.ready()


@pytest.mark.skipif(not server_module.has_reverb(), reason="Reverb is not installed")
def test_a_server_whose_journal_cannot_be_read_says_so(monkeypatch):
    from replay import reverb_queue

    def fail(_chunk):
        raise MemoryError

    served = reverb_queue.ReverbQueue(8, 100)
    monkeypatch.setattr(served._new, "add", fail)
    writer = reverb_queue.ReverbWriter(f"localhost:{served.port}")
    writer.begin(observation(0, 0))
    writer.add(np.zeros(ACTION_DIM, np.float32), 0, 0.0, 1.0, observation(0, 1), True)
    writer.wait(10.0, everything=True)
    deadline = time.monotonic() + 60
    while served._failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="the journal's chunks cannot be read"):
        served.inserted()
    with pytest.raises(RuntimeError, match="the journal's chunks cannot be read"):
        served.take_new(10)


# --- The journal's share ---------------------------------------------------------------------


def entries_of(replay, most=1000, first=0):
    """All that the journal has not got yet."""
    entries: list[PackedFolder] = []
    while True:
        asked = replay.servers[0].take_new.remote(most, first)
        entry = ray.get(asked, timeout=30)
        if entry is None:
            return entries
        first = journal.end_of(entry)
        entries.append(entry)


def test_the_journal_gets_every_transition_once_whatever_the_learner_reads(serve):
    replay = serve()
    writer = replay.writer()
    assert write_episodes(writer, range(5), steps=4)
    entries = entries_of(replay, most=8)
    assert write_episodes(writer, range(5, 7), steps=4)
    entries += entries_of(replay, first=20)
    assert [entry.name for entry in entries] == [
        "transitions_000000000000_000000000008",
        "transitions_000000000008_000000000016",
        "transitions_000000000016_000000000020",
        "transitions_000000000020_000000000028",
    ]
    chunks = [chunk for entry in entries for chunk in journal.chunks(entry, SIZE)]
    assert transitions_of(chunks) == all_of(range(7), 4)
    assert transitions_of(read(replay.reader(), 28)) == all_of(range(7), 4)


def test_what_the_journal_does_not_fetch_blocks_no_writer(serve):
    replay = serve(replay_capacity=30)
    assert write_episodes(replay.writer(), range(20), steps=5)
    assert inserted(replay) == 100
    (entry,) = entries_of(replay)
    assert entry.name == "transitions_000000000000_000000000030"
    (*_, last) = journal.chunks(entry, SIZE)
    assert transitions_of([last]) == all_of([19], 5)
