"""Settings of the replay: its capacity, its transport and the pace of learning."""

import dataclasses
import math
from typing import Literal

from common.errors import require, require_range

_MOST = 2**30  # Places in the ring are 32-bit integers.
_MOST_BY_ITSELF = 1_000_000


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay."""

    replay: Literal["auto", "reverb", "memory"] = "auto"
    """Transport of steps from the actors to the learner: Reverb, or a queue in a Ray actor. `auto`
    takes Reverb where it is installed."""
    replay_servers: int = 1
    """Number of replay servers that run side by side. One server can carry what hundreds of cores
    play."""
    replay_capacity: int | Literal["auto"] = "auto"
    """Transitions that the replay keeps on the learner's device; new ones overwrite the oldest.
    `auto` takes a million, or fewer if half of the device's free memory holds fewer."""
    batch_size: int = 256
    """Transitions in one learner step."""
    warmstart_steps: int = 5_000
    """Environment steps with uniformly random actions before the first learner step."""
    update_to_data_ratio: str = "1"
    """Learner steps per environment step: the side that runs ahead waits for the other. `free` lets
    the actors and the learner each run at full speed."""

    def __post_init__(self) -> None:
        """Checks that every value is in range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        require_range(self, "batch_size", least=1, most=1_000_000)
        require_range(self, "warmstart_steps", least=1)
        if self.replay_capacity != "auto":
            require_range(self, "replay_capacity", least=1, most=_MOST)
        require_range(self, "replay_servers", least=1, most=64)
        require(
            self.most_kept > self.warmstart_steps,
            f"--replay-capacity is {self.most_kept}, must be more than "
            f"--warmstart-steps ({self.warmstart_steps}), or learning never begins",
        )
        require(
            self.ratio is None or 0.01 <= self.ratio <= 100.0,
            f"--update-to-data-ratio is {self.update_to_data_ratio}, "
            "must be between 0.01 and 100, or `free`",
        )

    @property
    def most_kept(self) -> int:
        """Most transitions that the replay keeps."""
        return _MOST_BY_ITSELF if self.replay_capacity == "auto" else self.replay_capacity

    @property
    def least_kept(self) -> int:
        """Fewest transitions that the device must have memory for."""
        return self.warmstart_steps + 1 if self.replay_capacity == "auto" else self.replay_capacity

    @property
    def ratio(self) -> float | None:
        """Learner steps per environment step; None if both sides run free."""
        if self.update_to_data_ratio == "free":
            return None
        try:
            ratio = float(self.update_to_data_ratio)
        except ValueError:
            ratio = math.nan  # Outside every range, so the check above refuses it.
        return ratio
