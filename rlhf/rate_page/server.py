"""The server of the rating page: an aiohttp application over a collection and its ratings.

    GET  /, /page.css, /page.js and its modules           the page
    GET  /api/start                                       rater and attribute of the command line
    GET  /api/examples                                    two segments that show the scale, or null
    GET  /api/question?rater=&mode=&show=                 a `Question`
    GET  /api/segments/NAME                               notes and addresses of the media
    GET  /media/NAME.mp4, /media/NAME.wav                 video with sound; sound alone
    POST /api/rate      {segment, score, comment, ...}    each returns the next `Question`
    POST /api/compare   {first, second, preferred, ...}   once the answer is safe on the disk
    POST /api/skip      {segment, ...}
    POST /api/undo      {mode, ...}                       the `Question` taken back
    GET  /api/summary?rater=                              agreement of raters, and the next command

Every POST also has the fields rater and attribute. The first three also have repetition, which
says whether the question was asked again.

The study is blind: apart from the two examples, no response reveals which checkpoint played,
with which variation, or how well. Every failure is answered with {"error": "one line"}.
"""

import asyncio
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from aiohttp import web

from common.errors import BadInput, require
from rlhf.collection import Collection, Segment
from rlhf.rate_page.examples import Examples, examples
from rlhf.rate_page.guard import Guard, set_headers
from rlhf.rate_page.material import Material
from rlhf.rate_page.question import Mode, Question, Segments, Subject, ask, of_people
from rlhf.rate_page.summary import summary
from rlhf.ratings import Rater, Ratings

_LARGEST_BODY = 16 * 1024
_BODY_SECONDS, _DISK_SECONDS = 10.0, 40.0
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PAGE = "page.html"
_MODULES = (
    "page.js", "closeup.js", "finish.js", "instruction.js", "keys.js", "memory.js", "player.js",
    "requests.js", "roll.js", "score.js",
)  # fmt: skip
_ASSETS = (_PAGE, "page.css", *_MODULES)
# Shown briefly to a user who follows a link with a token. An HTTP redirect would not work: if the
# link is on another site, such as a mail page, SameSite=Strict withholds the cookie from it.
_REDIRECT = (
    '<!DOCTYPE html><meta http-equiv="refresh" content="0;url={0}"><a href="{0}">Continue</a>'
)

Result = TypeVar("Result")


class Session(NamedTuple):
    """Settings of the command that the page needs."""

    rater: str = ""
    """Name of the rater with which the page begins; if empty, the page asks for it."""
    attribute: str = ""
    """Attribute that is asked about, such as "even"; empty for quality as a whole."""
    next_command: str = ""
    """Command that learns from the answers, which the page shows at the end."""


def make_app(
    collection: Collection,
    ratings: Ratings,
    sounds: pathlib.Path,
    guard: Guard,
    session: Session,
) -> web.Application:
    """Makes the application; it also includes segments that are recorded while it runs.

    Args:
        collection: Collection to be rated.
        ratings: Ratings that receive the answers.
        sounds: Folder for the sounds of segments without video.
        guard: Access control.
        session: Settings of the command.

    Raises:
        BadInput: No segment has been recorded.
    """
    desk = _Desk(collection, ratings, sounds, guard, session)
    app = web.Application(middlewares=[guard.protect], client_max_size=_LARGEST_BODY)
    app.on_response_prepare.append(set_headers)
    app.add_routes(
        [
            web.get("/", desk.page),
            *(web.get(f"/{{asset:{name}}}", desk.asset) for name in _ASSETS[1:]),
            web.get("/favicon.ico", desk.no_icon),
            web.get("/api/start", desk.start),
            web.get("/api/question", desk.question),
            web.get("/api/segments/{name}", desk.segment),
            web.get("/api/examples", desk.examples),
            web.get("/api/summary", desk.summary),
            web.get("/media/{name}.mp4", desk.video),
            web.get("/media/{name}.wav", desk.sound),
            web.post("/api/rate", desk.rate),
            web.post("/api/compare", desk.compare),
            web.post("/api/skip", desk.skip),
            web.post("/api/undo", desk.undo),
        ]
    )
    return app


