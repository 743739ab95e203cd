"""The server of the rating page: an aiohttp application over a collection and its ratings.

    GET  /, /page.css, /page.js and its modules           the page
    GET  /api/start                                       name that the command was given
    GET  /api/question?rater=&mode=&show=                 a `Question`
    GET  /api/segments/NAME                               notes, and where the media are
    GET  /media/NAME.mp4, /media/NAME.wav                 pictures with sound; sound alone
    POST /api/rate      {rater, segment, score, comment}  each answers with the next `Question`,
    POST /api/compare   {rater, first, second, preferred} once the answer is safe on the disk
    POST /api/skip      {rater, segment}
    POST /api/undo      {rater, mode}                     with the `Question` taken back
    GET  /api/agreement                                   an `Agreement`, or null

The study is blind: nothing here tells which checkpoint played, how, or how well. Whatever cannot
be done is answered with {"error": "one line"}.
"""

import asyncio
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

from aiohttp import web

from replay.errors import require
from rlhf.agreement import agreement
from rlhf.collection import Collection
from rlhf.rate_page.guard import Guard, set_headers
from rlhf.rate_page.material import Material
from rlhf.rate_page.question import Mode, Question, Segments, ask
from rlhf.ratings import Rater, Ratings

_LARGEST_BODY = 16 * 1024
_BODY_SECONDS, _DISK_SECONDS = 10.0, 40.0
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PAGE = "page.html"
_MODULES = ("page.js", "memory.js", "player.js", "requests.js", "roll.js", "score.js")
_ASSETS = (_PAGE, "page.css", *_MODULES)
# Seen for a moment by who follows a link with a token in it. An HTTP redirect would not do: where
# the link is in another site's page, say a mail, SameSite=Strict keeps the cookie from it.
_GO_ON = '<!DOCTYPE html><meta http-equiv="refresh" content="0;url={0}"><a href="{0}">Go on</a>'

Result = TypeVar("Result")


