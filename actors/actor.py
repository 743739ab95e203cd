"""The actor: plays in several environments at once and writes what happens to the replay.

Its process imports no JAX: there is one for each core.
"""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from common.cores import ONE_THREAD, Processors, pin_to
from learner.config import SACConfig
from learner.numpy_policy import NumpyPolicy
from learner.observation import active_goals
from learner.parameters import Arrived, ParameterSubscription
from piano.environment import DivergedError, PianoEnvironment
from piano.repertoire import Repertoire
from replay.client import Replay
from replay.transition import Observation
from replay.writer import ChunkWriter

_SWITCH_SECONDS = 0.0002


class CollectReport(NamedTuple):
    """What one call of `Actor.collect` did."""

    steps: int
    """Environment steps in this call."""
    seconds: float
    """Length of this call."""
    waiting_seconds: float
    """Of which spent waiting for the replay server to take more."""
    parameter_version: int
    """Of the policy at the end; -1 for random actions."""
    episode_returns: list[float]
    """Of the episodes that ended in this call."""
    episode_lengths: list[int]
    """Of the same episodes, in control steps."""
    parameter_delays: list[float]
    """Seconds from the publication of parameters to their first use, of those new in this call."""
    diverged: int
    """Episodes of this call that ended early because the simulation had become unstable."""


class _Rollout:
    """One environment, its writer, and the episode under way."""

    def __init__(self, environment: PianoEnvironment, writer: ChunkWriter):
        self.environment = environment
        self.writer = writer
        self._begin()

    def _begin(self) -> None:
        self.observation = self.environment.reset().observation
        self._return, self._length = 0.0, 0
        self.writer.begin(self.observation)

    def step(self, action: np.ndarray, parameter_version: int) -> tuple[float, int] | None:
        """Takes one step and writes it; begins the next episode at the end of one.

        Returns:
            Return and length of the episode, if this was its last step.

        Raises:
            DivergedError: the episode has ended early, and the next has begun.
        """
        try:
            timestep = self.environment.step(action)
        except DivergedError:
            self._begin()
            raise
        self.observation = timestep.observation
        self._return += timestep.reward
        self._length += 1
        self.writer.add(
            action,
            parameter_version,
            timestep.learnt_reward,
            timestep.discount,
            self.observation,
            timestep.last,
        )
        if not timestep.last:
            return None
        ended = (self._return, self._length)
        self._begin()
        return ended


class _Share:
    """The environments of one thread, all acted for in one forward pass."""

    def __init__(self, rollouts: list[_Rollout], seed: int):
        self._rollouts = rollouts
        self._random = np.random.default_rng(seed)
        self._version = -1

    def collect(
        self,
        deadline: float,
        newest_policy: Callable[[], tuple[NumpyPolicy | None, Arrived | None]],
    ) -> CollectReport:
        """Plays until the deadline, or until the replay server takes no more."""
        started, waiting, steps = time.monotonic(), 0.0, 0
        delays: list[float] = []
        ended: list[tuple[float, int]] = []
        diverged = 0
        while (now := time.monotonic()) < deadline:
            room = all(rollout.writer.wait(deadline - now) for rollout in self._rollouts)
            waiting += time.monotonic() - now
            if not room:
                break
            policy, parameters = newest_policy()
            if parameters is not None and parameters.version != self._version:
                self._version = parameters.version
                delays.append(time.time() - parameters.published)
            for rollout, action in zip(self._rollouts, self._act(policy), strict=True):
                try:
                    episode = rollout.step(action, self._version)
                except DivergedError:
                    diverged += 1
                    continue
                if episode is not None:
                    ended.append(episode)
            steps += len(self._rollouts)
        return CollectReport(
            steps=steps,
            seconds=time.monotonic() - started,
            waiting_seconds=waiting,
            parameter_version=self._version,
            episode_returns=[episode_return for episode_return, _ in ended],
            episode_lengths=[length for _, length in ended],
            parameter_delays=delays,
            diverged=diverged,
        )

    def _act(self, policy: NumpyPolicy | None) -> np.ndarray:
        """Actions (environments, action dimension); uniformly random without a policy."""
        if policy is None:
            shape = (len(self._rollouts), self._rollouts[0].environment.piano.action_dim)
            return self._random.uniform(-1.0, 1.0, shape).astype(np.float32)
        observations = [rollout.observation for rollout in self._rollouts]
        batch = Observation(
            np.stack([observation.proprioception for observation in observations]),
            np.stack([observation.row for observation in observations]),
        )
        return policy.sample(batch, self._random)


