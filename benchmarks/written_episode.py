"""Writing of a recorded episode to a replay, without playing it again."""

import time
from collections.abc import Sequence

from benchmarks.work import Work, own_processor_seconds
from replay.client import Replay
from replay.transition import Step
from replay.writer import ChunkWriter

_WAIT_SECONDS = 60.0


def write_episode(writer: ChunkWriter, episode: Sequence[Step]) -> None:
    """Writes an episode as fast as the server accepts it.

    Raises:
        TimeoutError: The server does not accept the transitions in time.
    """
    writer.begin(episode[0].observation)
    for number, step in enumerate(episode, start=1):
        last = number == len(episode)
        following = episode[0 if last else number].observation
        writer.add(step.action, 0, step.reward, step.discount, following, last)
        if not writer.wait(_WAIT_SECONDS):
            raise TimeoutError(f"the replay server took nothing for {_WAIT_SECONDS:.0f} s")


def write_rest(writer: ChunkWriter) -> None:
    """Waits until the server has accepted all added transitions.

    Raises:
        TimeoutError: The server does not accept them in time.
    """
    if not writer.wait(_WAIT_SECONDS, everything=True):
        raise TimeoutError(f"the replay server took nothing for {_WAIT_SECONDS:.0f} s")


def write_episodes(writer: ChunkWriter, episode: Sequence[Step], transitions: int) -> None:
    """Writes whole episodes with at least `transitions` in total, all of which reach the server."""
    for _ in range(-(-transitions // len(episode))):
        write_episode(writer, episode)
    write_rest(writer)


class EpisodeWriter:
    """Writes an episode repeatedly (a Ray actor, in place of an actor that plays).

    Args:
        replay: Replay to write to.
        episode: Episode to write.
    """

    def __init__(self, replay: Replay, episode: Sequence[Step]):
        self._writer = replay.writer()
        self._episode = episode

    def write(self, seconds: float) -> Work:
        """Writes whole episodes for about `seconds`; returns once all have reached the server."""
        before, transitions = own_processor_seconds(), 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            write_episode(self._writer, self._episode)
            transitions += len(self._episode)
        write_rest(self._writer)
        return Work(transitions, own_processor_seconds() - before)
