"""Proxies of the environment, which traffic between the parts of a run never uses."""

import os
import string
from collections.abc import Iterable

NO_PROXY = "no_grpc_proxy"
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_OTHERS = ("no_proxy", "NO_PROXY")
_EVERY_HOST = ",".join(string.ascii_letters + string.digits)


def keep_from_grpc() -> None:
    """Has gRPC in this process and in those that it starts use no proxy.

    All gRPC traffic of a run, that of Reverb and of Ray, goes to this machine or to nodes of the
    cluster. gRPC compares the ends of host names with this variable: every name and every address
    ends in a letter or a digit.
    """
    os.environ[NO_PROXY] = _EVERY_HOST


def are_there() -> bool:
    """Whether the environment names a proxy."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


def keep_from(hosts: Iterable[str]) -> None:
    """Has HTTP libraries, here and in processes started later, reach hosts without a proxy."""
    # Python's libraries read the first that is there, others the other one.
    known = next((os.environ[name] for name in _OTHERS if os.environ.get(name)), "")
    if not are_there() or known.strip() == "*":
        return
    listed = [*filter(None, (host.strip() for host in known.split(","))), *filter(None, hosts)]
    for name in _OTHERS:
        os.environ[name] = ",".join(dict.fromkeys(listed))
