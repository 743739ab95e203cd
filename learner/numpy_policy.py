"""The policy in NumPy, which actors use.

For a few observations at a time it is as fast as JAX. An actor's process therefore needs no JAX,
takes half the memory and starts seconds earlier.
"""

import math
from collections.abc import Callable

import numpy as np

from learner.config import LOG_STD_RANGE, SACConfig
from learner.observation import ObservationLayout, assemble
from learner.parameters import Parameters
from replay.transition import Observation


def _gelu(x: np.ndarray) -> np.ndarray:
    """Returns GELU by the approximation that flax uses (arXiv 1606.08415, section 2)."""
    inner = math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)
    return 0.5 * x * (1 + np.tanh(inner))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _silu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(0.5 * x))


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": _gelu,
    "relu": _relu,
    "silu": _silu,
    "tanh": np.tanh,
}


class NumpyPolicy:
    """Maps a batch of factored observations to a batch of sampled actions.

    Args:
        config: Settings of the agent, which decide the network.
        layout: Layout of the observations.
        table: Table of goals, (rows, features) uint8; see `learner.observation.assemble`.
        parameters: Parameters of `learner.networks.Actor`, as NumPy arrays.
    """

    def __init__(
        self,
        config: SACConfig,
        layout: ObservationLayout,
        table: np.ndarray,
        parameters: Parameters,
    ):
        self._layout, self._table = layout, table
        self._activation = _ACTIVATIONS[config.activation]
        named = parameters["params"]
        hidden = [named["MLP_0"][f"Dense_{i}"] for i in range(len(config.hidden_dims))]
        self._hidden = [(layer["kernel"], layer["bias"]) for layer in hidden]
        heads = [named[name] for name in ("mean", "log_std")]
        self._heads = [(layer["kernel"], layer["bias"]) for layer in heads]

    def distribution(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the log standard deviation of actions before the tanh.

        Args:
            observation: Batch of factored observations.

        Returns:
            Mean and log standard deviation, (batch, action dimension) float32 each.
        """
        hidden = assemble(self._layout, self._table, observation)
        for kernel, bias in self._hidden:
            hidden = self._activation(hidden @ kernel + bias)
        mean, log_std = (hidden @ kernel + bias for kernel, bias in self._heads)
        return mean, np.clip(log_std, *LOG_STD_RANGE)

    def sample(self, observation: Observation, random: np.random.Generator) -> np.ndarray:
        """Samples actions, (batch, action dimension) float32 in [-1, 1].

        Args:
            observation: Batch of factored observations.
            random: Random generator of the noise.
        """
        mean, log_std = self.distribution(observation)
        noise = random.standard_normal(mean.shape, np.float32)
        return np.tanh(mean + np.exp(log_std) * noise)
