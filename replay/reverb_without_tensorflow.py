"""Loads Reverb without TensorFlow's Python modules.

This takes 30 MB of memory instead of 660 MB in every process, and saves five seconds.

Reverb's client and server are compiled. The only part of TensorFlow that they need is one library
of its wheel, `libtensorflow_framework`. Reverb's Python modules import all of TensorFlow for three
features that this project never uses: datasets, signatures of tables, and the check of TensorFlow's
version. This module puts stand-ins in their place while Reverb is imported. In a process that has
already imported TensorFlow, Reverb finds the real modules.
"""

import ctypes
import importlib.metadata
import importlib.util
import pathlib
import sys
import types
from typing import Any

from common import proxies

_LIBRARY = "libtensorflow_framework.so.2"
# TensorFlow's modules that Reverb imports. The messages (`*_pb2`) in tensorflow/core are real.
_PACKAGES = (
    "tensorflow.compat",
    "tensorflow.python",
    "tensorflow.python.data",
    "tensorflow.python.data.ops",
    "tensorflow.python.framework",
    "tensorflow.python.saved_model",
)
_MODULES = (
    "tensorflow.compat.v1",
    "tensorflow.python.data.ops.dataset_ops",
    "tensorflow.python.data.ops.structured_function",
    "tensorflow.python.framework.tensor_shape",
    "tensorflow.python.framework.tensor_spec",
    "tensorflow.python.saved_model.nested_structure_coder",
    # Reverb's own modules that consist of TensorFlow operations.
    "reverb.pattern_dataset",
    "reverb.tf_client",
    "reverb.timestep_dataset",
    "reverb.trajectory_dataset",
)


class _StandIn(types.ModuleType):
    """A module in which every name is a class without instances."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load() -> Any:
    """Returns the module `reverb`.

    Raises:
        ImportError: Reverb or TensorFlow's wheel is not installed.
    """
    proxies.keep_from_grpc()  # Needed on a node of a cluster, where no command has done so.
    if "reverb" in sys.modules or "tensorflow" in sys.modules:
        return importlib.import_module("reverb")
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        raise ImportError("Reverb needs the library of TensorFlow's wheel: install tensorflow-cpu")
    folder = pathlib.Path(found.origin).parent
    # RTLD_LOCAL hides the library's names, so that Python does not use its OpenSSL.
    ctypes.CDLL(str(folder / _LIBRARY), mode=ctypes.RTLD_LOCAL)
    before = set(sys.modules)
    _put_stand_ins(folder)
    try:
        return importlib.import_module("reverb")
    finally:
        # Other modules must not find the stand-ins.
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "tensorflow":
                del sys.modules[name]


def _put_stand_ins(folder: pathlib.Path) -> None:
    tensorflow = _stand_in("tensorflow")
    tensorflow.__path__ = [str(folder)]
    version = importlib.metadata.version("tensorflow-cpu")
    tensorflow.__version__ = version  # type: ignore[attr-defined]
    tensorflow.version = types.SimpleNamespace(VERSION=version)  # type: ignore[attr-defined]
    for name in _PACKAGES:
        _stand_in(name).__path__ = []
    for name in _MODULES:
        _stand_in(name)


def _stand_in(name: str) -> _StandIn:
    module = sys.modules[name] = _StandIn(name)
    parent, _, own = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], own, module)
    return module
