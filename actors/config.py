"""Settings of the actors."""

import dataclasses
from typing import Literal

from common.errors import require_range


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """The processes that act."""

    actors: int | Literal["auto"] = "auto"
    """Actor processes; `auto` takes one for each core that learner, replay server and evaluator
    leave: all but two on a machine with a GPU, half of them on one without, on a cluster as many
    as it has room for."""
    environments_per_actor: int = 2
    """Environments in each actor process, all acted for in one forward pass."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        if self.actors != "auto":
            require_range(self, "actors", least=1, most=4096)
        require_range(self, "environments_per_actor", least=1, most=256)
