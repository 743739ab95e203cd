"""Starts: the simulator states from which renditions begin, stored with their collection."""

import io
import pathlib
from collections.abc import Mapping

import numpy as np

from common.errors import BadInput
from common.files import read_arrays, write_files
from piano.environment import Snapshot
from rlhf.collection import PlannedSegment

FILE = "starts.npz"

Start = tuple[int, int]
"""Index of the song, and the control step of the song before which a rendition begins."""


def start_of(segment: PlannedSegment) -> Start:
    """Returns the start of a segment, at the beginning of its lead-in."""
    return segment.song, segment.first_step - segment.lead_in


def write(folder: pathlib.Path, starts: Mapping[Start, Snapshot]) -> None:
    """Writes starts.npz into a collection's folder atomically.

    The file has one array per field of `Snapshot`, and the array "song". The leading axis is that
    of the starts.
    """
    columns = {
        name: np.array([getattr(snapshot, name) for snapshot in starts.values()])
        for name in Snapshot._fields
    }
    content = io.BytesIO()
    np.savez_compressed(content, song=np.array([song for song, _ in starts]), **columns)
    write_files(folder, {FILE: content.getvalue()})


def read(folder: pathlib.Path) -> dict[Start, Snapshot]:
    """Reads what `write` wrote.

    Raises:
        BadInput: The file is missing or damaged.
    """
    arrays = read_arrays(folder / FILE, ["song", *Snapshot._fields])
    songs = arrays.pop("song").tolist()
    try:
        snapshots = [
            Snapshot(int(step), state, frames, action, float(sustain))
            for step, state, frames, action, sustain in zip(
                *(arrays[name] for name in Snapshot._fields), strict=True
            )
        ]
        return {
            (song, snapshot.step): snapshot for song, snapshot in zip(songs, snapshots, strict=True)
        }
    except (TypeError, ValueError) as error:
        raise BadInput(f"{folder / FILE} is damaged: {error}") from error
