"""Addresses of clusters, as users give them."""

import urllib.parse
from typing import NamedTuple

from common.errors import BadInput

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables in which Ray's clients look for a cluster, in this order."""


class Address(NamedTuple):
    """The parts of HOST:PORT or SCHEME://HOST:PORT; None or empty for missing parts."""

    scheme: str
    host: str | None
    port: int | None


def parts_of(text: str, source: str) -> Address:
    """Returns the parts of an address.

    Args:
        text: Address to split.
        source: Name of the flag or variable that gave it.

    Raises:
        BadInput: The text is not an address.
    """
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
        return Address(parts.scheme, parts.hostname, parts.port)
    except ValueError as error:
        raise BadInput(f"{source} is {text!r}, no address of a cluster: {error}") from error
