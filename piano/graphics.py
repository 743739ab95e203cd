"""Which OpenGL MuJoCo uses. It must be settled before MuJoCo is first imported."""

import ctypes
import functools
import os
import warnings

INSTALL_HINT = "sudo apt-get install libegl1 libgl1-mesa-dri"
_WINDOWS = "glfw"
_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6")}


def configure_opengl() -> None:
    """Sets MUJOCO_GL to what works here: as it is, else a window system, EGL, OSMesa, or nothing.

    MuJoCo's import fails where MUJOCO_GL names a library that is not installed, and training
    needs no pictures.
    """
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted and wanted not in (_WINDOWS, *_LIBRARIES):
        return
    windows = [_WINDOWS] if os.environ.get("DISPLAY") else []
    candidates = [wanted] if wanted else [*windows, *_LIBRARIES]
    usable = next(filter(_works, candidates), "disable")
    os.environ["MUJOCO_GL"] = usable
    if usable in _LIBRARIES:
        os.environ.setdefault("PYOPENGL_PLATFORM", usable)


@functools.lru_cache(maxsize=1)
def why_no_pictures() -> str | None:
    """What is missing for videos, with the command that installs it; None if nothing is."""
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.render()
    except Exception as error:  # Whatever the OpenGL at hand raises.
        reason = str(error).strip().splitlines() or [repr(error)]
        return f"no video: OpenGL does not work here ({reason[0]}); {INSTALL_HINT}"
    return None


def _works(name: str) -> bool:
    return _display_answers() if name == _WINDOWS else _loads(name)


def _display_answers() -> bool:
    """Whether windows can be made. DISPLAY may name a screen that is gone."""
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", glfw.GLFWError)  # That none can is an answer here.
        if not glfw.init():
            return False
        glfw.terminate()
        return True


def _loads(name: str) -> bool:
    for library in _LIBRARIES[name]:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
