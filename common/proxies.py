"""Proxies of the environment, which traffic between the parts of a run never uses."""

import os
import string
from collections.abc import Iterable

NO_PROXY = "no_grpc_proxy"
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_OTHERS = ("no_proxy", "NO_PROXY")
_EVERY_HOST = ",".join(string.ascii_letters + string.digits)


def keep_from_grpc() -> None:
    """Makes gRPC use no proxy, in this process and in those that it starts.

    All gRPC traffic of a run, from Reverb and Ray, goes to this machine or to nodes of the cluster.
    gRPC compares the ends of host names with this variable. Every name and every address ends in a
    letter or a digit, so a list of all letters and digits covers all hosts.
    """
    os.environ[NO_PROXY] = _EVERY_HOST


def are_there() -> bool:
    """Returns whether the environment names a proxy."""
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)


def keep_from(hosts: Iterable[str]) -> None:
    """Makes HTTP libraries reach hosts without a proxy, here and in processes started later."""
    # Python's libraries read the first variable that is set; other libraries read the other one.
    known = next((os.environ[name] for name in _OTHERS if os.environ.get(name)), "")
    if not are_there() or known.strip() == "*":
        return
    listed = [*filter(None, (host.strip() for host in known.split(","))), *filter(None, hosts)]
    for name in _OTHERS:
        os.environ[name] = ",".join(dict.fromkeys(listed))
