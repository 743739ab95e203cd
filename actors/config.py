"""Settings of the actors."""

import dataclasses
from typing import Literal

from common.errors import require_range


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """Settings of the processes that act."""

    actors: int | Literal["auto"] = "auto"
    """Number of actor processes. `auto` takes one for each core that the learner, the replay server
    and the evaluator leave free: all but two cores on a machine with a GPU, half of the cores on
    one without, and as many as fit on a cluster."""
    environments_per_actor: int = 2
    """Environments in each actor process. Each of its threads chooses the actions for all of its
    environments in one forward pass."""

    def __post_init__(self) -> None:
        """Checks that every value is in range.

        Raises:
            BadInput: A value is out of range; the message names the flag, its value and the range.
        """
        if self.actors != "auto":
            require_range(self, "actors", least=1, most=4096)
        require_range(self, "environments_per_actor", least=1, most=256)