class _Desk:
    """Handles the requests; see the top of this file."""

    def __init__(
        self,
        collection: Collection,
        ratings: Ratings,
        sounds: pathlib.Path,
        guard: Guard,
        session: Session,
    ):
        self._collection = collection
        self._material = Material(collection.path, sounds)
        self._ratings, self._session, self._guard = ratings, session, guard
        folder = pathlib.Path(__file__).parent
        self._assets = {name: (folder / name).read_text(encoding="utf-8") for name in _ASSETS}
        self._segments: list[Segment] = []
        self._take_up_segments()

    def _take_up_segments(self) -> None:
        """Adds segments that have been recorded since the last call."""
        planned, missing = self._collection.planned, self._collection.missing()
        if self._segments and len(planned) - len(missing) == len(self._segments):
            return
        self._segments = segments = self._collection.segments()
        self._names = {segment.name for segment in segments}
        self._material.take(segments)
        self._subject = Subject(
            [segment.planned for segment in segments],
            self._session.attribute,
            functools.partial(self._material.differences, segments),
        )

    # --- The page ---------------------------------------------------------------------------

    async def page(self, request: web.Request) -> web.Response:
        """Serves the page; a token in the address is first turned into a cookie."""
        if not (self._guard.token and "token" in request.query):
            return self._asset(_PAGE)
        clean = "/?mode=pairs" if request.query.get("mode") == "pairs" else "/"
        response = web.Response(text=_REDIRECT.format(clean), content_type="text/html")
        response.set_cookie(
            self._guard.cookie, self._guard.token, httponly=True, samesite="Strict", path="/"
        )
        return response

    async def asset(self, request: web.Request) -> web.Response:
        """Serves a style sheet or module of the page."""
        return self._asset(request.match_info["asset"])

    def _asset(self, name: str) -> web.Response:
        kind = _TYPES[pathlib.PurePath(name).suffix]
        return web.Response(text=self._assets[name], content_type=kind, charset="utf-8")

    async def no_icon(self, _: web.Request) -> web.Response:
        """Answers browsers that ask for an icon, since there is none."""
        return web.Response(status=204)

    # --- Data for the page ------------------------------------------------------------------

    async def start(self, _: web.Request) -> web.Response:
        """Returns rater and attribute of the command line."""
        return web.json_response(
            {"rater": self._session.rater, "attribute": self._session.attribute}
        )

    async def examples(self, _: web.Request) -> web.Response:
        """Returns two segments that show the meaning of the scale."""
        found = await _limited(self._examples)
        return web.json_response({"examples": None if found is None else found._asdict()})

    async def question(self, request: web.Request) -> web.Response:
        """Returns the question that a rater is shown."""
        show = tuple(name for name in request.query.get("show", "").split(",") if name)
        mode = request.query.get("mode", "single")
        return await self._ask(request.query.get("rater", ""), mode, show)

    async def segment(self, request: web.Request) -> web.Response:
        """Returns the notes of a segment and the addresses of its media."""
        return web.json_response(await self._material.describe(request.match_info["name"]))

    async def video(self, request: web.Request) -> web.StreamResponse:
        """Serves a segment's video, or the requested range of it."""
        name = request.match_info["name"]
        return web.FileResponse(await asyncio.to_thread(self._material.video, name))

    async def sound(self, request: web.Request) -> web.StreamResponse:
        """Serves a segment's sound, or the requested range of it."""
        return web.FileResponse(await self._material.sound(request.match_info["name"]))

    async def summary(self, request: web.Request) -> web.Response:
        """Returns agreement of people, consistency of this rater, and the next command."""
        rater = _person(request.query.get("rater", ""))
        found = await _limited(summary, self._ratings, self._session.attribute)
        own = found["raters"].get(rater.name)
        return web.json_response(
            {
                "agreement": found["agreement"],
                "own": own,
                "missing": len(self._collection.missing()),
                "command": self._session.next_command,
            }
        )

    # --- Answers ----------------------------------------------------------------------------

    async def rate(self, request: web.Request) -> web.Response:
        """Stores a score."""
        values = await self._read(request, segment=str, score=int, comment=str, repetition=bool)
        rater = _person(values.pop("rater"))
        await _limited(self._ratings.rate, rater, **values)
        return await self._ask(rater.name, "single")

    async def compare(self, request: web.Request) -> web.Response:
        """Stores a comparison of two segments."""
        values = await self._read(request, first=str, second=str, preferred=str, repetition=bool)
        rater = _person(values.pop("rater"))
        await _limited(self._ratings.compare, rater, **values)
        return await self._ask(rater.name, "pairs")

    async def skip(self, request: web.Request) -> web.Response:
        """Stores that the rater skips a segment."""
        values = await self._read(request, segment=str, repetition=bool)
        rater = _person(values.pop("rater"))
        await _limited(self._ratings.skip, rater, **values)
        return await self._ask(rater.name, "single")

    async def undo(self, request: web.Request) -> web.Response:
        """Takes back the last answer."""
        values = await self._read(request, mode=str)
        rater, mode = _person(values["rater"]), _mode(values["mode"])
        taken_back = await _limited(self._ratings.undo, rater, values["attribute"])
        if taken_back is None:
            raise BadInput("there is no answer to take back")
        segments = taken_back.segments
        if self._names.issuperset(segments):  # Segments may have been removed since.
            mode = "pairs" if len(segments) == 2 else "single"
            if not taken_back.repetition:  # The order of questions asks a repetition again anyway.
                return await self._ask(rater.name, mode, segments)
        return await self._ask(rater.name, mode)

    async def _read(self, request: web.Request, **types: type) -> dict[str, Any]:
        """Reads the fields of an answer, which always include rater and attribute."""
        values = await _read(request, rater=str, attribute=str, **types)
        require(
            values["attribute"] == self._session.attribute,
            "this page asks for something else than pianist rate now does: reload it",
        )
        return values

    async def _ask(self, name: str, mode: str, show: Segments = ()) -> web.Response:
        rater, mode = _person(name), _mode(mode)
        for segment in show:
            require(segment in self._names, "there is no such segment")
        require(
            len(show) in (0, 1 if mode == "single" else 2),
            f"{len(show)} segments cannot be shown in mode {mode}",
        )
        question = await _limited(self._question, rater, mode, show)
        return web.json_response(question._asdict() | {"position": question.position._asdict()})

    def _question(self, rater: Rater, mode: Mode, show: Segments) -> Question:
        require(
            Rater(rater.name, "simulated") not in self._ratings.raters(),
            f"{rater.name} is the name of a simulated rater: choose another",
        )
        self._take_up_segments()
        return ask(self._subject, self._ratings, rater, mode, show)

    def _examples(self) -> Examples | None:
        attribute = self._session.attribute
        return examples(self._segments, of_people(self._ratings.ratings(attribute)), attribute)


