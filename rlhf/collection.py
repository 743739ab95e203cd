"""Collections: recorded segments of performances, to be rated and learned from.

    COLLECTION/
        collection.json          run, settings, songs, planned segments, meaning of the columns
        base/step_000012345/     the base policy: a checkpoint reduced to the policy's network
        segments/0001/           one folder per segment, in random order
            trajectory.npz       the columns below
            performance.npz      keys due and played, see `piano.performance`
            segment.json         the segment's plan and metrics; written last
            played.mid, video.mp4
        ratings.sqlite           see `rlhf.ratings`

`Collection.open(path)` reads a collection. The folder can be copied to another machine.

A *passage* is a range of control steps of a song. All renditions of a passage begin from the same
simulator state: that of the base policy's deterministic performance at the start of the passage's
lead-in. Collections of version 1 hold no base policy and no lead-ins.
"""

import dataclasses
import pathlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import BadInput, require
from common.files import PackedFolder, matching, read_arrays, read_json, write_json
from common.project import program
from piano.performance import Performance
from replay.transition import Observation
from rlhf.passages import Passage
from rlhf.variation import Variation

if TYPE_CHECKING:
    from piano.song import Song

_VERSION = 2
_MANIFEST, _SEGMENT, _TRAJECTORY = "collection.json", "segment.json", "trajectory.npz"
_BASE = "base"
_NAME = re.compile(r"\d{4,}")

COLUMNS = {
    "proprioception": "(T, frames, numbers) float32: what of the observation the simulation "
    "decides",
    "row": "(T,) int32: control step of the song, as a row of the table of goals and fingers",
    "action": "(T, actions) float32 in [-1, 1]: as taken, with its variation",
    "log_probability": "(T,) float32, nats: log-density of the action under the checkpoint's "
    "policy (temperature 1, no variation)",
    "reward": "(T,) float32",
    "simulator_state": "(T + 1, numbers) float64: MuJoCo's mjSTATE_INTEGRATION before each "
    "control step and after the last",
}
"""Columns of trajectory.npz. It holds the T control steps of the passage without its lead-in."""
_FORMS: dict[str, tuple[type[np.generic], int]] = {
    "proprioception": (np.float32, 3),
    "row": (np.int32, 1),
    "action": (np.float32, 2),
    "log_probability": (np.float32, 1),
    "reward": (np.float32, 1),
    "simulator_state": (np.float64, 2),
}
"""Dtype and number of axes of each column."""


HOLDS_COLLECTION = (_MANIFEST, f"collections/*/{_MANIFEST}")
"""File patterns that identify the folder of a collection, or of a run with a collection."""


