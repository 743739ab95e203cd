"""The actor: plays in several environments at once, and writes the transitions to the replay.

Its process imports no JAX, because there is one such process for each core.
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
    """The result of one call of `Actor.collect`."""

    steps: int
    """Environment steps in this call."""
    seconds: float
    """Duration of this call, in seconds."""
    waiting_seconds: float
    """Seconds of this call spent waiting for the replay server to take more."""
    parameter_version: int
    """Version of the policy at the end of this call; -1 for random actions."""
    episode_returns: list[float]
    """Total rewards of the episodes that ended in this call."""
    episode_lengths: list[int]
    """Lengths of the same episodes, in control steps."""
    parameter_delays: list[float]
    """Seconds from publication to first use of the parameters that are new in this call."""
    diverged: int
    """Episodes that ended early in this call because the simulation had become unstable."""


class _Rollout:
    """One environment, its writer, and its current episode."""

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
            Return and length of the episode if this was its last step, otherwise None.

        Raises:
            DivergedError: The simulation diverged. The episode has ended early, and the next one
                has begun.
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
    """The environments of one thread, which chooses all their actions in one forward pass."""

    def __init__(self, rollouts: list[_Rollout], seed: tuple[int, ...]):
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
        """Returns actions, (environments, action dimension); uniformly random without a policy."""
        if policy is None:
            shape = (len(self._rollouts), self._rollouts[0].environment.piano.action_dim)
            return self._random.uniform(-1.0, 1.0, shape).astype(np.float32)
        observations = [rollout.observation for rollout in self._rollouts]
        batch = Observation(
            np.stack([observation.proprioception for observation in observations]),
            np.stack([observation.goal_index for observation in observations]),
        )
        return policy.sample(batch, self._random)


class Actor:
    """Plays for the learner, as a Ray actor on a CPU.

    The actor works in slices: the caller calls `collect` repeatedly, and decides how long the actor
    plays. Actions are uniformly random until the learner publishes its first parameters, which it
    does when the replay holds the warm-up. After that, actions are sampled from the newest policy.

    Threads share out the environments, since the physics releases Python's global lock. No
    environment waits for those of another thread. On many cores one process per core is faster,
    because the lock costs threads a quarter of their speed.

    Args:
        repertoire: Repertoire to play; the environments take its songs in turn.
        agent_config: Settings of the policy's network.
        environments: Number of environments.
        number: Number of the actor, counted from 0.
        seed: Random seed of the run, and the environment steps that it has taken before. A resumed
            run therefore does not repeat its first actions.
        replay: Replay servers that take the transitions.
        parameter_server: Handle of the `ParameterServer` actor.
        processors: Threads and cores to play on.
    """

    def __init__(
        self,
        repertoire: Repertoire,
        agent_config: SACConfig,
        environments: int,
        number: int,
        seed: tuple[int, int],
        replay: Replay,
        parameter_server: Any,
        processors: Processors = ONE_THREAD,
    ):
        pin_to(processors.cores)
        # Each thread must stay on one core, whatever OMP_NUM_THREADS says. Where actors use all
        # cores, threads that BLAS starts take half of their time.
        threadpool_limits(limits=1)
        # A thread that returns from the physics then gets the lock soon.
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
        self._shares = [_Share(rollouts[i::threads], (*seed, number, i)) for i in range(threads)]
        # The learner publishes the weights of these inputs only.
        active = active_goals(pianos[0].layout, repertoire.table)
        self._policy_parts = (agent_config, active.layout, active.table)
        self._acting: tuple[NumpyPolicy | None, Arrived | None] = (None, None)
        self._parameters = ParameterSubscription(parameter_server)
        self._lock = threading.Lock()

    def collect(self, seconds: float) -> CollectReport:
        """Plays for about `seconds`, or less if the replay server takes no more."""
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
        """Returns the newest policy that has arrived, and its parameters."""
        arrived = self._parameters.newest()
        with self._lock:
            policy, used = self._acting
            if arrived is not None and arrived is not used:
                policy = NumpyPolicy(*self._policy_parts, arrived.parameters)
                self._acting = (policy, arrived)
            return self._acting
