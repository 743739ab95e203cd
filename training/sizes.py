"""What a run takes of this machine's memory, from its settings, before anything is started.

It is the least that is known to be needed, so that nothing is refused that could have been done.
"""

from common import memory
from common.errors import require
from common.files import LARGEST_FOLDER
from learner import sac
from learner.ring import ring_bytes
from piano.task_spec import TaskSpec
from replay.packing import packed_size
from training.config import TrainConfig

# The state that learns, its copy, and the bytes of its file, while a checkpoint is saved.
_COPIES_OF_STATE = 3
_FLOAT_BYTES = 4
_NETWORK = "--agent-config.hidden-dims"


def needed(config: TrainConfig, piano: TaskSpec) -> dict[str, float]:
    """Bytes by the flag that decides about them."""
    layout = piano.layout
    shape = layout.frames, layout.proprioception_dim
    agent = config.learner.agent_config
    size = packed_size(shape, piano.action_dim)
    # Both observations of a transition, factored and assembled, and what each critic's layers keep
    # for the gradient.
    assembled = 2 * layout.observation_dim + agent.num_qs * sum(agent.hidden_dims)
    transition = 2 * size + assembled
    state = sac.state_bytes(config.learner, layout.observation_dim, piano.action_dim)
    return {
        "--replay-capacity": ring_bytes(config.replay.least_kept, size),
        "--batch-size": config.replay.batch_size * transition * _FLOAT_BYTES,
        _NETWORK: _COPIES_OF_STATE * state,
    }


def require_room(config: TrainConfig, piano: TaskSpec, on_cluster: bool) -> None:
    """Refuses a run for which there is no room.

    Args:
        config: of the run.
        piano: that is played.
        on_cluster: whether it runs on other machines, of which nothing is known here.

    Raises:
        BadInput: with what the run takes, what there is, and the flag to lower.
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
