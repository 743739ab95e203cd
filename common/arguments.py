"""What `tyro` lacks: checks of the arguments before it parses them, and help without line breaks.

`tyro` accepts a flag for several values without any value, and reads whole numbers in digits only.
In the help of a setting it keeps the line breaks of the source.
"""

import dataclasses
import functools
import math
import pathlib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import docstring_parser
from docstring_parser import DocstringStyle

from common.errors import BadInput, require

_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d{1,3})?")


@functools.cache
def join_lines_of_help() -> None:
    """Makes `tyro` show the docstring of each setting as one paragraph."""
    parse = docstring_parser.parse_from_object

    def parse_joined(
        obj: Any, style: DocstringStyle = DocstringStyle.REST
    ) -> docstring_parser.Docstring:
        found = parse(obj, style)
        for setting in found.params:
            setting.description = " ".join((setting.description or "").split())
        return found

    docstring_parser.parse_from_object = parse_joined


def checked(cls: type, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with whole numbers in digits: 1e6 becomes 1000000.

    Args:
        cls: Dataclass of the command's settings.
        arguments: Arguments of the command.

    Raises:
        BadInput: A flag lacks its value, a value is not the whole or finite number that it must be,
            or the name of a file is empty.
    """
    settings = dict(_settings(cls))
    written = list(arguments)
    for i, argument in enumerate(written):
        if not argument.startswith("--"):
            continue
        flag, equals, value = argument.partition("=")
        hint = settings.get(flag.split(".")[-1].lstrip("-").replace("-", "_"))
        kinds = set(_leaves(hint))
        if hint is None or bool in kinds:
            continue
        require(
            bool(value) if equals else i + 1 < len(written) and written[i + 1][:2] != "--",
            f"{flag} lacks its value",
        )
        if equals:
            written[i] = f"{flag}={_value(kinds, flag, value)}"
            continue
        for k in range(i + 1, len(written)):
            if written[k].startswith("--"):
                break
            written[k] = _value(kinds, flag, written[k])
            if typing.get_origin(hint) is not tuple:
                break
    return written


def _settings(cls: type) -> Iterator[tuple[str, Any]]:
    """Yields the names of a command's settings, each with its type."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _settings(typing.cast(type, hint))
        else:
            yield name, hint


def _leaves(hint: Any) -> Iterator[Any]:
    """Yields the types that a type is made of, without unions and tuples."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple):
        for part in typing.get_args(hint):
            if part is not Ellipsis:
                yield from _leaves(part)
    else:
        yield hint


def _value(kinds: set[Any], flag: str, value: str) -> str:
    """Returns a flag's value as it is to be parsed."""
    names = [name for kind in kinds for name in typing.get_args(kind)]
    if value in names:
        return value
    if int in kinds and float not in kinds:
        return _whole(flag, value, names)
    if float in kinds:
        require(_is_finite(value), f"{flag} is {value}, must be a finite number")
    # Path("") would be the working folder.
    require(bool(value) or pathlib.Path not in kinds, f"{flag}: the name of the file is empty")
    return value


def _is_finite(value: str) -> bool:
    """Returns whether a number is finite; true for other text, which the parser refuses."""
    try:
        return math.isfinite(float(value))
    except ValueError:
        return True


def _whole(flag: str, value: str, names: Sequence[str]) -> str:
    """Returns a whole number in digits, for a flag that may also take one of some names."""
    if value == "None" or re.fullmatch(r"[+-]?\d+", value):
        return value
    if _SCIENTIFIC.fullmatch(value) and float(value).is_integer():
        return str(int(float(value)))
    others = "".join(f" or `{name}`" for name in names)
    raise BadInput(f"{flag} is {value}, must be a whole number{others}")
