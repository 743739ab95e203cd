"""A collection: segments of performances, recorded to be rated and to be learnt from.

    COLLECTION/
        collection.json          what it is of, what was planned, what the columns mean
        base/step_000012345/     the base policy: a checkpoint reduced to what plays
        segments/0001/           one folder a segment, in an order that tells nothing
            trajectory.npz       the columns below
            performance.npz      keys due and played, see `piano.performance`
            segment.json         what was played, and its metrics; written last
            played.mid, video.mp4
        ratings.sqlite           see `rlhf.ratings`

`Collection.open(path)` reads it; a collection can be carried to another machine as a folder.

A *passage* is a song with a first and a last control step. All renditions of a passage begin
from one simulator state, that of the base policy's deterministic performance at the start of the
passage's lead-in. Collections of version 1 hold no base policy and no lead-ins.
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
"""What is in trajectory.npz: T control steps, those of the passage, without its lead-in."""
_FORMS: dict[str, tuple[type[np.generic], int]] = {
    "proprioception": (np.float32, 3),
    "row": (np.int32, 1),
    "action": (np.float32, 2),
    "log_probability": (np.float32, 1),
    "reward": (np.float32, 1),
    "simulator_state": (np.float64, 2),
}
"""Type and number of axes of each column."""


HOLDS_COLLECTION = (_MANIFEST, f"collections/*/{_MANIFEST}")
"""Files that a collection's folder, or that of a run with one, holds."""


@dataclasses.dataclass(frozen=True)
class PlannedSegment:
    """One segment, before it is played."""

    name: str
    """Of its folder, four digits or more."""
    checkpoint: str
    """Name of the checkpoint that plays, such as step_000012345."""
    parameter_version: int
    """Learner steps of that checkpoint."""
    seed: int
    """Of all that the variation draws; from it the same actions come again."""
    song: int
    """Which of the collection's songs, from 0."""
    first_step: int
    """Control step of the song at which the passage begins: what is judged and learnt from."""
    last_step: int
    """Control step before which it ends."""
    lead_in: int = 0
    """Control steps before `first_step` that are played and heard, but not judged and not learnt
    from."""
    variation: Variation = Variation()
    """How this rendition differs from the policy's deterministic play."""

    def __post_init__(self) -> None:
        """Refuses steps that cannot be played.

        Raises:
            ValueError: naming them.
        """
        if not 0 <= self.lead_in <= self.first_step < self.last_step:
            raise ValueError(f"steps {self.first_step} to {self.last_step}, lead-in {self.lead_in}")

    @property
    def passage(self) -> Passage:
        """What is judged and learnt from: only renditions of one passage are compared."""
        return Passage(self.song, self.first_step, self.last_step)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What happened in a segment of T control steps; see COLUMNS."""

    proprioception: np.ndarray
    row: np.ndarray
    action: np.ndarray
    log_probability: np.ndarray
    reward: np.ndarray
    simulator_state: np.ndarray

    @property
    def observation(self) -> Observation:
        """The observations at which the actions were taken, leading axis T."""
        return Observation(self.proprioception, self.row)

    def window(self, begin: int, end: int) -> "Trajectory":
        """The control steps from `begin` up to `end`."""
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
            BadInput: it is missing or damaged.
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
    """One segment that was played."""

    folder: pathlib.Path
    planned: PlannedSegment
    seconds: float
    metrics: dict[str, float | None]
    """Of the passage alone, by name, see `piano.metrics`."""

    @property
    def name(self) -> str:
        """Its name, by which ratings refer to it."""
        return self.planned.name

    @property
    def video(self) -> pathlib.Path:
        """With sound; absent where OpenGL did not work."""
        return self.folder / "video.mp4"

    @property
    def midi(self) -> pathlib.Path:
        """What was played."""
        return self.folder / "played.mid"

    @property
    def performance(self) -> pathlib.Path:
        """Of lead-in and passage, for `piano.performance.Performance.load`."""
        return self.folder / "performance.npz"

    def judged(self) -> "Performance":
        """The performance of the passage alone, without the lead-in.

        Raises:
            BadInput: the file is missing or damaged.
        """
        begin, length = self.planned.lead_in, self.planned.last_step - self.planned.first_step
        return Performance.load(self.performance).window(begin, begin + length)

    def trajectory(self) -> Trajectory:
        """What happened.

        Raises:
            BadInput: the file is missing or damaged.
        """
        return Trajectory.load(self.folder / _TRAJECTORY)


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection, complete or not."""

    path: pathlib.Path
    manifest: dict[str, Any]
    """run, created (Unix seconds), settings (of the command that recorded it), config (of the
    training), songs, columns."""
    planned: tuple[PlannedSegment, ...]

    def songs(self) -> list["Song"]:
        """The songs that are played.

        Raises:
            BadInput: the manifest is damaged.
        """
        values = self.manifest.get("songs")
        require(isinstance(values, list) and bool(values), f"{self.path / _MANIFEST} has no songs")
        from piano.song import Song

        return [Song.from_json(value) for value in self.manifest["songs"]]

    @property
    def ratings(self) -> pathlib.Path:
        """File of the ratings."""
        return self.path / "ratings.sqlite"

    @property
    def base(self) -> pathlib.Path | None:
        """Checkpoint of the base policy, reduced to what plays; None in version 1."""
        return next(iter(matching(self.path / _BASE, "step_*")), None)

    def base_variations(self) -> list[Variation | None]:
        """How the base policy plays each of `segments`; None for what another policy plays."""
        base = self.base
        return [
            segment.planned.variation
            if base is not None and segment.planned.checkpoint == base.name
            else None
            for segment in self.segments()
        ]

    def folder(self, segment: PlannedSegment) -> pathlib.Path:
        """Where a segment is kept."""
        return self.path / "segments" / segment.name

    def missing(self) -> list[PlannedSegment]:
        """Planned segments that have not been recorded yet."""
        return [
            segment for segment in self.planned if not (self.folder(segment) / _SEGMENT).is_file()
        ]

    def segments(self) -> list[Segment]:
        """The segments that are there, by name.

        Raises:
            BadInput: there is none, or the description of one is damaged.
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
        """Begins a collection, in a folder named by the time.

        Args:
            parent: made if missing.
            description: JSON values for the manifest.
            planned: all segments.
            base: checkpoint of the base policy.

        Raises:
            BadInput: the folder cannot be made.
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
            path: of its folder, or of a run's, of which the newest collection is taken.

        Raises:
            BadInput: there is none, or the manifest is damaged.
            PermissionError: it may not be read.
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
        """Adds a segment, whose folder `write_segment` completed."""
        segment.write(self.path / "segments")


