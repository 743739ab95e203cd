"""Access control of the rating server, which checks every request first."""

import asyncio
import dataclasses
import hashlib
import hmac
import ipaddress
import sqlite3
import urllib.parse
from collections.abc import Awaitable, Callable

from aiohttp import web

from common.errors import BadInput

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Another collection with the same segment names may be served at this address later.
    "Cache-Control": "no-store",
}
# Time and order of the recordings would reveal something about the segments.
_TELLING_HEADERS = ("Last-Modified", "ETag")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclasses.dataclass(frozen=True)
class Guard:
    """Rejects unauthorized requests, and turns every failure into one line of JSON.

    On a loopback address, a website could point its own name at this machine and then read and
    write here (DNS rebinding). The Host header must therefore be a name of this machine. On other
    addresses a token is required.
    """

    host: str = "127.0.0.1"
    """Address that the server is bound to."""
    token: str = ""
    """Token that every request must carry; empty for none."""

    @property
    def cookie(self) -> str:
        """Name of the token's cookie; it depends on the token because cookies ignore ports."""
        return f"rating_{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    @web.middleware
    async def protect(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Returns the response of `handler`, or an error."""
        try:
            self._check(request)
            return await handler(request)
        except web.HTTPException as error:
            return _refusal(error.status, error.reason)
        except BadInput as error:
            return _refusal(400, str(error))
        except asyncio.TimeoutError:
            return _refusal(503, "that took too long: try again")
        except sqlite3.Error as error:
            return _refusal(503, f"the ratings cannot be reached: {error}")
        except OSError as error:
            return _refusal(503, f"the disk cannot be reached: {error.strerror}")

    def _check(self, request: web.Request) -> None:
        address = request.headers.get("Host", "")
        if is_loopback(self.host) and _name(address) not in {
            "localhost",
            "127.0.0.1",
            "::1",
            self.host,
        }:
            raise web.HTTPForbidden(reason="this server answers to the name localhost only")
        if self.token and not self._knows_token(request):
            raise web.HTTPForbidden(
                reason="the token is missing or wrong: use the whole address that pianist rate "
                "printed"
            )
        origin = request.headers.get("Origin")
        if origin not in (None, f"http://{address}", f"https://{address}"):
            raise web.HTTPForbidden(reason="another site's page must not ask here")
        if request.method == "POST" and request.content_type != "application/json":
            raise web.HTTPBadRequest(reason="the content type must be application/json")

    def _knows_token(self, request: web.Request) -> bool:
        offered = [
            request.cookies.get(self.cookie, ""),
            request.headers.get("Authorization", "").removeprefix("Bearer "),
        ]
        if request.path == "/":
            offered.append(request.query.get("token", ""))
        # Compare bytes: `compare_digest` does not accept strings with non-ASCII characters.
        return any(
            hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
            for token in offered
        )


async def set_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Adds security headers, and removes headers that reveal too much."""
    response.headers.update(_HEADERS)
    for name in _TELLING_HEADERS:
        response.headers.popall(name, None)


def _name(address: str) -> str | None:
    """Returns the host name in a Host header, without the port."""
    try:
        return urllib.parse.urlsplit(f"//{address}").hostname
    except ValueError:
        return None


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": " ".join(message.split())}, status=status)
