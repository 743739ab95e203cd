"""The command that serves the rating page of a collection."""

import asyncio
import contextlib
import dataclasses
import errno
import pathlib
import re
import secrets
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Annotated, Any

import psutil
import tyro
from aiohttp import web

from common import storage
from common.errors import BadInput, require, require_range
from rlhf import simulated_raters
from rlhf.answers_csv import write_csv
from rlhf.collection import HOLDS_COLLECTION, Collection
from rlhf.rate_page.guard import Guard, is_loopback
from rlhf.rate_page.server import Session, make_app
from rlhf.rate_page.summary import summary
from rlhf.ratings import LONGEST_ATTRIBUTE, LONGEST_NAME, Ratings

_SECONDS_FOR_LAST_ANSWERS = 1.0
_SIMULATE = (
    "Instead of serving the page, have a formula rate every segment, for studies and tests. Its "
    "answers are kept apart from those of people. RATER is one of those below, or a weighted mean "
    "of several, such as note-f1:0.5,softness:0.5. A quality goes from 0 to 1, which become the "
    f"scores 1 and 100.\n{simulated_raters.describe_qualities()}\n"
)


@dataclasses.dataclass(frozen=True)
class RateConfig:
    """Serves the page on which people rate a collection's performances; Ctrl-C ends it.

    Raters do not see which checkpoint played. Every answer is saved immediately, so the page and
    this command can be closed and started again at any time.
    """

    collection: tyro.conf.Positional[str]
    """Collection to rate: folder or URL of a collection or of a run, or a run's name in --root-dir;
    a run stands for its newest collection."""
    root_dir: str = "runs"
    """Folder or URL that holds the runs."""
    rater: str = ""
    """Name of the person who rates; if empty, the page asks for it."""
    attribute: str = ""
    """Adjective to ask about instead of quality as a whole: "even" asks which performance is more
    even. Answers about different attributes are stored separately."""
    export: str = ""
    """Path of a CSV file that receives all answers ever given, instead of serving the page."""
    host: str = "127.0.0.1"
    """Address to serve at. 0.0.0.0 admits other machines, which then need the token."""
    port: int = 8765
    """Port to serve at; 0 takes any free port."""
    token: str = ""
    """Access token of at least 8 letters, digits, hyphens or underscores. If empty, a token is
    generated where one is needed."""
    simulate: Annotated[str, tyro.conf.arg(help=_SIMULATE, metavar="RATER")] = ""
    simulated_raters: int = 1
    """Number of simulated raters."""
    simulated_noise: float = 0.0
    """Standard deviation, in points, of the noise of each simulated score."""
    simulated_disagreement: float = 0.0
    """Constant difference between simulated raters: standard deviation of their offsets, in points,
    and of their spread, in percent."""

    def __post_init__(self) -> None:
        """Rejects values out of range.

        Raises:
            BadInput: A value is out of range, or options exclude each other.
        """
        if self.simulate:
            simulated_raters.parse_quality(self.simulate)
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
            self.attribute.isprintable() and self.attribute == self.attribute.strip(),
            f"--attribute is {self.attribute!r}, must not begin or end with a space",
        )
        require(
            len(self.attribute) <= LONGEST_ATTRIBUTE,
            f"--attribute has {len(self.attribute)} characters, at most {LONGEST_ATTRIBUTE} are "
            "kept",
        )
        require(
            not (self.simulate and self.attribute),
            "--attribute is what people are asked for, --simulate needs none",
        )
        require(
            not (self.export and self.simulate),
            "--export and --simulate are two commands: give one of them at a time",
        )
        require(
            re.fullmatch(r"|[A-Za-z0-9_-]{8,}", self.token) is not None,
            "--token must be 8 letters, digits, hyphens or underscores, or more",
        )


def rate(config: RateConfig) -> dict[str, Any]:
    """Serves the page until SIGINT or SIGTERM, has simulated raters rate, or exports answers.

    Returns:
        With --simulate, "collection" (its folder) and "raters" (their names). With --export,
        "collection", "export" (the file) and "answers" (their number). Otherwise "collection",
        "attribute" and the values of `rlhf.rate_page.summary.summary`.

    Raises:
        BadInput: The collection does not exist or is empty, or the address is not available.
    """
    location = storage.find(config.collection, config.root_dir, "collection", *HOLDS_COLLECTION)
    collection = Collection.open(location.fetch())
    if config.export:
        return _export(config, collection)
    with location.uploaded():
        return _rate(config, collection)


def _export(config: RateConfig, collection: Collection) -> dict[str, Any]:
    file = pathlib.Path(config.export).expanduser()
    with contextlib.closing(Ratings(collection.ratings, [])) as ratings:
        answers = ratings.answers()
    write_csv(file, answers, collection.planned)
    return {"collection": str(collection.path), "export": str(file), "answers": len(answers)}


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
        # Segments may still be recorded while the page is served.
        ratings = Ratings(collection.ratings, [planned.name for planned in collection.planned])
        try:
            with tempfile.TemporaryDirectory() as sounds:
                guard = Guard(config.host, token)
                session = Session(config.rater, config.attribute, next_command(config, collection))
                app = make_app(collection, ratings, pathlib.Path(sounds), guard, session)
                for address in _addresses(config.host, listening.getsockname()[1], token):
                    print(f"rate {len(names)} segments at {address}", file=sys.stderr, flush=True)
                asyncio.run(_serve(app, listening))
            return {
                "collection": str(collection.path),
                "attribute": config.attribute,
                **summary(ratings, config.attribute),
            }
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
    """Yields the addresses at which the page can be opened."""
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


def next_command(config: RateConfig, collection: Collection) -> str:
    """Returns the command that learns from the answers, ready to be copied into a shell."""
    run, within, _ = config.collection.rstrip("/").rpartition("/collections/")
    if not within:
        # Either the run itself was named, or the collection has been copied elsewhere.
        within_run = collection.path.parent.name == "collections"
        run = config.collection if within_run else f"runs/{collection.manifest.get('run', 'RUN')}"
    words = ["pianist", "cpl", config.collection, "--load-checkpoint", run]
    return shlex.join(words + (["--attribute", config.attribute] if config.attribute else []))
