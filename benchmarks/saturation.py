"""Where a run saturates: what was measured on one machine, carried on to many.

All limits are in environment steps a second. With an update-to-data ratio r and batches of b
transitions, an environment step brings one transition to the replay server and takes r b from it.

- The actors make (cores - cores of the head) / step time; what an actor needs for writing,
  measured, is part of a step.
- The replay server is a process with some cores of its own, and needs w seconds of them for a
  transition written and s for one sampled: cores / (w + r b s).
- The network of the head takes in what the actors write and gives out the parameters, once a
  second to every node: (bandwidth - parameter bytes x nodes) / bytes of a transition.
- The learner makes u steps a second: u / r.
"""

from collections.abc import Sequence
from typing import Any

CORES = (16, 64, 256, 1_024)
RATIOS = (1.0, 0.1, 0.01)
# A node as clouds rent them out, a head apart from the actors, and its network.
_CORES_OF_A_NODE = 16
_SERVER_CORES = 8
_NETWORK_BYTES_PER_SECOND = 10e9 / 8


def saturation(figures: dict[str, Any], cores: Sequence[int] = CORES) -> list[dict[str, Any]]:
    """What limits runs of some sizes.

    Args:
        figures: `replay`, `parameters`, `learner` and `step_seconds`, see `benchmarks.scale`.
        cores: of the actors' machines in all.

    Returns:
        For each number of cores and each ratio: what the actors could make, what each part
        carries (environment steps a second), what comes of it, the part that limits it, and how
        many learner steps a second a learner would have to make for another part to do so.
    """
    replay, batch_size = figures["replay"], figures["replay"]["batch_size"]
    # Where most actors wrote: a busy server has no slack in its figures.
    writing, sampling = replay["writing"][-1], replay["sampling"]
    write_seconds = 1e-6 * writing["server_microseconds"]
    sample_seconds = 1e-6 * sampling["server_microseconds"]
    actor_seconds = figures["step_seconds"] + 1e-6 * writing["client_microseconds"]
    rows = []
    for number in cores:
        nodes = max(1, number // _CORES_OF_A_NODE)
        for ratio in RATIOS:
            room = _NETWORK_BYTES_PER_SECOND - nodes * figures["parameters"]["bytes"]
            limits = {
                "actors": number / actor_seconds,
                "replay": _SERVER_CORES / (write_seconds + ratio * batch_size * sample_seconds),
                "network": room / writing["bytes"],
                "learner": figures["learner"]["steps_per_second"] / ratio,
            }
            limiting = min(limits, key=lambda name: limits[name])
            others = min(limit for name, limit in limits.items() if name != "learner")
            rows.append(
                {
                    "cores": number,
                    "update_to_data_ratio": ratio,
                    "limits": limits,
                    "environment_steps_per_second": limits[limiting],
                    "limited_by": limiting,
                    "learner_steps_per_second_wanted": ratio * others,
                }
            )
    return rows
