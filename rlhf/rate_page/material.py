"""Pictures, sound and notes of segments, the only data that raters get."""

import asyncio
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from aiohttp import web

from common.errors import BadInput
from piano.performance import Performance
from rlhf.collection import Segment
from rlhf.difference import differences

_SOUND_SECONDS = 60.0
_MARGIN = 2  # Number of keys shown above the highest and below the lowest note.
_LEAST_KEYS = 14


class Material:
    """Pictures, sound and notes of segments, by their names.

    Args:
        collection: Folder of the collection; files outside of it are never read.
        sounds: Folder for the sounds of segments without video.
    """

    def __init__(self, collection: pathlib.Path, sounds: pathlib.Path):
        self._collection = collection.resolve()
        self._segments: dict[str, Segment] = {}
        self._sounds = sounds
        self._one_at_a_time = asyncio.Lock()
        self._differences: tuple[Sequence[Segment], np.ndarray] | None = None

    def take(self, segments: Sequence[Segment]) -> None:
        """Makes these segments available."""
        self._segments = {segment.name: segment for segment in segments}

    async def describe(self, name: str) -> dict[str, Any]:
        """Describes the notes of a segment and the addresses of its media.

        Returns:
            "seconds": length; "lead_in": seconds until the part to be judged begins; "due" and
            "played": lists of [onset s, offset s, key 0 to 87]; "keys": lowest and highest key to
            be drawn; "media": address of a video or a sound, or None; "reason": reason for None.

        Raises:
            web.HTTPException: The segment does not exist or cannot be read.
        """
        notes = await asyncio.to_thread(self._notes, name)
        if self._segment(name).video.is_file():
            return notes | {"media": f"/media/{name}.mp4", "reason": ""}
        try:
            await self.sound(name)
        except web.HTTPServiceUnavailable as error:
            return notes | {"media": None, "reason": error.reason}
        return notes | {"media": f"/media/{name}.wav", "reason": ""}

    def differences(self, segments: Sequence[Segment]) -> np.ndarray:
        """Computes how far segments differ for a listener; the last result is cached.

        Returns:
            (N, N) float64 in the order of the segments, see `rlhf.difference`; NaN for segments of
            different passages.

        Raises:
            web.HTTPException: A performance cannot be read.
        """
        known = self._differences
        if known is None or known[0] is not segments:
            passages = [segment.planned.passage for segment in segments]
            found = np.full((len(segments), len(segments)), np.nan)
            for passage in set(passages):
                here = [index for index, other in enumerate(passages) if other == passage]
                judged = [self._performance(segments[index], judged=True) for index in here]
                found[np.ix_(here, here)] = differences(judged)
            known = self._differences = (segments, found)
        return known[1]

    def video(self, name: str) -> pathlib.Path:
        """Returns the path of a segment's video.

        Raises:
            web.HTTPException: The video does not exist, or lies outside the collection.
        """
        return self._inside(self._segment(name).video)

    async def sound(self, name: str) -> pathlib.Path:
        """Returns the path of a segment's sound, which is synthesized if missing.

        Raises:
            web.HTTPException: The segment does not exist, or sound cannot be made here.
        """
        segment = self._segment(name)
        file = self._sounds / f"{name}.wav"
        async with self._one_at_a_time:
            if not file.is_file():
                work = asyncio.to_thread(self._write_sound, segment, file)
                try:
                    await asyncio.wait_for(work, _SOUND_SECONDS)
                except asyncio.TimeoutError:
                    raise _no_sound(f"it took more than {_SOUND_SECONDS:.0f} s") from None
        return file

    def _segment(self, name: str) -> Segment:
        if name not in self._segments:
            raise web.HTTPNotFound(reason="there is no such segment")
        return self._segments[name]

    def _inside(self, file: pathlib.Path) -> pathlib.Path:
        """Resolves symbolic links, and rejects files outside the collection."""
        resolved = file.resolve()
        if not resolved.is_relative_to(self._collection):
            raise web.HTTPForbidden(reason="this file is not of the collection")
        if not resolved.is_file():
            raise web.HTTPNotFound(reason="there is no such file")
        return resolved

    def _performance(self, segment: Segment, judged: bool = False) -> Performance:
        """Reads the performance of lead-in and passage, or of the judged passage alone."""
        file = self._inside(segment.performance)
        try:
            return segment.judged() if judged else Performance.load(file)
        except BadInput as error:
            raise web.HTTPInternalServerError(
                reason=f"the performance of segment {segment.name} is damaged"
            ) from error

    def _notes(self, name: str) -> dict[str, Any]:
        segment = self._segment(name)
        performance = self._performance(segment)
        due, played = performance.due_notes[:, :3], performance.played_notes[:, :3]
        return {
            "seconds": performance.seconds,
            "lead_in": segment.planned.lead_in * float(performance.control_timestep),
            "due": np.round(due, 3).tolist(),
            "played": np.round(played, 3).tolist(),
            "keys": _shown_keys(np.concatenate([due[:, 2], played[:, 2]])),
        }

    def _write_sound(self, segment: Segment, file: pathlib.Path) -> None:
        performance = self._performance(segment)
        partial = file.with_suffix(".partial")
        try:
            from piano.recording import write_sound

            write_sound(performance, "touch", partial)
            partial.replace(file)
        except ImportError as error:
            raise _no_sound("FluidSynth is not installed") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_sound(str(error)) from error


def _no_sound(why: str) -> web.HTTPException:
    why = " ".join(why.split())
    return web.HTTPServiceUnavailable(reason=f"no video, and sound cannot be made here: {why}")


def _shown_keys(keys: np.ndarray) -> tuple[int, int]:
    """Returns the lowest and highest key of a drawing with a margin and a minimum height."""
    low, high = (int(keys.min()), int(keys.max())) if len(keys) else (39, 39)
    spare = max(0, _LEAST_KEYS - (high - low + 1 + 2 * _MARGIN))
    low, high = low - _MARGIN - spare // 2, high + _MARGIN + (spare + 1) // 2
    return max(0, low), min(87, high)
