"""Delays imports of libraries that only unused features need.

robopianist needs note_seq, which imports bokeh, IPython and pandas for two functions that draw
and play in notebooks. dm_env_wrappers imports most of SciPy to smooth actions. Together they take
two seconds in every process. Here each import waits until one of these functions is called.
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

_NAMES = ("note_seq.notebook_utils", "dm_env_wrappers._src.mujoco.action_smoother")


class _Later(types.ModuleType):
    """A placeholder that imports its module when one of the module's functions is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return call


def install() -> None:
    """Installs the placeholders. Call it before the libraries are first imported."""
    for name in _NAMES:
        sys.modules.setdefault(name, _Later(name))