class Actor:
    """Plays for the learner (a Ray actor, on CPU).

    It works in slices: the caller calls `collect` again and again, and decides how long it plays.
    Actions are uniformly random until the learner publishes its first parameters, which it
    does when the replay holds the warm-up; then they are drawn from the newest policy.

    The environments are shared out among threads, since the physics lets go of Python's global
    lock. No environment waits for those of another thread. On many cores a process for each is
    faster: the lock costs threads a quarter.

    Args:
        repertoire: to be played; the environments take its songs in turn.
        agent_config: of the policy's network.
        environments: how many.
        number: of the actor, from 0.
        seed: of the run.
        replay: where transitions go.
        parameter_server: handle of the `ParameterServer` actor.
        processors: to play on.
    """

    def __init__(
        self,
        repertoire: Repertoire,
        agent_config: SACConfig,
        environments: int,
        number: int,
        seed: int,
        replay: Replay,
        parameter_server: Any,
        processors: Processors = ONE_THREAD,
    ):
        pin_to(processors.cores)
        # Each of these threads is to be on one core, whatever OMP_NUM_THREADS says: where actors
        # are on all cores, those that BLAS starts take half of their time.
        threadpool_limits(limits=1)
        # So that a thread back from the physics soon gets the lock.
        sys.setswitchinterval(_SWITCH_SECONDS)
        first = number * environments
        songs = min(environments, len(repertoire.songs))
        pianos = [repertoire.piano(first + i) for i in range(songs)]
        rollouts = [
            _Rollout(PianoEnvironment(pianos[i % songs]), replay.writer(first + i))
            for i in range(environments)
        ]
        threads = min(environments, processors.threads)
        self._threads = ThreadPoolExecutor(threads)
        self._shares = [
            _Share(rollouts[i::threads], seed + 1000 * (number + 1) + i) for i in range(threads)
        ]
        # The learner publishes the weights of these inputs alone.
        active = active_goals(pianos[0].layout, repertoire.table)
        self._policy_parts = (agent_config, active.layout, active.table)
        self._acting: tuple[NumpyPolicy | None, Arrived | None] = (None, None)
        self._parameters = ParameterSubscription(parameter_server)
        self._lock = threading.Lock()

    def collect(self, seconds: float) -> CollectReport:
        """Plays for about `seconds`, or less where the replay server takes no more."""
        started = time.monotonic()
        reports = list(
            self._threads.map(
                lambda share: share.collect(started + seconds, self._newest_policy), self._shares
            )
        )
        return CollectReport(
            steps=sum(report.steps for report in reports),
            seconds=time.monotonic() - started,
            waiting_seconds=sum(report.waiting_seconds for report in reports) / len(reports),
            parameter_version=min(report.parameter_version for report in reports),
            episode_returns=[value for report in reports for value in report.episode_returns],
            episode_lengths=[value for report in reports for value in report.episode_lengths],
            parameter_delays=[value for report in reports for value in report.parameter_delays],
            diverged=sum(report.diverged for report in reports),
        )

    def _newest_policy(self) -> tuple[NumpyPolicy | None, Arrived | None]:
        """The newest policy that has arrived, and its parameters."""
        arrived = self._parameters.newest()
        with self._lock:
            policy, used = self._acting
            if arrived is not None and arrived is not used:
                policy = NumpyPolicy(*self._policy_parts, arrived.parameters)
                self._acting = (policy, arrived)
            return self._acting