@dataclasses.dataclass(frozen=True)
class PlannedSegment:
    """The plan of one segment."""

    name: str
    """Name of the segment and of its folder: four digits or more."""
    checkpoint: str
    """Name of the checkpoint that plays, such as step_000012345."""
    parameter_version: int
    """Learner steps of that checkpoint."""
    seed: int
    """Random seed of all draws of the variation; the same seed gives the same actions."""
    song: int
    """Index of the song in the collection, from 0."""
    first_step: int
    """Control step of the song at which the passage begins, which is judged and learned from."""
    last_step: int
    """Control step of the song before which the passage ends."""
    lead_in: int = 0
    """Number of control steps before `first_step` that are played and heard, but neither judged nor
    learned from."""
    variation: Variation = Variation()
    """Difference of the rendition from the policy's deterministic play."""

    def __post_init__(self) -> None:
        """Rejects steps that cannot be played.

        Raises:
            ValueError: The steps are out of order; the message names them.
        """
        if not 0 <= self.lead_in <= self.first_step < self.last_step:
            raise ValueError(f"steps {self.first_step} to {self.last_step}, lead-in {self.lead_in}")

    @property
    def passage(self) -> Passage:
        """The passage to judge and learn from; only renditions of one passage are compared."""
        return Passage(self.song, self.first_step, self.last_step)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Record of a segment of T control steps; see `COLUMNS`."""

    proprioception: np.ndarray
    row: np.ndarray
    action: np.ndarray
    log_probability: np.ndarray
    reward: np.ndarray
    simulator_state: np.ndarray

    @property
    def observation(self) -> Observation:
        """The observations at which the actions were taken, with leading axis T."""
        return Observation(self.proprioception, self.row)

    def window(self, begin: int, end: int) -> "Trajectory":
        """Returns the control steps from `begin` up to `end`, without `end` itself."""
        states = self.simulator_state[begin : end + 1]
        others = {name: getattr(self, name)[begin:end] for name in COLUMNS}
        return Trajectory(**others | {"simulator_state": states})

    def save(self, path: pathlib.Path) -> None:
        """Writes all columns into one compressed .npz file."""
        np.savez_compressed(path, **{name: getattr(self, name) for name in COLUMNS})

    @classmethod
    def load(cls, path: pathlib.Path) -> "Trajectory":
        """Reads what `save` wrote.

        Raises:
            BadInput: The file is missing or damaged.
        """
        trajectory = cls(**read_arrays(path, COLUMNS))
        for name, (dtype, axes) in _FORMS.items():
            column = getattr(trajectory, name)
            steps = trajectory.row.size + (name == "simulator_state")
            require(
                column.dtype == dtype and column.ndim == axes and len(column) == steps > 0,
                f"the trajectory {path} is damaged: {name} is {column.dtype} {column.shape}",
            )
        return trajectory


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment that has been recorded."""

    folder: pathlib.Path
    planned: PlannedSegment
    seconds: float
    metrics: dict[str, float | None]
    """Metrics of the passage alone, by name; see `piano.metrics`."""

    @property
    def name(self) -> str:
        """Name of the segment, by which ratings refer to it."""
        return self.planned.name

    @property
    def video(self) -> pathlib.Path:
        """Path of the video with sound; the file is absent if OpenGL did not work."""
        return self.folder / "video.mp4"

    @property
    def midi(self) -> pathlib.Path:
        """Path of the MIDI file of the notes played."""
        return self.folder / "played.mid"

    @property
    def performance(self) -> pathlib.Path:
        """Path of the performance of lead-in and passage, for `Performance.load`."""
        return self.folder / "performance.npz"

    def judged(self) -> "Performance":
        """Reads the performance of the passage alone, without the lead-in.

        Raises:
            BadInput: The file is missing or damaged.
        """
        begin, length = self.planned.lead_in, self.planned.last_step - self.planned.first_step
        return Performance.load(self.performance).window(begin, begin + length)

    def trajectory(self) -> Trajectory:
        """Reads the trajectory of the passage.

        Raises:
            BadInput: The file is missing or damaged.
        """
        return Trajectory.load(self.folder / _TRAJECTORY)


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection, complete or incomplete."""

    path: pathlib.Path
    manifest: dict[str, Any]
    """Manifest without its segments: run, created (Unix seconds), settings (of the command that
    recorded the collection), config (of the training), songs, columns."""
    planned: tuple[PlannedSegment, ...]

    def songs(self) -> list["Song"]:
        """Reads the songs of the collection from the manifest.

        Raises:
            BadInput: The manifest is damaged.
        """
        values = self.manifest.get("songs")
        require(isinstance(values, list) and bool(values), f"{self.path / _MANIFEST} has no songs")
        from piano.song import Song

        return [Song.from_json(value) for value in self.manifest["songs"]]

    @property
    def ratings(self) -> pathlib.Path:
        """Path of the ratings file."""
        return self.path / "ratings.sqlite"

    @property
    def base(self) -> pathlib.Path | None:
        """Path of the base policy's checkpoint, without training state; None in version 1."""
        return next(iter(matching(self.path / _BASE, "step_*")), None)

    def base_variations(self) -> list[Variation | None]:
        """Returns the base policy's variation in each of `segments`; None for other policies."""
        base = self.base
        return [
            segment.planned.variation
            if base is not None and segment.planned.checkpoint == base.name
            else None
            for segment in self.segments()
        ]

    def folder(self, segment: PlannedSegment) -> pathlib.Path:
        """Returns the folder of a segment."""
        return self.path / "segments" / segment.name

    def missing(self) -> list[PlannedSegment]:
        """Returns the planned segments that have not been recorded yet."""
        return [
            segment for segment in self.planned if not (self.folder(segment) / _SEGMENT).is_file()
        ]

    def segments(self) -> list[Segment]:
        """Returns the recorded segments, in the order of the plan.

        Raises:
            BadInput: No segment has been recorded, or the description of one is damaged.
        """
        found = []
        for planned in self.planned:
            file = self.folder(planned) / _SEGMENT
            if file.is_file():
                values = read_json(file)
                try:
                    metrics = {str(name): value for name, value in values["metrics"].items()}
                    seconds = float(values["seconds"])
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise BadInput(f"{file} is damaged: {error!r}") from error
                found.append(Segment(file.parent, planned, seconds, metrics))
        require(
            bool(found),
            f"the collection {self.path} is empty: none of its {len(self.planned)} segments has "
            "been recorded; run its pianist segments command again",
        )
        return found

    @classmethod
    def create(
        cls,
        parent: pathlib.Path,
        description: dict[str, Any],
        planned: Sequence[PlannedSegment],
        base: PackedFolder | None = None,
    ) -> "Collection":
        """Creates a collection in a folder that is named after the current time.

        Args:
            parent: Folder that holds the collection; created if missing.
            description: JSON values for the manifest.
            planned: Plans of all segments.
            base: Checkpoint of the base policy.

        Raises:
            BadInput: The folder cannot be created.
        """
        path = parent / time.strftime("%Y%m%d-%H%M%S")
        manifest = {
            "version": _VERSION,
            "created": round(time.time(), 3),
            "written_by": program(),
            **description,
            "columns": COLUMNS,
            "segments": [dataclasses.asdict(segment) for segment in planned],
        }
        try:
            path.mkdir(parents=True)
            (path / "segments").mkdir()
            if base is not None:
                base.write(path / _BASE)
            write_json(path / _MANIFEST, manifest)
        except OSError as error:
            raise BadInput(f"the collection {path} cannot be made: {error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: pathlib.Path) -> "Collection":
        """Reads a collection's manifest.

        Args:
            path: Folder of the collection, or folder of a run, which stands for its newest
                collection.

        Raises:
            BadInput: There is no collection, or its manifest is damaged.
            PermissionError: The folder is not readable for this user.
        """
        file = path / _MANIFEST
        if not matching(path, _MANIFEST):
            within = matching(path / "collections", f"*/{_MANIFEST}")
            require(
                bool(within),
                f"no collection at {path}: expected a {_MANIFEST} in it; pianist segments "
                "records one",
            )
            file = within[-1]
        manifest = read_json(file)
        version = manifest.get("version")
        read = _READERS.get(version) if isinstance(version, int) else None
        if read is None:
            raise BadInput(f"{file} has version {version!r}, must be one of {sorted(_READERS)}")
        try:
            planned = tuple(read(values) for values in manifest.pop("segments"))
            if len({segment.name for segment in planned}) < len(planned):
                raise ValueError("a name comes twice")
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{file} is damaged: its list of segments: {error}") from error
        return cls(file.parent, manifest, planned)

    def add(self, segment: PackedFolder) -> None:
        """Adds a segment whose folder `write_segment` has completed."""
        segment.write(self.path / "segments")


def write_segment(
    folder: pathlib.Path,
    planned: PlannedSegment,
    trajectory: Trajectory,
    seconds: float,
    metrics: dict[str, float | None],
) -> None:
    """Completes the folder of a segment, which already holds all other files."""
    trajectory.save(folder / _TRAJECTORY)
    write_json(
        folder / _SEGMENT,
        {**dataclasses.asdict(planned), "seconds": seconds, "metrics": metrics},
    )


def _planned(values: dict[str, Any]) -> PlannedSegment:
    """Checks types and name, because a manifest is untrusted input and names become paths."""
    if not _NAME.fullmatch(_checked(PlannedSegment, values)["name"]):
        raise ValueError(f"name is {values['name']!r}")
    variation = Variation(**_checked(Variation, values["variation"]))
    return PlannedSegment(**values | {"variation": variation})


def _planned_in_version_1(values: dict[str, Any]) -> PlannedSegment:
    """Reads version 1, which had two variations as fields of the segment and no lead-in."""
    values = dict(values)
    variation = {name: values.pop(name) for name in ("noise", "temperature")}
    defaults = dataclasses.asdict(Variation())
    return _planned(values | {"lead_in": 0, "variation": defaults | variation})


_READERS = {1: _planned_in_version_1, _VERSION: _planned}
"""Functions that read a segment of each manifest version."""


def _checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Checks that `values` are the fields of a dataclass; converts int to float where needed."""
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(values) != set(hints):
        raise ValueError(f"expected {sorted(hints)}, got {sorted(values)}")
    for name, hint in hints.items():
        if type(values[name]) is int and hint is float:
            values[name] = float(values[name])
        if type(values[name]) is not (dict if dataclasses.is_dataclass(hint) else hint):
            raise ValueError(f"{name} is {values[name]!r}")
    return values
