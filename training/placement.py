"""Which machine does what: nodes of a cluster say by custom resources what they are for.

    learner   1 on a node that is to have learner, replay server and evaluator
    actor     as many as it has processors, on a node that is to act

Where no node offers `learner`, processors and GPUs decide alone; in a Ray of our own, on one
machine, as many actors play as are wanted.
"""

from typing import Any, NamedTuple

import ray

from learner.config import Platform
from learner.device import variables

# Resources of a node are a mark here, not a measure: any number of runs finds room.
_A_LITTLE = 0.001


class Placement(NamedTuple):
    """Options of Ray actors and tasks, by what they do."""

    learner: dict[str, Any]
    """With a GPU where there is one."""
    beside_learner: dict[str, Any]
    """Replay server, parameter server, evaluator: they take no processor of their own."""
    actor: dict[str, Any]
    """Whatever plays. On as many nodes as there are; Ray itself keeps them off nodes that are
    about to be taken."""

    @property
    def actor_bundle(self) -> dict[str, float]:
        """What one actor asks of the cluster, as the autoscaler is told."""
        return {"CPU": self.actor["num_cpus"], **self.actor.get("resources", {})}

    def actors_that_fit(self) -> int:
        """How many the cluster as it is has room for, if nothing else ran; at least one."""
        whole = ray.cluster_resources()
        needed = {name: need for name, need in self.actor_bundle.items() if need}
        if not needed:
            return int(whole["CPU"])
        return max(1, int(min(whole.get(name, 0) // need for name, need in needed.items())))

    def actors_beside_learner(self) -> int:
        """How many the cluster as it is has room for beside a learner; at least one."""
        taken = 0 if "resources" in self.learner else self.learner["num_cpus"]
        return max(1, self.actors_that_fit() - taken)


def placement(on_cluster: bool, platform: Platform = "auto") -> Placement:
    """The placement for the Ray that we are connected to.

    Args:
        on_cluster: whether it is a cluster's, not our own.
        platform: that is to learn.
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
