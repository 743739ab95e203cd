"""Estimate of a run's memory on this machine from its settings, before the run starts.

The estimate is a lower bound, so that no run that would fit is rejected.
"""

from common import memory
from common.errors import require
from common.files import LARGEST_FOLDER
from learner import sac
from learner.ring import ring_bytes
from piano.task_spec import TaskSpec
from replay.packing import packed_size
from training.config import TrainConfig

# Saving a checkpoint needs the training state, a copy of it, and the bytes of its file.
_COPIES_OF_STATE = 3
_FLOAT_BYTES = 4
_NETWORK = "--agent-config.hidden-dims"


def needed(config: TrainConfig, piano: TaskSpec) -> dict[str, float]:
    """Returns the bytes that a run needs, by the flag that determines them.

    Args:
        config: Settings of the run.
        piano: Task specification of a song.
    """
    layout = piano.layout
    shape = layout.frames, layout.proprioception_dim
    agent = config.learner.agent_config
    size = packed_size(shape, piano.action_dim)
    # A transition has two observations, factored and assembled. Each critic's layers also keep
    # their values for the gradient.
    assembled = 2 * layout.observation_dim + agent.num_qs * sum(agent.hidden_dims)
    transition = 2 * size + assembled
    state = sac.state_bytes(config.learner, layout.observation_dim, piano.action_dim)
    return {
        "--replay-capacity": ring_bytes(config.replay.least_kept, size),
        "--batch-size": config.replay.batch_size * transition * _FLOAT_BYTES,
        _NETWORK: _COPIES_OF_STATE * state,
    }


def require_room(config: TrainConfig, piano: TaskSpec, on_cluster: bool) -> None:
    """Rejects a run that needs more memory than this machine has.

    Args:
        config: Settings of the run.
        piano: Task specification of a song.
        on_cluster: Whether the run uses other machines, whose memory is unknown here.

    Raises:
        BadInput: The run needs too much memory. The message names the memory needed, the memory
            available and the flag to lower.
    """
    by_flag = needed(config, piano)
    state = by_flag[_NETWORK] / _COPIES_OF_STATE
    require(
        state <= LARGEST_FOLDER,
        f"{_NETWORK} is {config.learner.agent_config.hidden_dims}: a checkpoint takes "
        f"{_shown(state)}, may have {_shown(LARGEST_FOLDER)}",
    )
    if on_cluster:
        return
    _, there = memory.free()
    flag, most = max(by_flag.items(), key=lambda item: item[1])
    whole = sum(by_flag.values())
    require(
        whole <= there,
        f"the run takes {_shown(whole)} of memory, and this machine has {_shown(there)}: lower "
        f"{flag}, for which {_shown(most)} are needed",
    )


def _shown(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
