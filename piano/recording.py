"""Conversion of a performance to MIDI, sound and video."""

import contextlib
import copy
import os
import pathlib
import signal
import tempfile
import wave
from collections.abc import Iterator

import imageio_ffmpeg
import mujoco
import numpy as np
from note_seq.protobuf import music_pb2
from robopianist.music import constants, midi_file

from common.files import read_files
from piano import graphics
from piano.config import RecordingConfig
from piano.keyboard import LOWEST_PITCH
from piano.performance import Performance
from piano.task_spec import TaskSpec

_SECONDS_AFTER_THE_END = 1.0
# Color-blind people can tell these colors of Okabe and Ito apart. The report uses them, too.
_HIT, _WRONG, _DUE = (0.0, 0.62, 0.45, 1.0), (0.84, 0.37, 0.0, 1.0), (0.34, 0.71, 0.91, 1.0)
# This color shows the plain material of a key, as in robopianist's piano.py.
_PLAIN = (0.5, 0.5, 0.5, 1.0)


def what_is_missing() -> list[str]:
    """Returns a line for each of video and sound that this machine cannot produce."""
    reasons = [graphics.why_no_pictures(), what_is_missing_for_sound()]
    return [reason for reason in reasons if reason]


def what_is_missing_for_sound() -> str | None:
    """Returns what is missing for sound and how to install it; None if sound works."""
    try:
        import fluidsynth  # noqa: F401
    except ImportError:
        return "no sound: FluidSynth is not installed; sudo apt-get install libfluidsynth3"
    except (OSError, AttributeError) as error:  # The library is damaged or of another version.
        return (
            f"no sound: FluidSynth does not work here ({error}); "
            "sudo apt-get install --reinstall libfluidsynth3"
        )
    return None


def record(performance: Performance, piano: TaskSpec, config: RecordingConfig) -> dict[str, bytes]:
    """Returns the contents of the files that `write_recordings` writes, by file name."""
    with tempfile.TemporaryDirectory(prefix="pianist-") as folder:
        place = pathlib.Path(folder)
        write_recordings(performance, piano, config, place)
        return read_files(place)


def write_recordings(
    performance: Performance,
    piano: TaskSpec,
    config: RecordingConfig,
    folder: pathlib.Path,
    video: bool = True,
) -> None:
    """Writes played.mid and, where OpenGL works, video.mp4.

    Args:
        performance: Performance to record.
        piano: Task specification with the song and settings of the performance.
        config: Camera, size, quality and sound of the recording.
        folder: Folder for the files.
        video: Whether to write a video.
    """
    to_midi(performance, config.velocity).save(folder / "played.mid")
    if video and graphics.why_no_pictures() is None:
        write_video(performance, piano, config, folder / "video.mp4")


def to_midi(performance: Performance, velocity: str = "touch") -> midi_file.MidiFile:
    """Converts the notes and the pedal of a performance to robopianist's MIDI format.

    Args:
        performance: Performance to convert.
        velocity: "touch" for the velocities of the performance, "fixed" for robopianist's 127.
    """
    sequence = music_pb2.NoteSequence()
    for onset, offset, key, touch in performance.played_notes:
        sequence.notes.add(
            start_time=onset,
            end_time=offset,
            pitch=int(key) + LOWEST_PITCH,
            velocity=int(touch) if velocity == "touch" else 127,
        )
    for seconds, down in performance.pedal_changes:
        sequence.control_changes.add(
            time=seconds,
            control_number=constants.SUSTAIN_PEDAL_CC_NUMBER,
            control_value=127 if down else 0,
        )
    sequence.total_time = performance.seconds
    return midi_file.MidiFile(seq=sequence)


def write_sound(performance: Performance, velocity: str, path: pathlib.Path) -> None:
    """Synthesizes a performance to a mono 16-bit WAV file, which is silent if it has no notes.

    Args:
        performance: Performance to synthesize.
        velocity: "touch" or "fixed", see `to_midi`.
        path: Path of the WAV file.

    Raises:
        ImportError: FluidSynth is not installed.
    """
    write_midi_sound(to_midi(performance, velocity), path)


