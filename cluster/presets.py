"""Recipes: settings of a training that were chosen by evidence, by the machine they are for.

What they are chosen by stands in docs/results.md.
"""

import dataclasses
from collections.abc import Sequence

from cluster.config import TrainConfig, given


def default_for(arguments: Sequence[str]) -> TrainConfig:
    """The settings that a command line begins with: those of the preset that it names, if any.

    Args:
        arguments: of `pianist train`; every flag among them overrides the preset.
    """
    config = TrainConfig()
    return _few_cores(config) if given(arguments, "--preset") == "few-cores" else config


def _few_cores(config: TrainConfig) -> TrainConfig:
    """A laptop: learner and actors each go as fast as they can on their share of the cores."""
    agent = dataclasses.replace(
        config.learner.agent_config,
        init_temperature=0.2,
        actor_lr=1e-3,
        critic_lr=1e-3,
        temp_lr=1e-3,
        anneal_lr=True,
        tau=0.05,
    )
    return dataclasses.replace(
        config,
        preset="few-cores",
        actor=dataclasses.replace(config.actor, environments_per_actor=16),
        replay=dataclasses.replace(
            config.replay, update_to_data_ratio="free", batch_size=64, warmstart_steps=2_000
        ),
        learner=dataclasses.replace(config.learner, agent_config=agent),
    )
