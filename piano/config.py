"""Settings of the song, the environment and the recordings."""

import dataclasses
import pathlib
from typing import Literal

from common.errors import require, require_range

_CAMERAS = tuple(
    f"piano/{view}" for view in ("back", "closeup", "egocentric", "left", "right", "topdown")
)


@dataclasses.dataclass(frozen=True)
class SongConfig:
    """Which piece is played, and how."""

    environment_name: str = "RoboPianist-debug-TwinkleTwinkleRousseau-v0"
    """One of robopianist's pieces; --midi-file goes before it."""
    midi_file: tuple[pathlib.Path, ...] = ()
    """MIDI file (.mid) to play instead; several are learnt together, by one policy."""
    stretch_factor: float = 1.0
    """Slower above 1, faster below."""
    shift_factor: int = 0
    """Transposition in semitones."""
    trim_silence: bool = False
    """Begin with the first note and end with the last."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require_range(self, "stretch_factor", least=0.1, most=10)
        require_range(self, "shift_factor", least=-87, most=87, unit="semitones")


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """The task and its physics; names and meanings as in robopianist and robopianist-rl."""

    n_steps_lookahead: int = 10
    """Control steps of the song that the policy sees ahead."""
    gravity_compensation: bool = False
    """Free the hands of their weight."""
    reduced_action_space: bool = False
    """Lock the joints that piano playing needs least."""
    control_timestep: float = 0.05
    """Seconds between actions."""
    wrong_press_termination: bool = False
    """End the episode at the first wrong key."""
    disable_fingering_reward: bool = False
    """No reward for fingers near the keys that are due."""
    preparation_steps: int = 0
    """Control steps before an onset from which fingers are rewarded for being near its keys, too,
    beside those due now. The policy learns from this reward; returns, and the reward that it
    observes, stay robopianist's. 0 learns from robopianist's reward alone."""
    disable_forearm_reward: bool = False
    """No reward for keeping the forearms apart."""
    disable_colorization: bool = False
    """Leave fingertips and keys in their plain colors."""
    disable_hand_collisions: bool = False
    """Let the hands pass through each other."""
    primitive_fingertip_collisions: bool = False
    """Capsules instead of meshes as fingertips: faster."""
    frame_stack: int = 1
    """Observations in a row given to the policy."""
    clip: bool = True
    """Clip actions to [-1, 1]."""
    action_reward_observation: bool = False
    """Add the last action and reward to the observation."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require_range(self, "n_steps_lookahead", "preparation_steps", least=0, most=1000)
        require(
            0.005 <= self.control_timestep <= 1.0
            and abs(self.control_timestep / 0.005 - round(self.control_timestep / 0.005)) < 1e-9,
            f"--control-timestep is {self.control_timestep}, must be 0.005 to 1 second and a "
            "multiple of the physics timestep of 0.005 s",
        )
        require_range(self, "frame_stack", least=1, most=100)


@dataclasses.dataclass(frozen=True)
class RecordingConfig:
    """What is kept of an evaluation."""

    camera_id: str = "piano/back"
    """Camera of the video: piano/ and back, closeup, egocentric, left, right or topdown."""
    record_resolution: tuple[int, int] = (480, 640)
    """Height and width of the video in pixels."""
    render_quality: Literal["fast", "high"] = "fast"
    """`high` draws shadows, reflections and smooth edges: some 15 times slower without a GPU."""
    velocity: Literal["touch", "fixed"] = "touch"
    """MIDI velocity in sound and MIDI file: from the speed of the key, or 127 throughout."""

    def __post_init__(self) -> None:
        """Refuses values out of range.

        Raises:
            BadInput: naming the flag, its value and the range.
        """
        require(
            self.camera_id in _CAMERAS,
            f"--camera-id is {self.camera_id}, must be one of {', '.join(_CAMERAS)}",
        )
        require(
            all(16 <= side <= 4096 and side % 2 == 0 for side in self.record_resolution),
            f"--record-resolution is {self.record_resolution}, must be even numbers, 16 to 4096",
        )
