"""Small files of JSON: written whole or not at all, read with one clear word if damaged."""

import json
import pathlib
from typing import Any

from replay.errors import BadInput, require


def write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a JSON file that is whole at any time: beside its place, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2))
    partial.replace(path)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    require(isinstance(values, dict), f"{path} is damaged: it holds no JSON object")
    return values
