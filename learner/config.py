"""Settings of the learning algorithm and of the learner around it."""

import dataclasses
from typing import Literal

from common.errors import require

LOG_STD_RANGE = (-20.0, 2.0)
"""Range of the policy's log standard deviations, before the tanh."""
Platform = Literal["auto", "gpu", "metal", "cpu"]
"""Device to learn on; see `learner.device`."""


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic (arXiv 1812.05905) with DroQ critics (arXiv 2110.02034)."""

    num_qs: int = 2
    """Number of critics in the ensemble; the target takes their minimum."""
    actor_lr: float = 3e-4
    """Learning rate of the actor (Adam)."""
    critic_lr: float = 3e-4
    """Learning rate of the critics (Adam)."""
    temp_lr: float = 3e-4
    """Learning rate of the temperature (Adam)."""
    anneal_lr: bool = False
    """Whether the learning rates of the actor and the critics fall linearly to zero. They reach
    zero at the end of the run: after its steps or its minutes, whichever end first."""
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    """Units in each hidden layer of the actor and of each critic."""
    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    """Activation after each hidden layer."""
    critic_dropout_rate: float = 0.01
    """Dropout rate in the critics, before the layer norm."""
    critic_layer_norm: bool = True
    """Whether the critics use layer norm, before the activation."""
    tau: float = 0.01
    """Fraction by which the target networks move towards the critics in each learner step."""
    actor_ema_tau: float = 1.0
    """Fraction by which the exponential moving average of the actor moves towards the actor in each
    learner step. Evaluations, and everything made from checkpoints, play this average; 1 keeps the
    actor itself."""
    target_entropy: float | None = None
    """Entropy that the temperature steers towards, in nats. None is minus half the number of action
    dimensions."""
    init_temperature: float = 1.2
    """Initial temperature, which weights the entropy."""
    backup_entropy: bool = True
    """Whether the critics' target values include the entropy."""

    def __post_init__(self) -> None:
        """Checks that every value is in range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        flag = "--agent-config"
        require(1 <= self.num_qs <= 100, f"{flag}.num-qs is {self.num_qs}, must be 1 to 100")
        for name in ("actor_lr", "critic_lr", "temp_lr", "tau", "actor_ema_tau"):
            value = getattr(self, name)
            require(
                0 < value <= 1,
                f"{flag}.{name.replace('_', '-')} is {value}, must be above 0 and at most 1",
            )
        require(
            len(self.hidden_dims) >= 1 and all(1 <= units <= 65_536 for units in self.hidden_dims),
            f"{flag}.hidden-dims is {self.hidden_dims}, must be one or more of 1 to 65536",
        )
        require(
            0 <= self.critic_dropout_rate < 1,
            f"{flag}.critic-dropout-rate is {self.critic_dropout_rate}, must be 0 or more, below 1",
        )
        require(
            self.init_temperature > 0,
            f"{flag}.init-temperature is {self.init_temperature}, must be above 0",
        )


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Settings of the learner."""

    discount: float = 0.8
    """Discount of future rewards, per environment step."""
    agent_config: SACConfig = SACConfig()

    def __post_init__(self) -> None:
        """Checks that every value is in range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        require(
            0 <= self.discount < 1, f"--discount is {self.discount}, must be 0 or more, below 1"
        )
