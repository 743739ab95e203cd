"""Presets: settings of a training run for different kinds of machines.

The settings were chosen by experiments, which docs/results.md describes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from training.config import TrainConfig, given


def chosen(arguments: Sequence[str]) -> str | None:
    """Returns the preset that a command line names, with `auto` resolved for this machine.

    Args:
        arguments: Arguments of `pianist train`.

    Returns:
        Name of the preset; None if the command line names none.

    Raises:
        BadInput: The preset is `auto`, and the Ray cluster that the environment names does not
            answer.
    """
    preset = given(arguments, "--preset")
    if preset != "auto":
        return preset
    # Both imports take seconds.
    from common import ray_session
    from learner import device

    if ray_session.cluster_address() is not None:
        return "many-actors"
    platform = given(arguments, "--platform")
    return "gpu-box" if device.gpu_is_here("cpu" if platform == "cpu" else "auto") else "few-cores"


def default_for(preset: str | None) -> TrainConfig:
    """Returns the default settings of a preset, which the flags override.

    Args:
        preset: Name of the preset; None for the defaults of `TrainConfig`.
    """
    match preset:
        case "few-cores":
            # Learner and actors each run as fast as they can on their share of the cores. A
            # recording costs as much processor time as about 1,500 environment steps.
            config = _where_data_are_plentiful(
                "few-cores", update_to_data_ratio="free", replay_capacity=100_000
            )
            return dataclasses.replace(config, record_every=5)
        case "many-actors":
            # The ratio prevents actors and learner from running ahead of each other.
            return _where_data_are_plentiful("many-actors", update_to_data_ratio="0.05")
        case "gpu-box":
            config = _where_data_are_plentiful("gpu-box", update_to_data_ratio="free")
            actor = dataclasses.replace(config.actor, environments_per_actor=8)
            return dataclasses.replace(config, actor=actor)
    return TrainConfig()


def _where_data_are_plentiful(
    preset: Literal["few-cores", "many-actors", "gpu-box"], **replay: Any
) -> TrainConfig:
    """Returns settings with larger learner steps, for many more transitions than learner steps."""
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
