"""The choice of MuJoCo's OpenGL library, to be made before MuJoCo is first imported."""

import ctypes
import functools
import os
import warnings

INSTALL_HINT = "sudo apt-get install libegl1 libgl1-mesa-dri"
_WINDOWS = "glfw"
_LIBRARIES = {"egl": ("libEGL.so.1",), "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6")}


def configure_opengl() -> None:
    """Sets MUJOCO_GL to an OpenGL library that works on this machine.

    A value that is already set stays if it works. If none is set, the candidates are a window
    system, EGL and OSMesa, in this order. If nothing works, OpenGL is disabled, because training
    needs no images and MuJoCo's import fails where MUJOCO_GL names a missing library.
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
    """Returns what is missing for videos and how to install it; None if videos work."""
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco/>")
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.render()
    except Exception as error:  # Each OpenGL library raises exceptions of its own.
        reason = str(error).strip().splitlines() or [repr(error)]
        return f"no video: OpenGL does not work here ({reason[0]}); {INSTALL_HINT}"
    return None


def _works(name: str) -> bool:
    return _display_answers() if name == _WINDOWS else _loads(name)


def _display_answers() -> bool:
    """Returns whether windows can be opened. DISPLAY may name a screen that no longer exists."""
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", glfw.GLFWError)  # A failure is a valid answer here.
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
