"""Reverb without TensorFlow's Python: 30 MB instead of 660 in every process, and no five seconds.

Reverb's client and server are compiled, and need no more of TensorFlow than one library of its
wheel, `libtensorflow_framework`. Its Python modules import all of TensorFlow for three things
that nothing here uses: datasets, signatures of tables, and the check of TensorFlow's version.
Here stand-ins are put in the place of these while Reverb is imported. In a process that has
imported TensorFlow already Reverb finds the real one.
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
# What Reverb imports of TensorFlow; the messages (`*_pb2`) in tensorflow/core are the real ones.
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
    # Of Reverb, what consists of TensorFlow's operations.
    "reverb.pattern_dataset",
    "reverb.tf_client",
    "reverb.timestep_dataset",
    "reverb.trajectory_dataset",
)


class _StandIn(types.ModuleType):
    """Has every name, as a class that nothing is an instance of."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load() -> Any:
    """The module `reverb`.

    Raises:
        ImportError: Reverb or TensorFlow's wheel is not installed.
    """
    proxies.keep_from_grpc()  # On a node of a cluster nothing else has.
    if "reverb" in sys.modules or "tensorflow" in sys.modules:
        return importlib.import_module("reverb")
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        raise ImportError("Reverb needs the library of TensorFlow's wheel: install tensorflow-cpu")
    folder = pathlib.Path(found.origin).parent
    # Its names stay its own: shown to all, its OpenSSL would be taken for Python's.
    ctypes.CDLL(str(folder / _LIBRARY), mode=ctypes.RTLD_LOCAL)
    before = set(sys.modules)
    _put_stand_ins(folder)
    try:
        return importlib.import_module("reverb")
    finally:
        # No other module is to find them.
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
