"""Placement of a run's parts on the nodes of a cluster.

Custom resources of Ray declare the purpose of each node:

    learner   1 on a node for learner, replay server and evaluator
    actor     the number of processors on a node for actors

If no node offers `learner`, only processors and GPUs decide. If this process started Ray itself
on one machine, the number of actors is not limited.
"""

from typing import Any, NamedTuple

import ray

from learner.config import Platform
from learner.device import variables

# The resource only marks a node, so its amount is small enough for any number of runs.
_A_LITTLE = 0.001


class Placement(NamedTuple):
    """The options of Ray actors and tasks, by their role."""

    learner: dict[str, Any]
    """Options of the learner, which gets a GPU if there is one."""
    beside_learner: dict[str, Any]
    """Options of replay server, parameter server and evaluator, which reserve no processor."""
    actor: dict[str, Any]
    """Options of actors, which Ray spreads over all nodes. Ray itself avoids nodes that are about
    to be preempted."""

    @property
    def actor_bundle(self) -> dict[str, float]:
        """Resources that one actor requests, in the autoscaler's form."""
        return {"CPU": self.actor["num_cpus"], **self.actor.get("resources", {})}

    def actors_that_fit(self) -> int:
        """Returns how many actors fit on the cluster if nothing else runs, at least one."""
        whole = ray.cluster_resources()
        needed = {name: need for name, need in self.actor_bundle.items() if need}
        if not needed:
            return int(whole["CPU"])
        return max(1, int(min(whole.get(name, 0) // need for name, need in needed.items())))

    def actors_beside_learner(self) -> int:
        """Returns how many actors fit on the cluster beside a learner, at least one."""
        taken = 0 if "resources" in self.learner else self.learner["num_cpus"]
        return max(1, self.actors_that_fit() - taken)


def placement(on_cluster: bool, platform: Platform = "auto") -> Placement:
    """Returns the placement for the Ray instance that this process is connected to.

    Args:
        on_cluster: Whether Ray runs on a cluster, rather than being started by this process.
        platform: Platform of the learner.
    """
    resources = ray.cluster_resources()
    gpus = 0 if platform == "cpu" else min(1, resources.get("GPU", 0))
    learner: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus}
    if platform != "auto":
        learner["runtime_env"] = {"env_vars": variables(platform)}
    beside: dict[str, Any] = {"num_cpus": 0}
    actor: dict[str, Any] = {"num_cpus": int(on_cluster), "scheduling_strategy": "SPREAD"}
    if "learner" in resources:
        learner["resources"] = beside["resources"] = {"learner": _A_LITTLE}
        actor["resources"] = {"actor": 1}
    return Placement(learner, beside, actor)
