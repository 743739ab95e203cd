"""One episode, or a stretch of it, played and kept."""

import math
from collections.abc import Callable

import numpy as np

from piano.environment import PianoEnvironment, Snapshot
from piano.performance import Performance, cut_notes, notes_of_frames
from replay.transition import Observation

# A key of 15 cm moves its hammer about five times as fast as its own end.
_KEY_METERS = 0.15
_HAMMER_RATIO = 5.0


def play(
    environment: PianoEnvironment,
    act: Callable[[Observation], np.ndarray],
    start: Snapshot | None = None,
    steps: int | None = None,
) -> Performance:
    """Plays one episode, or a stretch of it.

    Args:
        environment: is reset first, or put back to `start`.
        act: maps an observation to an action (action dimension,).
        start: where to begin; by default at the beginning.
        steps: control steps after which to end; by default the episode is played to its end.

    Returns:
        What was played, on a clock that begins with it. Keys that are down at the start are in
        the frames, and are no notes.
    """
    piano = environment.piano
    timestep = environment.reset() if start is None else environment.restore(start)
    begin = 0 if start is None else start.step
    listener = _Listener(environment)
    positions = [environment.data.qpos.astype(np.float32)]
    rewards: list[float] = []
    played_keys, played_pedal = [], []
    while not timestep.last and len(rewards) != steps:
        timestep = environment.step(act(timestep.observation), listener.listen)
        rewards.append(timestep.reward)
        played_keys.append(environment.keys_down)
        played_pedal.append(environment.pedal_down)
        positions.append(environment.data.qpos.astype(np.float32))
    # A wrong press may have ended the episode early: what comes later was never due.
    end = begin + len(rewards)
    control_timestep = piano.config.control_timestep
    seconds = begin * control_timestep, end * control_timestep
    # The task looks at the keys at the end of a control step: a note is due when it does.
    due_notes = notes_of_frames(piano.score.keys[:end], control_timestep)
    first_steps = np.rint(due_notes[:, 0] / control_timestep).astype(int)
    velocities = piano.score.velocities[first_steps, due_notes[:, 2].astype(int)]
    due_notes = np.column_stack([due_notes, velocities])
    due_notes[:, :2] += control_timestep
    pedal_changes = np.array(listener.pedal_changes, np.float64).reshape(-1, 2)
    return Performance(
        control_timestep=np.array(control_timestep),
        due_keys=piano.score.keys[begin:end],
        due_pedal=piano.score.pedal[begin:end],
        played_keys=np.array(played_keys),
        played_pedal=np.array(played_pedal),
        rewards=np.array(rewards),
        due_notes=cut_notes(due_notes, *seconds),
        played_notes=cut_notes(listener.notes(), *seconds),
        pedal_changes=pedal_changes - np.array([seconds[0], 0.0]),
        positions=np.array(positions),
    )


class _Listener:
    """Hears keys and pedal after every physics step."""

    def __init__(self, environment: PianoEnvironment):
        self._environment = environment
        self._notes: list[list[float]] = []
        self._sounding: dict[int, list[float]] = {}
        self._down = environment.keys_down
        self._pedal_down = environment.pedal_down
        self.pedal_changes: list[tuple[float, float]] = (
            [(environment.data.time, 1.0)] if environment.pedal_down else []
        )
        """Seconds, and 1.0 for down or 0.0 for up; a pedal that is down at the start goes down
        then."""

    def listen(self) -> None:
        environment = self._environment
        environment.read_keys()
        seconds = environment.data.time
        speeds = environment.data.qvel[environment.piano.scene.key_velocities]
        for key in np.flatnonzero(environment.keys_down & ~self._down):
            note = [seconds, math.inf, float(key), midi_velocity(speeds[key])]
            self._sounding[key] = note
            self._notes.append(note)
        for key in np.flatnonzero(self._down & ~environment.keys_down):
            if key in self._sounding:  # Otherwise it was down at the start.
                self._sounding.pop(key)[1] = seconds
        if environment.pedal_down != self._pedal_down:
            self.pedal_changes.append((seconds, float(environment.pedal_down)))
        self._down, self._pedal_down = environment.keys_down, environment.pedal_down

    def notes(self) -> np.ndarray:
        """(M, 4) float64: onset and offset in seconds of the episode, key, MIDI velocity.

        The offset of a note that goes on is infinite.
        """
        return np.array(self._notes, np.float64).reshape(-1, 4)


def midi_velocity(key_speed: float) -> float:
    """The MIDI velocity of a touch, 1 to 127.

    58 + 71.3 log10(hammer speed in m/s), as measured on a computer-controlled grand piano
    (Goebl and Bresin, J. Acoust. Soc. Am. 114, 2003, 2273).

    Args:
        key_speed: of the key as it begins to sound, in radians a second.
    """
    hammer_speed = _HAMMER_RATIO * _KEY_METERS * max(float(key_speed), 1e-6)
    return float(round(min(127.0, max(1.0, 57.96 + 71.3 * math.log10(hammer_speed)))))
