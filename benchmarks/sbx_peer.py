"""SBX's SAC or DroQ on random transitions, in a virtual environment with only sbx-rl.

For every line on standard input it updates for some seconds, and prints milliseconds per update.
"""

import json
import sys
import time

import gymnasium
import jax
import numpy as np
import sbx


class _Nothing(gymnasium.Env):
    """An environment with the spaces of the piano, which are all that SBX uses here."""

    def __init__(self, observation_dim: int, action_dim: int):
        self.observation_space = gymnasium.spaces.Box(-10, 10, (observation_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (action_dim,), np.float32)

    def reset(self, **_options: object) -> tuple[np.ndarray, dict[str, object]]:
        """Returns zeros; SBX calls it once before learning."""
        return np.zeros(self.observation_space.shape, np.float32), {}


def main() -> None:
    """Measures until standard input ends."""
    algorithm, *numbers = sys.argv[1:]
    observation_dim, action_dim, batch_size = map(int, numbers[:3])
    seconds = float(numbers[3])
    regularized = {"layer_norm": True, "dropout_rate": 0.01} if algorithm == "droq" else {}
    model = sbx.SAC(
        "MlpPolicy",
        _Nothing(observation_dim, action_dim),
        batch_size=batch_size,
        buffer_size=1000,
        gamma=0.8,
        policy_kwargs={"net_arch": [256, 256, 256], "activation_fn": jax.nn.gelu, **regularized},
    )
    random = np.random.default_rng(0)
    buffer = model.replay_buffer
    for _ in range(1000):
        buffer.add(
            random.normal(size=(1, observation_dim)).astype(np.float32),
            random.normal(size=(1, observation_dim)).astype(np.float32),
            random.uniform(-1, 1, size=(1, action_dim)).astype(np.float32),
            random.normal(size=1).astype(np.float32),
            np.zeros(1, np.float32),
            [{}],
        )
    model._setup_learn(1000)
    updates = 8
    for _ in sys.stdin:
        model.train(updates, batch_size)  # Compile and warm up.
        started, number = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            model.train(updates, batch_size)
            jax.block_until_ready(model.policy.actor_state.params)
            number += updates
        print(json.dumps({"milliseconds": 1000 * elapsed / number}), flush=True)


if __name__ == "__main__":
    main()
