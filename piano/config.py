"""Settings of the song, the environment and the recordings."""

import dataclasses
import pathlib
import re
from typing import Literal

from common.errors import require, require_range

_CAMERAS = tuple(
    f"piano/{view}" for view in ("back", "closeup", "egocentric", "left", "right", "topdown")
)


_EXCERPT = re.compile(r"(\d{1,9}(?:\.\d*)?):(\d{1,9}(?:\.\d*)?)")
_BARS = re.compile(r"(\d{1,9})-(\d{1,9})")


@dataclasses.dataclass(frozen=True)
class ArrangementConfig:
    """What is played of a piece, and how."""

    excerpt: str = ""
    """Part to play, as BEGIN:END in seconds of the piece before --stretch-factor, such as
    12.5:22.5. Notes that sound across its edges are cut. "" is the whole piece."""
    bars: str = ""
    """Part of a MIDI file to play, as FIRST-LAST in bars, such as 9-16. Bars count from 1; an
    upbeat is bar 1. "" is the whole piece."""
    tracks: tuple[int, ...] = ()
    """Tracks of a MIDI file to play, counted from 1 as `pianist song` lists them. The default is
    all."""
    channels: tuple[int, ...] = ()
    """MIDI channels to play, 1 to 16. The default is all but 10, which is percussion."""
    stretch_factor: float = 1.0
    """Factor on the duration of the piece: above 1 is slower, below 1 is faster."""
    shift_factor: int = 0
    """Transposition in semitones; positive is higher."""
    trim_silence: bool = False
    """Remove the silence before the first note and after the last."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        require_range(self, "stretch_factor", least=0.1, most=10)
        require_range(self, "shift_factor", least=-87, most=87, unit="semitones")
        require(
            not (self.excerpt and self.bars), "--excerpt and --bars both choose a part: give one"
        )
        span = self.excerpt_seconds
        require(
            not self.excerpt or (span is not None and span[0] < span[1]),
            f"--excerpt is {self.excerpt}, must be BEGIN:END in seconds, such as 12.5:22.5",
        )
        require(
            all(track >= 1 for track in self.tracks),
            f"--tracks is {_listed(self.tracks)}, must be numbers counted from 1",
        )
        require(
            all(1 <= channel <= 16 for channel in self.channels),
            f"--channels is {_listed(self.channels)}, must be numbers from 1 to 16",
        )
        bars = self.first_and_last_bar
        require(
            not self.bars or (bars is not None and 1 <= bars[0] <= bars[1]),
            f"--bars is {self.bars}, must be FIRST-LAST, counted from 1, such as 9-16",
        )

    @property
    def excerpt_seconds(self) -> tuple[float, float] | None:
        """Begin and end of --excerpt in seconds; None if it is not given."""
        found = _EXCERPT.fullmatch(self.excerpt)
        return (float(found[1]), float(found[2])) if found else None

    @property
    def first_and_last_bar(self) -> tuple[int, int] | None:
        """First and last bar of --bars; None if it is not given."""
        found = _BARS.fullmatch(self.bars)
        return (int(found[1]), int(found[2])) if found else None


@dataclasses.dataclass(frozen=True)
class SongConfig(ArrangementConfig):
    """The piece to play, and how to arrange it."""

    environment_name: str = "RoboPianist-debug-TwinkleTwinkleRousseau-v0"
    """Name of one of robopianist's pieces. --midi-file takes precedence over it."""
    midi_file: tuple[pathlib.Path, ...] = ()
    """MIDI file (.mid) to play instead of a named piece. One policy learns all files given."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        super().__post_init__()
        if self.midi_file:
            return
        require(
            not self.bars,
            f"--bars is {self.bars}, but robopianist's pieces have no bars: choose a part with "
            "--excerpt, or give --midi-file",
        )
        require(
            not self.tracks and not self.channels,
            "--tracks and --channels choose from a MIDI file: give --midi-file, too",
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """The task and its physics; the names match those of robopianist and robopianist-rl."""

    n_steps_lookahead: int = 10
    """Number of control steps of the song that the policy sees ahead."""
    gravity_compensation: bool = False
    """Compensate for gravity on the hands."""
    reduced_action_space: bool = False
    """Lock the joints that matter least for piano playing."""
    control_timestep: float = 0.05
    """Length of a control step in seconds, the time between two actions."""
    wrong_press_termination: bool = False
    """End the episode at the first wrong key press."""
    disable_fingering_reward: bool = False
    """Disable the reward for fingers near the keys that are due."""
    preparation_steps: int = 0
    """Number of control steps before an onset from which fingers also earn reward near its keys.
    The policy learns from this reward. Reported returns and the observed reward stay
    robopianist's. With 0 the policy learns from robopianist's reward alone."""
    disable_forearm_reward: bool = False
    """Disable the reward for keeping the forearms apart."""
    disable_colorization: bool = False
    """Keep fingertips and keys in their plain colors."""
    disable_hand_collisions: bool = False
    """Let the hands pass through each other."""
    primitive_fingertip_collisions: bool = False
    """Use capsules instead of meshes for fingertip collisions, which is faster."""
    frame_stack: int = 1
    """Number of consecutive observations that the policy receives at once."""
    clip: bool = True
    """Clip actions to the range [-1, 1]."""
    action_reward_observation: bool = False
    """Add the last action and reward to the observation."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
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
    """The recording of an evaluation: video, sound and MIDI."""

    camera_id: str = "piano/back"
    """Camera of the video: piano/ followed by back, closeup, egocentric, left, right or topdown."""
    record_resolution: tuple[int, int] = (480, 640)
    """Height and width of the video in pixels."""
    render_quality: Literal["fast", "high"] = "fast"
    """Quality of the video. `high` draws shadows, reflections and smooth edges, and is about 15
    times slower without a GPU."""
    velocity: Literal["touch", "fixed"] = "touch"
    """MIDI velocity in the sound and the MIDI file: `touch` takes it from the speed of the key,
    `fixed` is 127 for every note."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range. The message names the flag, value and range.
        """
        require(
            self.camera_id in _CAMERAS,
            f"--camera-id is {self.camera_id}, must be one of {', '.join(_CAMERAS)}",
        )
        require(
            all(16 <= side <= 4096 and side % 2 == 0 for side in self.record_resolution),
            f"--record-resolution is {self.record_resolution}, must be even numbers, 16 to 4096",
        )
