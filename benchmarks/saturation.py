"""Saturation of large runs, extrapolated from measurements on one machine.

All limits are in environment steps per second. Each environment step sends one transition to the
replay server and from there to the learner. The learner draws batches on its own device.

- Actors: cores / step time, where the step time includes the measured time for writing.
- Replay server and learner's reader: the number of transitions that one core handles per second.
- Network of the head node: it receives all transitions, and sends the parameters once per second
  to every node: (bandwidth - parameter bytes x nodes) / bytes of a transition.
- Learner: u / r with u learner steps per second and an update-to-data ratio r. It is the only limit
  that depends on r.
"""

from collections.abc import Sequence
from typing import Any

CORES = (16, 64, 256, 1_024)
RATIOS = (1.0, 0.1, 0.01)
# A typical cloud node and its network; the head node is separate from the actors.
_CORES_OF_A_NODE = 16
_NETWORK_BYTES_PER_SECOND = 10e9 / 8


def saturation(figures: dict[str, Any], cores: Sequence[int] = CORES) -> list[dict[str, Any]]:
    """Computes the limits of runs of several sizes.

    Args:
        figures: `replay`, `parameters`, `learner` and `step_seconds`, see `benchmarks.scale`.
        cores: Total numbers of cores of the actors' machines.

    Returns:
        One row per number of cores and ratio: the limit of each part and the resulting speed in
        environment steps per second, the limiting part, and the learner steps per second at which
        another part would be the limit.
    """
    # Use the figures with the most actors, because only a busy server has no idle time.
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
