"""What a request must be before anything looks at it, and what every answer carries.

On the loopback address the Host header must name it (a page elsewhere could otherwise point its own name at this machine). Anywhere
else every request carries the token: as ``Authorization: Bearer``, or as the cookie that opening ``/?token=…`` once sets. Only GET and
HEAD exist.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

COOKIE = "swerl_token"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Guard:
    """Middleware. ``token`` None: the loopback address, where whoever can connect may look."""

    def __init__(self, token: str | None):
        self._token = token

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            return await handler(request)

        return guard

    def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
        if self._token is None:
            if not is_loopback(_name_of(request.host)):
                return web.Response(status=403, text="this server answers to its loopback address only\n")
            return None
        given = request.query.get("token")
        if request.path == "/" and given is not None and self._matches(given):
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict", path="/")
            return answer
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._matches(bearer) or self._matches(request.cookies.get(COOKIE, "")):
            return None
        return web.Response(status=401, text="open the address with ?token=… that `swerl dashboard` printed\n")

    def _matches(self, given: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(given.encode(), self._token.encode())


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """For ``on_response_prepare``: refusals and errors get them too."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
