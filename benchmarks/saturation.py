"""Where a run saturates: what was measured on one machine, carried on to many.

All limits are in environment steps a second; each brings one transition to the replay server, from
there to the learner. What the learner draws from them it draws on its own device.

- The actors make cores / step time; what an actor needs for writing, measured, is part of a step.
- The replay server and the learner's reader each carry as many as one core does in a second.
- The network of the head takes in what the actors write and gives out the parameters, once a
  second to every node: (bandwidth - parameter bytes x nodes) / bytes of a transition.
- The learner makes u steps a second: u / r, with an update-to-data ratio r. It alone depends on it.
"""

from collections.abc import Sequence
from typing import Any

CORES = (16, 64, 256, 1_024)
RATIOS = (1.0, 0.1, 0.01)
# A node as clouds rent them out, a head apart from the actors, and its network.
_CORES_OF_A_NODE = 16
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
    # Where most actors wrote: a busy server has no slack in its figures.
    busiest = figures["replay"]["by_actors"][-1]
    actor_seconds = figures["step_seconds"] + 1e-6 * busiest["writer_microseconds"]
    rows = []
    for number in cores:
        nodes = max(1, number // _CORES_OF_A_NODE)
        for ratio in RATIOS:
            room = _NETWORK_BYTES_PER_SECOND - nodes * figures["parameters"]["bytes"]
            limits = {
                "actors": number / actor_seconds,
                "replay": 1e6 / busiest["server_microseconds"],
                "reader": 1e6 / busiest["reader_microseconds"],
                "network": room / busiest["bytes"],
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
