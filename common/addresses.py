"""Addresses of clusters, as people give them."""

import urllib.parse
from typing import NamedTuple

from common.errors import BadInput

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables in which Ray's clients look for a cluster, the first one first."""


class Address(NamedTuple):
    """The parts of HOST:PORT or SCHEME://HOST:PORT; None or empty where there is none."""

    scheme: str
    host: str | None
    port: int | None


def parts_of(text: str, source: str) -> Address:
    """An address's parts.

    Args:
        text: the address.
        source: the flag or variable that gave it.

    Raises:
        BadInput: It is no address.
    """
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
        return Address(parts.scheme, parts.hostname, parts.port)
    except ValueError as error:
        raise BadInput(f"{source} is {text!r}, no address of a cluster: {error}") from error
