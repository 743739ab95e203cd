"""The effects of the machine's environment variables and folders on a command.

Call `prepare` once, before anything else runs: processes that are started later inherit its
settings.
"""

import os
import pathlib
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile

from common import addresses, proxies
from common.errors import BadInput
from common.files import as_utf8, nearest, try_to_write

_CACHES = (
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"),
    *("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "JAX_COMPILATION_CACHE_DIR"),
)
"""Variables that name folders of libraries. These folders can be anywhere."""
_OPENGL = ("egl", "osmesa", "glfw", "disable", "disabled", "off", "false", "0")
"""Values of MUJOCO_GL that both MuJoCo and dm_control accept."""
_JAX_SECONDS = 60.0
_HARMLESS = ("JAX_PLATFORM", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
"""Prefixes of JAX's variables that are settled elsewhere or concern its cache."""
_FFMPEG_SECONDS = 10.0
OTHER_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders for temporary files if the usual folder is unsuitable."""
LEAST_ROOM = 50_000_000
"""Bytes that must be free in a folder for temporary files."""
said: list[str] = []
"""Lines that tell users what `prepare` left out or replaced."""


def prepare() -> None:
    """Settles proxies, the user's name, folders, and settings of libraries.

    Raises:
        BadInput: The working folder is gone, no folder for temporary files can be written, or an
            address is invalid.
    """
    _find_working_folder()
    _keep_traffic_from_proxies()
    _name_user()
    folder = _find_temporary_folder()
    _find_home(folder)
    _drop_caches()
    _drop_what_libraries_refuse()
    _name_process()


def _find_working_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise BadInput("the working folder has been removed: change to one that is there") from None


def _keep_traffic_from_proxies() -> None:
    """Reserves proxies for traffic to the internet, such as to Weights & Biases."""
    if not proxies.are_there():
        return
    proxies.keep_from_grpc()
    clusters = [
        addresses.parts_of(os.environ.get(name, ""), name).host for name in addresses.VARIABLES
    ]
    hosts = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    proxies.keep_from([*hosts, *filter(None, clusters)])


def _name_user() -> None:
    """Sets a user name if the system has none, because libraries ask for it.

    A container may run as a user that is missing from its list of users.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("LOGNAME", os.environ["USER"])


def _name_process() -> None:
    """Makes the command line UTF-8, because Ray and Weights & Biases record it and require that.

    Ray asks the system for the command line.
    """
    shown = [as_utf8(argument) for argument in sys.argv]
    if shown != sys.argv:
        from ray import _raylet  # Imported here because it takes seconds and is rarely needed.

        _raylet.setproctitle(shlex.join(shown))  # type: ignore[attr-defined]
        sys.argv[:] = shown


def _find_temporary_folder() -> pathlib.Path:
    """Returns the usual folder for temporary files, or another if that is full or not writable."""
    try:
        usual = pathlib.Path(tempfile.gettempdir())
    except FileNotFoundError:
        wanted = os.environ.get("TMPDIR") or "/tmp"
        raise BadInput(
            f"no folder for temporary files can be written ({wanted}): set TMPDIR"
        ) from None
    wanted = os.environ.get("TMPDIR") or str(usual)
    others = [folder for folder in map(pathlib.Path, OTHER_FOLDERS) if _can_write(folder)]
    found = next(filter(has_room, [usual, *others]), usual)
    if found != pathlib.Path(wanted):
        why = "cannot be written" if usual != pathlib.Path(wanted) else "is full"
        _say(f"TMPDIR ({wanted}) {why}: temporary files are kept in {found}")
        os.environ["TMPDIR"] = tempfile.tempdir = str(found)
    return found


def has_room(folder: pathlib.Path) -> bool:
    """Returns whether the sockets and logs of Ray and a recording in progress fit into a folder."""
    return shutil.disk_usage(folder).free >= LEAST_ROOM


def _find_home(temporary: pathlib.Path) -> None:
    """Makes sure that the home folder can be written: libraries keep caches and tokens there."""
    try:
        home = pathlib.Path.home()
    except RuntimeError:  # The system has no entry for the user, either.
        home = pathlib.Path("/nonexistent")
    root = pathlib.Path("/")
    if home != root and _can_write(home):
        return
    private = temporary / f"pianist-home-{os.getuid()}"
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        is_own = private.stat().st_uid == os.getuid() and not private.is_symlink()
    except OSError:
        is_own = False
    if not is_own:
        private = pathlib.Path(tempfile.mkdtemp(prefix="pianist-home-"))
    said = "is not set" if "HOME" not in os.environ else f"({home}) cannot be written"
    os.environ["HOME"] = str(private)
    _say(f"HOME {said}: caches are kept in {private}")


def _drop_caches() -> None:
    """Makes libraries whose folder cannot be written use the one in the home folder."""
    for name in _CACHES:
        value = os.environ.get(name, "")
        if not value or "://" in value:
            continue
        if not _can_write(nearest(pathlib.Path(value))):  # The library makes the other folders.
            del os.environ[name]
            _say(f"{name} ({value}) cannot be written: the usual folder is used")


def _drop_what_libraries_refuse() -> None:
    """Drops settings that would stop libraries, and tells the user."""
    opengl = os.environ.get("MUJOCO_GL", "")
    if opengl and opengl not in _OPENGL:
        del os.environ["MUJOCO_GL"]
        _say(f"MUJOCO_GL ({opengl}) is none of {', '.join(_OPENGL)}: what works here is used")
    ffmpeg = os.environ.get("IMAGEIO_FFMPEG_EXE", "")
    if ffmpeg and not _is_ffmpeg(ffmpeg):
        del os.environ["IMAGEIO_FFMPEG_EXE"]
        _say(f"IMAGEIO_FFMPEG_EXE ({ffmpeg}) is no ffmpeg: imageio-ffmpeg's own is used")


def drop_settings_of_jax() -> None:
    """Drops JAX's settings, so that a command can show its help whatever their values."""
    for name in _settings_of_jax():
        del os.environ[name]


def require_jax() -> None:
    """Refuses settings that JAX does not start with.

    Raises:
        BadInput: JAX does not start; the message names the settings and JAX's reason.
    """
    given = _settings_of_jax()
    if not given:
        return
    refusal = f"JAX does not start with {', '.join(given)} as set"
    try:
        # An unknown flag ends the process that reads it.
        tried = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices('cpu')"],
            cwd="/",  # Files in the working folder could take the place of modules.
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=_JAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadInput(f"{refusal}: it takes more than {_JAX_SECONDS:.0f} s") from None
    if tried.returncode:
        *_, reason = tried.stderr.strip().splitlines() or ["it ended"]
        raise BadInput(f"{refusal}: {reason}")


def _settings_of_jax() -> list[str]:
    return sorted(
        name
        for name in os.environ
        if name == "XLA_FLAGS" or (name.startswith("JAX_") and not name.startswith(_HARMLESS))
    )


def _is_ffmpeg(program: str) -> bool:
    try:
        told = subprocess.run(
            [program, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FFMPEG_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and told.stdout.startswith(b"ffmpeg version")


def _can_write(folder: pathlib.Path) -> bool:
    try:
        try_to_write(folder)
    except (OSError, ValueError):
        return False
    return True


def _say(line: str) -> None:
    said.append(line)
    print(f"pianist: {line}", file=sys.stderr)