def write_segment(
    folder: pathlib.Path,
    planned: PlannedSegment,
    trajectory: Trajectory,
    seconds: float,
    metrics: dict[str, float | None],
) -> None:
    """Completes the folder of a segment, to which everything else has been written already."""
    trajectory.save(folder / _TRAJECTORY)
    write_json(
        folder / _SEGMENT,
        {**dataclasses.asdict(planned), "seconds": seconds, "metrics": metrics},
    )


def _planned(values: dict[str, Any]) -> PlannedSegment:
    """Checks types and name: a manifest is hostile input, and names become paths."""
    if not _NAME.fullmatch(_checked(PlannedSegment, values)["name"]):
        raise ValueError(f"name is {values['name']!r}")
    variation = Variation(**_checked(Variation, values["variation"]))
    return PlannedSegment(**values | {"variation": variation})


def _planned_in_version_1(values: dict[str, Any]) -> PlannedSegment:
    """Version 1 knew two variations, as fields of the segment, and no lead-in."""
    values = dict(values)
    variation = {name: values.pop(name) for name in ("noise", "temperature")}
    defaults = dataclasses.asdict(Variation())
    return _planned(values | {"lead_in": 0, "variation": defaults | variation})


_READERS = {1: _planned_in_version_1, _VERSION: _planned}
"""How each version of the manifest has its segments."""


def _checked(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The same values, if they are the fields of a dataclass; whole numbers become floats."""
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    if set(values) != set(hints):
        raise ValueError(f"expected {sorted(hints)}, got {sorted(values)}")
    for name, hint in hints.items():
        if type(values[name]) is int and hint is float:
            values[name] = float(values[name])
        if type(values[name]) is not (dict if dataclasses.is_dataclass(hint) else hint):
            raise ValueError(f"{name} is {values[name]!r}")
    return values
