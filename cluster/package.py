"""The working directory as a zip file, to be sent with a job.

Ray's own packing says neither how much it sends nor what it leaves out.
"""

import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence

from pathspec import GitIgnoreSpec

from common.errors import BadInput, require
from common.files import as_utf8

# Above this size Ray's upload fails with a traceback of the server.
_MOST_BYTES = 512 * 1024**2


def pack(
    folder: pathlib.Path, excludes: Sequence[str], needed: Sequence[str], package: pathlib.Path
) -> str:
    """Packs the files to be sent into a zip file, and describes how much that is.

    Args:
        folder: Working directory.
        excludes: Patterns of files that are not sent, in the syntax of .gitignore.
        needed: Paths of files that have to be sent, relative to `folder`.
        package: Path of the zip file to write.

    Raises:
        BadInput: The directory is too large or cannot be read, or a needed file is excluded.
    """
    sizes: dict[pathlib.Path, int] = {}
    total = 0
    try:
        for path in _files_below(folder, [(folder, GitIgnoreSpec.from_lines(excludes))]):
            sizes[path.relative_to(folder)] = size = path.stat().st_size
            total += size
            require(
                total < _MOST_BYTES, f"{folder} is too large to be sent: {_how_to_shrink(sizes)}"
            )
        for name in needed:
            require(
                pathlib.Path(name) in sizes,
                f"--midi-file {name} would not be sent: a .gitignore or .rayignore leaves it out",
            )
        with zipfile.ZipFile(package, "w", strict_timestamps=False) as archive:
            for file in sizes:
                archive.write(folder / file, file)
    except OSError as error:
        raise BadInput(f"{folder} cannot be sent: {error}") from error
    return f"{len(sizes)} files ({total / 1e6:.1f} MB)"


def _how_to_shrink(sizes: Mapping[pathlib.Path, int]) -> str:
    largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
    names = ", ".join(f"{file} ({sizes[file] / 1e6:.0f} MB)" for file in largest)
    return f"name in a file .rayignore what the job can do without, such as {names}"


def _files_below(
    directory: pathlib.Path,
    specs: Sequence[tuple[pathlib.Path, GitIgnoreSpec]],
    above: tuple[pathlib.Path, ...] = (),
) -> Iterator[pathlib.Path]:
    """Yields the files below a directory that no .gitignore or .rayignore excludes.

    Args:
        directory: Directory to search, with its own ignore files.
        specs: Patterns of the directories above, each with the directory that they are relative to.
        above: Real paths of the directories above, which a link may lead back to.

    Raises:
        BadInput: A pattern in an ignore file is invalid, or the name of a file is not UTF-8.
        OSError: A file or directory cannot be read.
    """
    real = directory.resolve()
    if real in above:
        return
    no_git = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE") == "1"
    for file in [directory / name for name in (".rayignore", ".gitignore")[: 1 if no_git else 2]]:
        if file.is_file():
            specs = [*specs, (directory, _spec(file))]
    for path in sorted(directory.iterdir()):
        end = "/" if path.is_dir() else ""
        if any(spec.match_file(f"{path.relative_to(root)}{end}") for root, spec in specs):
            continue
        if path.is_dir():
            yield from _files_below(path, specs, (*above, real))
        elif path.is_file():
            require(
                str(path) == as_utf8(str(path)),
                f"{as_utf8(str(path))} has no UTF-8 name and cannot be sent: rename or exclude it",
            )
            yield path


def _spec(file: pathlib.Path) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(file.read_text(errors="replace").splitlines())
    except ValueError as error:
        raise BadInput(f"{file} cannot be used: {error}") from error
