"""Playing one episode, or a part of one, and keeping the performance."""

import math
from collections.abc import Callable

import numpy as np

from piano.environment import PianoEnvironment, Snapshot
from piano.performance import Performance, cut_notes, notes_of_frames
from replay.transition import Observation

# A hammer moves about five times as fast as the end of its key, which is 15 cm long.
_KEY_METERS = 0.15
_HAMMER_RATIO = 5.0


def play(
    environment: PianoEnvironment,
    act: Callable[[Observation], np.ndarray],
    start: Snapshot | None = None,
    steps: int | None = None,
) -> Performance:
    """Plays one episode, or a part of one.

    Args:
        environment: Environment to play in. It is first reset, or restored to `start`.
        act: Function from an observation to an action, (action dimension,).
        start: Snapshot to start from; None for the beginning of the episode.
        steps: Largest number of control steps to play; None for the rest of the episode.

    Returns:
        The performance, with times in seconds from its own start. Keys that are already down at
        the start appear in the frames but not as notes.
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
    # A wrong press may have ended the episode early. Later notes of the score then do not count.
    end = begin + len(rewards)
    control_timestep = piano.config.control_timestep
    seconds = begin * control_timestep, end * control_timestep
    # The task checks the keys at the end of a control step, so notes are due at that moment.
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
    """Follows keys and pedal after every physics step."""

    def __init__(self, environment: PianoEnvironment):
        self._environment = environment
        self._notes: list[list[float]] = []
        self._sounding: dict[int, list[float]] = {}
        self._down = environment.keys_down
        self._pedal_down = environment.pedal_down
        self.pedal_changes: list[tuple[float, float]] = (
            [(environment.data.time, 1.0)] if environment.pedal_down else []
        )
        """Time in seconds and new state (1.0 down, 0.0 up) of each pedal change. A pedal that is
        down at the start has its first change there."""

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
            if key in self._sounding:  # A key that was down at the start has no note.
                self._sounding.pop(key)[1] = seconds
        if environment.pedal_down != self._pedal_down:
            self.pedal_changes.append((seconds, float(environment.pedal_down)))
        self._down, self._pedal_down = environment.keys_down, environment.pedal_down

    def notes(self) -> np.ndarray:
        """Returns the notes so far, (M, 4) float64.

        The columns are onset and offset in seconds of the episode, key, and MIDI velocity. The
        offset of a note that still sounds is infinite.
        """
        return np.array(self._notes, np.float64).reshape(-1, 4)


def midi_velocity(key_speed: float) -> float:
    """Returns the MIDI velocity of a key press, 1 to 127.

    The formula is 57.96 + 71.3 log10(hammer speed in m/s), as measured on a computer-controlled
    grand piano (Goebl and Bresin, J. Acoust. Soc. Am. 114, 2003, 2273).

    Args:
        key_speed: Speed of the key when it starts to sound, in radians per second.
    """
    hammer_speed = _HAMMER_RATIO * _KEY_METERS * max(float(key_speed), 1e-6)
    return float(round(min(127.0, max(1.0, 57.96 + 71.3 * math.log10(hammer_speed)))))
