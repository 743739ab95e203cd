"""Settings of the replay: what is kept, what carries it, and how fast it is learnt from."""

import dataclasses
import math
from typing import Literal

from common.errors import require, require_range

_MOST = 2**30  # Places in the ring are counted in 32 bits.
_MOST_BY_ITSELF = 1_000_000


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of the replay."""

    replay: Literal["auto", "reverb", "memory"] = "auto"
    """What carries steps from the actors to the learner: Reverb, or a queue in a Ray actor; `auto`
    takes Reverb where it is installed."""
    replay_servers: int = 1
    """Replay servers side by side. One carries what hundreds of cores play."""
    replay_capacity: int | Literal["auto"] = "auto"
    """Transitions kept, on the learner's device; the oldest are overwritten first. `auto` takes a
    million, or as many as half of the device's free memory holds."""
    batch_size: int = 256
    """Transitions in one learner step."""
    warmstart_steps: int = 5_000
    """Environment steps with uniformly random actions before the first learner step."""
    update_to_data_ratio: str = "1"
    """Learner steps an environment step, held by back-pressure on whichever side runs ahead;
    `free` lets actors and learner each go as fast as they can."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
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
        """Transitions kept, at most."""
        return _MOST_BY_ITSELF if self.replay_capacity == "auto" else self.replay_capacity

    @property
    def least_kept(self) -> int:
        """Transitions for which there has to be room."""
        return self.warmstart_steps + 1 if self.replay_capacity == "auto" else self.replay_capacity

    @property
    def ratio(self) -> float | None:
        """Learner steps an environment step; None where both sides run free."""
        if self.update_to_data_ratio == "free":
            return None
        try:
            ratio = float(self.update_to_data_ratio)
        except ValueError:
            ratio = math.nan  # Outside every range: refused by the check above.
        return ratio
