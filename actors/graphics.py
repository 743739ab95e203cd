"""Which OpenGL MuJoCo uses. It must be settled before MuJoCo is first imported."""

import ctypes
import functools
import os

INSTALL_HINT = "sudo apt-get install libegl1 libgl1-mesa-dri"
_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6")}


def settle() -> None:
    """Sets MUJOCO_GL to what works here: as it is, else EGL, else OSMesa, else nothing.

    MuJoCo's import fails where MUJOCO_GL names a library that is not installed, and training
    needs no pictures.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in _LIBRARIES:
        candidates = [wanted]
    elif wanted:
        return
    elif os.environ.get("DISPLAY"):
        return  # MuJoCo's own choice, a window system.
    else:
        candidates = ["egl", "osmesa"]
    usable = [name for name in candidates if _loads(name)]
    os.environ["MUJOCO_GL"] = usable[0] if usable else "disable"
    if usable:
        os.environ.setdefault("PYOPENGL_PLATFORM", usable[0])


@functools.lru_cache(maxsize=1)
def why_no_pictures() -> str | None:
    """What is missing for videos, with the command that mends it; None if nothing is."""
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.render()
    except Exception as error:  # Whatever the OpenGL at hand raises.
        reason = str(error).strip().splitlines() or [repr(error)]
        return f"no video: OpenGL does not work here ({reason[0]}); {INSTALL_HINT}"
    return None


def _loads(name: str) -> bool:
    for library in _LIBRARIES[name]:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