# --- Reading requests -----------------------------------------------------------------------


async def _limited(function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """Calls a function that may wait for the disk in a thread, with a time limit."""
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments, **named), _DISK_SECONDS)


async def _read(request: web.Request, **types: type) -> dict[str, Any]:
    """Reads a JSON object with exactly these fields.

    Raises:
        BadInput: The body is not such an object.
        web.HTTPException: The body is too large.
    """
    body = await asyncio.wait_for(request.read(), _BODY_SECONDS)
    try:
        values = json.loads(body)
        # JSON can contain halves of surrogate pairs, which cannot be stored.
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        values = None
    require(
        isinstance(values, dict)
        and set(values) == set(types)
        and all(type(values[name]) is kind for name, kind in types.items()),
        "expected a JSON object of "
        + ", ".join(f"{name} ({kind.__name__})" for name, kind in types.items()),
    )
    return cast(dict[str, Any], values)


def _person(name: str) -> Rater:
    require(
        name.isprintable() and name == name.strip(),
        "a rater's name must not begin or end with a space or hold special characters",
    )
    require(bool(name), "the rater's name is missing")
    return Rater(name, "person")


def _mode(value: str) -> Mode:
    require(value in ("single", "pairs"), f"mode is {value!r}, must be single or pairs")
    return cast(Mode, value)
