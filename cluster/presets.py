"""Recipes: settings of a training that were chosen by evidence, by the machine they are for.

What they are chosen by stands in docs/results.md.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from cluster.config import TrainConfig, given


def default_for(arguments: Sequence[str]) -> TrainConfig:
    """The settings that a command line begins with: those of the preset that it names, if any.

    Args:
        arguments: of `pianist train`; every flag among them overrides the preset.
    """
    match given(arguments, "--preset"):
        case "few-cores":
            # Learner and actors each go as fast as they can on their share of the cores, of which
            # a recording takes as much as some 1,500 environment steps.
            config = _where_data_are_plentiful(
                "few-cores", update_to_data_ratio="free", replay_capacity=100_000
            )
            return dataclasses.replace(config, record_every=5)
        case "many-actors":
            # The ratio keeps actors from running away from the learner, or it from them.
            return _where_data_are_plentiful("many-actors", update_to_data_ratio="0.05")
    return TrainConfig()


def _where_data_are_plentiful(
    preset: Literal["few-cores", "many-actors"], **replay: Any
) -> TrainConfig:
    """Many more transitions than learner steps: each of these may go further."""
    config = TrainConfig()
    agent = dataclasses.replace(
        config.learner.agent_config,
        init_temperature=0.2,
        actor_lr=1e-3,
        critic_lr=1e-3,
        temp_lr=1e-3,
        anneal_lr=True,
        tau=0.05,
        actor_ema_tau=0.001,
    )
    return dataclasses.replace(
        config,
        preset=preset,
        actor=dataclasses.replace(config.actor, environments_per_actor=16),
        replay=dataclasses.replace(config.replay, warmstart_steps=2_000, **replay),
        learner=dataclasses.replace(config.learner, agent_config=agent),
    )
