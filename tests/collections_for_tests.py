"""Small collections for tests, as `pianist segments` would leave them."""

import functools
import json
import pathlib
import tempfile
import wave
from collections.abc import Callable
from typing import Any

import imageio_ffmpeg
import numpy as np

from piano.performance import Performance, notes_of_frames
from rlhf.collection import Collection, PlannedSegment, Trajectory, write_segment
from rlhf.variation import Variation

STEP = 0.05  # Seconds a control step.
NOISES = (0.0371, 0.0742)
METRICS = {"note_f1": 0.61803, "episode_return": 27.18281, "onset_error_ms": None}
ROWS = 40  # Control steps of the song.
PROPRIOCEPTION, ACTIONS, STATE = 6, 4, 9  # Numbers in each.


def make_performance(seed: int, steps: int = 24) -> Performance:
    """A scale of four notes a second, played with mistakes that the seed decides."""
    random = np.random.default_rng(seed)
    due, played = np.zeros((steps, 88), bool), np.zeros((steps, 88), bool)
    for number, start in enumerate(range(2, steps - 3, 5)):
        key = 39 + number % 5
        due[start : start + 4, key] = True
        late, astray = random.integers(0, 3), random.integers(-1, 2)
        played[start + late : start + 4, key + astray] = True
    notes, heard = notes_of_frames(due, STEP), notes_of_frames(played, STEP)
    return Performance(
        control_timestep=np.array(STEP),
        due_keys=due,
        due_pedal=np.zeros(steps, bool),
        played_keys=played,
        played_pedal=np.zeros(steps, bool),
        rewards=random.random(steps),
        due_notes=np.hstack([notes, np.full((len(notes), 1), 64.0)]),
        played_notes=np.hstack([heard, np.full((len(heard), 1), 70.0)]),
        pedal_changes=np.empty((0, 2)),
        positions=np.zeros((steps + 1, 2), np.float32),
    )


def make_trajectory(seed: int, first_row: int, steps: int = 24) -> Trajectory:
    """Random numbers of the right shapes."""
    random = np.random.default_rng(seed)
    return Trajectory(
        proprioception=random.normal(size=(steps, 1, PROPRIOCEPTION)).astype(np.float32),
        row=np.arange(first_row, first_row + steps, dtype=np.int32),
        action=random.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
        log_probability=random.normal(size=steps).astype(np.float32),
        reward=random.random(steps).astype(np.float32),
        simulator_state=random.normal(size=(steps + 1, STATE)),
    )


def make_plan(
    segments: int = 6, checkpoints: int = 3, steps: int = 24, passages: int = 1, lead_in: int = 0
) -> list[PlannedSegment]:
    """Checkpoints and noise levels in turn, of one passage after another."""
    begin = max(8, lead_in)
    passage = [number * passages // segments for number in range(segments)]
    return [
        PlannedSegment(
            name=f"{number:04d}",
            checkpoint=f"step_{7_000 * (1 + number % checkpoints):09d}",
            parameter_version=7_000 * (1 + number % checkpoints),
            seed=90_001 + number,
            song=0,
            first_step=begin + steps * passage[number],
            last_step=begin + steps * (1 + passage[number]),
            lead_in=lead_in,
            variation=Variation(noise=NOISES[number // checkpoints % len(NOISES)], temperature=1.0),
        )
        for number in range(segments)
    ]


def make_collection(
    folder: pathlib.Path,
    segments: int = 6,
    checkpoints: int = 3,
    video: bool = True,
    steps: int = 24,
    passages: int = 1,
    lead_in: int = 0,
) -> Collection:
    """A collection whose segments have all been recorded.

    Args:
        folder: in which its folder is made.
        segments: how many.
        checkpoints: that took turns to play them.
        video: whether they have a video with sound.
        steps: control steps of each passage.
        passages: over which the segments are spread.
        lead_in: control steps before each.
    """
    plan = make_plan(segments, checkpoints, steps, passages, lead_in)
    collection = Collection.create(folder, {"run": "demo", "songs": []}, plan)
    for number, planned in enumerate(plan):
        place = collection.folder(planned)
        place.mkdir()
        performance = make_performance(number, lead_in + steps)
        performance.save(place / "performance.npz")
        if video:
            (place / "video.mp4").write_bytes(_video(performance.seconds))
        trajectory = make_trajectory(number, planned.first_step, steps)
        write_segment(place, planned, trajectory, performance.seconds, METRICS)
    return collection


def change_manifest(collection: Collection, edit: Callable[[dict[str, Any]], object]) -> None:
    """Has `edit` change the values of a collection's manifest."""
    file = collection.path / "collection.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))


@functools.cache
def _video(seconds: float) -> bytes:
    """A small one in which a bar moves, with a tone."""
    rate, width, height = 22_050, 160, 120
    with tempfile.TemporaryDirectory() as name:
        sound, file = pathlib.Path(name) / "tone.wav", pathlib.Path(name) / "video.mp4"
        tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
        with wave.open(str(sound), "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(rate)
            writer.writeframes(tone.astype(np.int16).tobytes())
        frames = imageio_ffmpeg.write_frames(
            str(file),
            (width, height),
            fps=1 / STEP,
            macro_block_size=2,
            audio_path=str(sound),
            ffmpeg_log_level="error",
        )
        frames.send(None)
        for step in range(round(seconds / STEP)):
            picture = np.full((height, width, 3), 40, np.uint8)
            picture[:, 4 * step : 4 * step + 12] = 220
            frames.send(picture)
        frames.close()
        return file.read_bytes()
