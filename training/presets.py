"""Recipes: settings of a training that were chosen by evidence, by the machine they are for.

What they are chosen by stands in docs/results.md.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from training.config import TrainConfig, given


def chosen(arguments: Sequence[str]) -> str | None:
    """The preset that a command line names, if any; in the place of `auto` what suits.

    Args:
        arguments: of `pianist train`.

    Raises:
        BadInput: `auto`, and no Ray cluster answers where the environment says there is one.
    """
    preset = given(arguments, "--preset")
    if preset != "auto":
        return preset
    # Both take seconds to import.
    from common import ray_session
    from learner import device

    if ray_session.cluster_address() is not None:
        return "many-actors"
    platform = given(arguments, "--platform")
    return "gpu-box" if device.gpu_is_here("cpu" if platform == "cpu" else "auto") else "few-cores"


def default_for(preset: str | None) -> TrainConfig:
    """The settings that a command line begins with.

    Args:
        preset: that it names, if any; every flag overrides it.
    """
    match preset:
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
        case "gpu-box":
            config = _where_data_are_plentiful("gpu-box", update_to_data_ratio="free")
            actor = dataclasses.replace(config.actor, environments_per_actor=8)
            return dataclasses.replace(config, actor=actor)
    return TrainConfig()


def _where_data_are_plentiful(
    preset: Literal["few-cores", "many-actors", "gpu-box"], **replay: Any
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
