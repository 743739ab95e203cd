"""Leaves out what note_seq imports for notebooks: more than a second in every process.

note_seq, which robopianist needs, brings bokeh, IPython and pandas for two functions that draw
and play in notebooks. Here these two bring them when they are called.
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

_NAME = "note_seq.notebook_utils"


class _Later(types.ModuleType):
    """Stands for the module until one of its functions is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            if sys.modules.get(_NAME) is self:
                del sys.modules[_NAME]
            return getattr(importlib.import_module(_NAME), name)(*arguments, **options)

        return call


def settle() -> None:
    """Does so; has to come before note_seq is first imported."""
    sys.modules.setdefault(_NAME, _Later(_NAME))
