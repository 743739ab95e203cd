"""Seconds for a video with sound of one episode: robopianist's wrapper and ours."""

import os
import pathlib
import tempfile
import time
from typing import Any

import dm_env_wrappers
import imageio_ffmpeg
import numpy as np

from benchmarks.rounds import alternate, machine
from benchmarks.twinkle import CONFIG, load_repertoire, wandering_actions
from common.errors import require
from piano.config import RecordingConfig
from piano.environment import PianoEnvironment
from piano.episode import play
from piano.recording import record, what_is_missing
from piano.reference_environment import ReferenceEnvironment


def measure(rounds: int) -> dict[str, Any]:
    """Measures both in alternating rounds; the reference takes minutes without a GPU.

    Args:
        rounds: Number of rounds that count.

    Returns:
        Seconds of both without the time to play, the length of the video, and the machine.

    Raises:
        BadInput: Pictures or sound cannot be made here.
    """
    missing = what_is_missing()
    require(not missing, f"there is nothing to measure: {'; '.join(missing)}")
    repertoire = load_repertoire()
    song, piano = repertoire.songs[0], repertoire.piano(0)
    actions = wandering_actions(piano)
    path = os.environ["PATH"]
    remaining = iter(actions)
    performance = play(PianoEnvironment(piano), lambda _observation: next(remaining))

    def ours() -> float:
        started = time.perf_counter()
        record(performance, piano, RecordingConfig())
        return time.perf_counter() - started

    def reference() -> float:
        # Imported after `actors`, which selects the OpenGL backend.
        from robopianist.wrappers import PianoSoundVideoWrapper

        playing = _reference_seconds(ReferenceEnvironment(song, CONFIG).composer, actions)
        with tempfile.TemporaryDirectory() as folder:
            # robopianist calls the ffmpeg on PATH; here it gets the same ffmpeg as ours.
            (pathlib.Path(folder) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
            os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
            recorded = PianoSoundVideoWrapper(
                ReferenceEnvironment(song, CONFIG).composer,
                record_dir=folder,
                record_every=1,
                camera_id="piano/back",
                height=480,
                width=640,
            )
            return _reference_seconds(recorded, actions) - playing

    sides = alternate(
        {
            "render": lambda: {"seconds": ours()},
            "reference_render": lambda: {"seconds": reference()},
        },
        rounds,
    )
    return {
        "render_seconds": sides["render"]["seconds"],
        "reference_render_seconds": sides["reference_render"]["seconds"],
        "video_seconds": performance.seconds,
        "rounds": rounds,
        "machine": machine(),
    }


def _reference_seconds(environment: Any, actions: np.ndarray) -> float:
    environment = dm_env_wrappers.CanonicalSpecWrapper(environment, clip=True)
    started = time.perf_counter()
    environment.reset()
    for action in actions:
        environment.step(action)
    return time.perf_counter() - started
