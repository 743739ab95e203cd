"""Leaves out what libraries import for parts of theirs that are not used here.

note_seq, which robopianist needs, brings bokeh, IPython and pandas for two functions that draw and
play in notebooks, and dm_env_wrappers most of SciPy for a smoother of actions: two seconds in every
process. Here each is brought when it is called.
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

_NAMES = ("note_seq.notebook_utils", "dm_env_wrappers._src.mujoco.action_smoother")


class _Later(types.ModuleType):
    """Stands for a module until something of it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return call


def install() -> None:
    """Does so; has to come before the libraries are first imported."""
    for name in _NAMES:
        sys.modules.setdefault(name, _Later(name))
