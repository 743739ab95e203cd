"""Serves the page on which people rate the performances of a collection."""

import asyncio
import collections
import contextlib
import dataclasses
import errno
import pathlib
import re
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

import psutil
import tyro
from aiohttp import web

from replay.errors import BadInput, require, require_range
from replay.storage import Place
from rlhf import simulated_raters
from rlhf.agreement import agreement
from rlhf.collection import Collection
from rlhf.rate_page.guard import Guard, is_loopback
from rlhf.rate_page.question import of_people
from rlhf.rate_page.server import make_app
from rlhf.ratings import LONGEST_NAME, Ratings

_SECONDS_FOR_LAST_ANSWERS = 1.0


@dataclasses.dataclass(frozen=True)
class RateConfig:
    """Serves the page on which people rate a collection's performances; Ctrl-C ends it.

    Raters are not told which checkpoint played. Every answer is kept as soon as it is given, so
    that the page and this command can be ended and begun again at any time.
    """

    collection: tyro.conf.Positional[str]
    """The collection: its folder or URL, or that of a run, whose newest is taken."""
    rater: str = ""
    """Name of the person who rates; if empty the page asks."""
    host: str = "127.0.0.1"
    """Address to serve at. 0.0.0.0 lets other machines in, which then need the token."""
    port: int = 8765
    """0 takes any that is free."""
    token: str = ""
    """8 letters, digits, - or _ or more. If empty, one is made up where it is needed."""
    simulate: Literal["", "note-f1", "smoothness"] = ""
    """Instead of serving the page, have a formula rate every segment, for studies and tests; it
    is kept apart from people by its name, and by its kind."""
    simulated_raters: int = 1
    """How many of them."""
    simulated_noise: float = 0.0
    """Standard deviation, in points, of what their scores vary by from segment to segment."""
    simulated_disagreement: float = 0.0
    """How far they differ from one another throughout: the standard deviation of their offsets,
    in points, and of their spread, in per cent."""

    def __post_init__(self) -> None:
        """Raises BadInput where a value is out of its range."""
        require_range(self, "simulated_raters", least=1, most=100)
        require_range(self, "simulated_noise", "simulated_disagreement", least=0, most=100)
        require_range(self, "port", least=0, most=65535)
        require(
            self.rater.isprintable() and self.rater == self.rater.strip(),
            f"--rater is {self.rater!r}, must not begin or end with a space",
        )
        require(
            len(self.rater) <= LONGEST_NAME,
            f"--rater has {len(self.rater)} characters, at most {LONGEST_NAME} are kept",
        )
        require(
            re.fullmatch(r"|[A-Za-z0-9_-]{8,}", self.token) is not None,
            "--token must be 8 letters, digits, hyphens or underscores, or more",
        )


def rate(config: RateConfig) -> dict[str, Any]:
    """Serves the page until SIGINT or SIGTERM, or has simulated raters rate.

    Returns:
        With --simulate, collection (its folder) and raters (their names). Otherwise collection,
        ratings and comparisons (how many of people hold), raters (how many answers that hold,
        by name), agreement (see `rlhf.agreement`; None if there is none yet).

    Raises:
        BadInput: there is no collection, it is empty, or the address cannot be had.
    """
    place = Place.of(config.collection)
    collection = Collection.open(place.fetch())
    with place.uploaded():
        return _rate(config, collection)


def _rate(config: RateConfig, collection: Collection) -> dict[str, Any]:
    segments = collection.segments()
    names = [segment.name for segment in segments]
    if config.simulate:
        with contextlib.closing(Ratings(collection.ratings, names)) as ratings:
            raters = simulated_raters.rate(
                segments,
                ratings,
                config.simulate,
                config.simulated_raters,
                config.simulated_noise,
                config.simulated_disagreement,
            )
        return {"collection": str(collection.path), "raters": [rater.name for rater in raters]}
    token = config.token or ("" if is_loopback(config.host) else secrets.token_urlsafe())
    with _listen(config.host, config.port) as listening:
        ratings = Ratings(collection.ratings, names)
        try:
            with tempfile.TemporaryDirectory() as sounds:
                guard = Guard(config.host, token)
                app = make_app(collection, ratings, pathlib.Path(sounds), guard, config.rater)
                for address in _addresses(config.host, listening.getsockname()[1], token):
                    print(f"rate {len(names)} segments at {address}", file=sys.stderr, flush=True)
                asyncio.run(_serve(app, listening))
            return _summary(collection, ratings)
        finally:
            ratings.close()


async def _serve(app: web.Application, listening: socket.socket) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SECONDS_FOR_LAST_ANSWERS)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        await stop.wait()
    finally:
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=dual)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise BadInput(f"port {port} is in use: choose another by --port, or 0") from error
        raise BadInput(f"cannot serve at --host {host} --port {port}: {error}") from error


def _addresses(host: str, port: int, token: str) -> Iterator[str]:
    """Under which the page can be opened."""
    hosts = [host]
    if host in ("0.0.0.0", "::"):
        hosts = [
            address.address
            for addresses in psutil.net_if_addrs().values()
            for address in addresses
            if address.family == socket.AF_INET
        ]
    for name in hosts:
        bracketed = f"[{name}]" if ":" in name else name
        yield f"http://{bracketed}:{port}/" + (f"?token={token}" if token else "")


def _summary(collection: Collection, ratings: Ratings) -> dict[str, Any]:
    scores = of_people(ratings.ratings())
    comparisons = [one for one in ratings.comparisons() if one.rater.kind == "person"]
    answers = [one.rater.name for one in scores] + [one.rater.name for one in comparisons]
    found = agreement(scores)
    return {
        "collection": str(collection.path),
        "ratings": len(scores),
        "comparisons": len(comparisons),
        "raters": dict(collections.Counter(answers)),
        "agreement": None if found is None else found._asdict(),
    }
