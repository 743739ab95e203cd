"""The replay room on a real Reverb server."""

import numpy as np
import pytest

from replay.client import Sampler, Writer
from replay.config import ReplayConfig
from replay.errors import BadInput
from replay.server import ReplayServer
from replay.tables import rate_limiter
from replay.transition import Observation

FRAMES, PROPRIOCEPTION_DIM, ACTION_DIM = 2, 3, 2


def serve(folder, **settings):
    settings = {"warmstart_steps": 10, "batch_size": 4, "replay_capacity": 1000} | settings
    shape = (FRAMES, PROPRIOCEPTION_DIM)
    return ReplayServer(ReplayConfig(**settings), shape, ACTION_DIM, folder)


def observation(episode, step):
    newest = np.array([episode, step, 0.5], np.float32)
    return Observation(np.stack([newest - 1, newest]), np.int32(100 * episode + step))


def write_episodes(writer, episodes, steps, seconds=5.0):
    """Writes what tells its origin; returns how many transitions the server took in time."""
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


@pytest.fixture
def server(tmp_path, request):
    replay = serve(tmp_path, **getattr(request, "param", {}))
    yield replay
    replay.stop()


@pytest.mark.parametrize("server", [{"update_to_data_ratio": "free"}], indirect=True)
def test_transitions_come_back_whole_and_never_span_two_episodes(server):
    address = server.address()
    writer = Writer(address)
    write_episodes(writer, episodes=range(5), steps=4)
    assert writer.wait(5.0, everything=True)
    assert server.counts()["inserted"] == 20
    sampler = Sampler(address, (FRAMES, PROPRIOCEPTION_DIM), batch_size=4)
    seen = set()
    for _ in range(100):
        batch = sampler.sample(seconds=10.0)
        assert batch is not None
        for i in range(4):
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
            seen.add((episode, step))
    assert len(seen) == 20
    assert batch is not None
    assert batch.reward.dtype == np.float32
    assert batch.parameter_version.dtype == np.int32
    sampler.close()


@pytest.mark.parametrize(
    "server", [{"update_to_data_ratio": "free", "replay_capacity": 30}], indirect=True
)
def test_oldest_transitions_leave_first(server):
    address = server.address()
    writer = Writer(address)
    write_episodes(writer, episodes=range(20), steps=5)
    assert writer.wait(5.0, everything=True)
    assert server.counts()["size"] == 30
    sampler = Sampler(address, (FRAMES, PROPRIOCEPTION_DIM), batch_size=4)
    batches = [sampler.sample(seconds=10.0) for _ in range(50)]
    assert min(int(batch.action[:, 0].min()) for batch in batches if batch) == 14
    sampler.close()


@pytest.mark.parametrize("server", [{"update_to_data_ratio": "0.5"}], indirect=True)
def test_writers_wait_for_a_learner_that_lags(server):
    writer = Writer(server.address())
    write_episodes(writer, episodes=range(100), steps=5, seconds=0.5)
    # n * s <= s * warmstart_steps + e, with e = 8 batches = 32 samples and s = 2.
    assert server.counts()["inserted"] == 10 + 32 // 2


@pytest.mark.parametrize("server", [{"update_to_data_ratio": "0.5"}], indirect=True)
def test_learner_waits_for_actors_that_lag(server):
    address = server.address()
    sampler = Sampler(address, (FRAMES, PROPRIOCEPTION_DIM), batch_size=4)
    assert sampler.sample(seconds=0.3) is None
    writer = Writer(address)
    write_episodes(writer, episodes=range(2), steps=10)
    assert writer.wait(5.0, everything=True)
    batches = 0
    while sampler.sample(seconds=1.0) is not None:
        batches += 1
    # m <= s * n - s * warmstart_steps + e = 2 * 20 - 2 * 10 + 32 samples.
    assert batches <= 52 // 4
    assert batches >= 52 // 4 - 2  # What Reverb has in flight stays below two batches.
    sampler.close()


@pytest.mark.parametrize("ratio", ["0.1", "1", "20"])
@pytest.mark.parametrize("warmstart_steps", [1, 50, 5000])
def test_error_buffer_is_never_one_that_can_deadlock(ratio, warmstart_steps):
    config = ReplayConfig(
        warmstart_steps=warmstart_steps, batch_size=256, update_to_data_ratio=ratio
    )
    rate_limiter(config)  # Reverb itself refuses a buffer below 2 * max(1, samples per insert).


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