def make_app(
    collection: Collection,
    ratings: Ratings,
    sounds: pathlib.Path,
    guard: Guard,
    rater: str = "",
) -> web.Application:
    """The application; segments recorded later are not in it.

    Args:
        collection: whose segments are rated.
        ratings: where answers go.
        sounds: folder for sounds of segments that have no video.
        guard: who may ask.
        rater: name that the page begins with; if empty it asks.

    Raises:
        BadInput: nothing has been recorded.
    """
    desk = _Desk(collection, ratings, sounds, guard, rater)
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
            web.get("/api/agreement", desk.agreement),
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
    """Answers the requests; see the top of this file."""

    def __init__(
        self,
        collection: Collection,
        ratings: Ratings,
        sounds: pathlib.Path,
        guard: Guard,
        rater: str,
    ):
        segments = collection.segments()
        self._planned = [segment.planned for segment in segments]
        self._names = {segment.name for segment in segments}
        self._material = Material(collection.path, segments, sounds)
        self._ratings, self._rater, self._guard = ratings, rater, guard
        folder = pathlib.Path(__file__).parent
        self._assets = {name: (folder / name).read_text(encoding="utf-8") for name in _ASSETS}

    # --- The page ---------------------------------------------------------------------------

    async def page(self, request: web.Request) -> web.Response:
        """The page; what carries the token as an address is turned into a cookie first."""
        if not (self._guard.token and "token" in request.query):
            return self._asset(_PAGE)
        clean = "/?mode=pairs" if request.query.get("mode") == "pairs" else "/"
        response = web.Response(text=_GO_ON.format(clean), content_type="text/html")
        response.set_cookie(
            self._guard.cookie, self._guard.token, httponly=True, samesite="Strict", path="/"
        )
        return response

    async def asset(self, request: web.Request) -> web.Response:
        """What belongs to the page."""
        return self._asset(request.match_info["asset"])

    def _asset(self, name: str) -> web.Response:
        kind = _TYPES[pathlib.PurePath(name).suffix]
        return web.Response(text=self._assets[name], content_type=kind, charset="utf-8")

    async def no_icon(self, _: web.Request) -> web.Response:
        """Browsers ask for one."""
        return web.Response(status=204)

    # --- What is shown ----------------------------------------------------------------------

    async def start(self, _: web.Request) -> web.Response:
        """The name that the command was given."""
        return web.json_response({"rater": self._rater})

    async def question(self, request: web.Request) -> web.Response:
        """What a rater is to be shown."""
        show = tuple(name for name in request.query.get("show", "").split(",") if name)
        mode = request.query.get("mode", "single")
        return await self._ask(request.query.get("rater", ""), mode, show)

    async def segment(self, request: web.Request) -> web.Response:
        """The notes of a segment, and where its pictures and sound are."""
        return web.json_response(await self._material.describe(request.match_info["name"]))

    async def video(self, request: web.Request) -> web.StreamResponse:
        """A segment's video, or the part that is asked for."""
        name = request.match_info["name"]
        return web.FileResponse(await asyncio.to_thread(self._material.video, name))

    async def sound(self, request: web.Request) -> web.StreamResponse:
        """A segment's sound, likewise."""
        return web.FileResponse(await self._material.sound(request.match_info["name"]))

    async def agreement(self, _: web.Request) -> web.Response:
        """How far people agree."""
        found = agreement(await _limited(self._ratings.ratings))
        return web.json_response({"agreement": None if found is None else found._asdict()})

    # --- Answers ----------------------------------------------------------------------------

    async def rate(self, request: web.Request) -> web.Response:
        """Keeps a score."""
        values = await _read(request, rater=str, segment=str, score=int, comment=str)
        rater = _person(values["rater"])
        await _limited(
            self._ratings.rate, rater, values["segment"], values["score"], values["comment"]
        )
        return await self._ask(rater.name, "single")

    async def compare(self, request: web.Request) -> web.Response:
        """Keeps which of two is better."""
        values = await _read(request, rater=str, first=str, second=str, preferred=str)
        rater = _person(values["rater"])
        await _limited(
            self._ratings.compare, rater, values["first"], values["second"], values["preferred"]
        )
        return await self._ask(rater.name, "pairs")

    async def skip(self, request: web.Request) -> web.Response:
        """Keeps that a segment shall not be rated."""
        values = await _read(request, rater=str, segment=str)
        rater = _person(values["rater"])
        await _limited(self._ratings.skip, rater, values["segment"])
        return await self._ask(rater.name, "single")

    async def undo(self, request: web.Request) -> web.Response:
        """Takes back the last answer."""
        values = await _read(request, rater=str, mode=str)
        rater, mode = _person(values["rater"]), _mode(values["mode"])
        taken_back = tuple(await _limited(self._ratings.undo, rater))
        require(bool(taken_back), "there is no answer to take back")
        if not self._names.issuperset(taken_back):
            taken_back = ()  # A collection whose segments have become fewer.
        if taken_back:
            mode = "pairs" if len(taken_back) == 2 else "single"
        return await self._ask(rater.name, mode, taken_back)

    async def _ask(self, name: str, mode: str, show: Segments = ()) -> web.Response:
        rater, mode = _person(name), _mode(mode)
        for segment in show:
            require(segment in self._names, "there is no such segment")
        require(
            len(show) in (0, 1 if mode == "single" else 2),
            f"{len(show)} segments cannot be shown in mode {mode}",
        )
        question = await _limited(self._question, rater, mode, show)
        return web.json_response(question._asdict() | {"place": question.place._asdict()})

    def _question(self, rater: Rater, mode: Mode, show: Segments) -> Question:
        require(
            Rater(rater.name, "simulated") not in self._ratings.raters(),
            f"{rater.name} is the name of a simulated rater: choose another",
        )
        return ask(self._planned, self._ratings, rater, mode, show)


# --- Reading requests -----------------------------------------------------------------------


async def _limited(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls what waits for the disk, in a thread."""
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), _DISK_SECONDS)


async def _read(request: web.Request, **types: type) -> dict[str, Any]:
    """A JSON object of exactly these fields.

    Raises:
        BadInput: the body is something else.
        web.HTTPException: it is too large.
    """
    body = await asyncio.wait_for(request.read(), _BODY_SECONDS)
    try:
        values = json.loads(body)
        # Halves of surrogate pairs can be written in JSON, but not be kept.
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