def write_midi_sound(midi: midi_file.MidiFile, path: pathlib.Path) -> None:
    """Synthesizes notes and pedal to a mono 16-bit WAV file, which is silent without notes.

    Args:
        midi: Notes and pedal in robopianist's MIDI format.
        path: Path of the WAV file.

    Raises:
        ImportError: FluidSynth is not installed.
    """
    rate = constants.SAMPLING_RATE
    samples = np.zeros(int(rate * (midi.seq.total_time + _SECONDS_AFTER_THE_END)))
    if len(midi.seq.notes):
        sound = midi.synthesize(rate)[: len(samples)]
        # pretty_midi normalizes every piece to full loudness, but soft playing must stay soft.
        # Amplitude is proportional to the square of the velocity (General MIDI's curve,
        # 40 log10(velocity / 127)).
        loudest = max(note.velocity for note in midi.seq.notes)
        samples[: len(sound)] = sound * (loudest / 127) ** 2
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())


def write_video(
    performance: Performance,
    piano: TaskSpec,
    config: RecordingConfig,
    path: pathlib.Path,
) -> None:
    """Renders a performance to a video, with sound if FluidSynth is installed.

    Colors mark the keys that are hit, pressed wrongly, or due but not down.

    Args:
        performance: Performance to render.
        piano: Task specification with the song and settings of the performance.
        config: Camera, size, quality and sound of the video.
        path: Path of the .mp4 file.

    Raises:
        RuntimeError: OpenGL does not work on this machine.
        ValueError: The camera does not exist.
    """
    height, width = config.record_resolution
    # The sound lies next to the video, so that a repeated recording also removes a stale file.
    sound = path.with_name(f".{path.stem}.wav")
    with contextlib.ExitStack() as stack:
        stack.callback(sound.unlink, missing_ok=True)
        with contextlib.suppress(ImportError):
            write_sound(performance, config.velocity, sound)
        frames = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=1 / float(performance.control_timestep),
            quality=7,
            macro_block_size=2,
            audio_path=str(sound) if sound.exists() else None,
            ffmpeg_log_level="error",
        )
        stack.callback(frames.close)
        with _interrupts_kept_from_children():
            frames.send(None)
        for frame in _render(performance, piano, config):
            frames.send(frame)


@contextlib.contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Blocks SIGINT in this thread and in the ffmpeg process that it starts.

    ffmpeg still ends together with this process. imageio-ffmpeg's own way to block SIGINT runs
    Python between fork and exec, which may hang because of JAX's threads.
    """
    os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _render(
    performance: Performance, piano: TaskSpec, config: RecordingConfig
) -> Iterator[np.ndarray]:
    """Yields one frame per control step, (height, width, 3) uint8."""
    height, width = config.record_resolution
    model = copy.copy(piano.scene.model)  # Others share the original, so only a copy may change.
    data = mujoco.MjData(model)
    model.vis.global_.offheight = max(height, model.vis.global_.offheight)
    model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
    fast = config.render_quality == "fast"
    if fast:
        model.vis.quality.offsamples = 0
    keys = piano.scene.key_geoms
    with mujoco.Renderer(model, height, width) as renderer:
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = not fast
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = not fast
        for step in range(len(performance.rewards)):
            due, played = performance.due_keys[step], performance.played_keys[step]
            model.geom_rgba[keys] = _PLAIN
            model.geom_rgba[keys[due & played]] = _HIT
            model.geom_rgba[keys[~due & played]] = _WRONG
            model.geom_rgba[keys[due & ~played]] = _DUE
            data.qpos[:] = performance.positions[step + 1]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            renderer.update_scene(data, camera=config.camera_id)
            yield renderer.render()
