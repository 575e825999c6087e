"""Who may ask the server of `lathe ui`, and for what: a token in the address, and only requests that read.

MLflow's server acts as the user who runs it and has no login, so every user of the machine could read and write that user's files
through it. The token is a part of the path and not a cookie: a browser sends the cookies of 127.0.0.1 to every port, so also to
the server of another user.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_VARIABLE = "LATHE_UI_TOKEN"
"""Environment variable that gives the server its token. Other users can read arguments, but not the environment."""
MAX_BODY_BYTES = 1 << 20

_API = r"/(?:ajax-)?api/2\.0/mlflow"
_GET = re.compile(
    rf"""/ | /health | /version | /graphql | /static-files/.+ | /get-artifact | /model-versions/get-artifact
    | /ajax-api/3\.0/mlflow/(?:server-info|ui-telemetry|workspaces)
    | {_API}/artifacts/list | {_API}/gateway-proxy
    | {_API}/experiments/(?:get|get-by-name|search)
    | {_API}/runs/get
    | {_API}/metrics/get-history(?:-bulk|-bulk-interval)?
    | {_API}/logged-models/[\w-]+(?:/artifacts/(?:directories|files))?
    | {_API}/model-versions/(?:get|search)
    | {_API}/registered-models/(?:get|search|get-latest-versions|alias)""",
    re.VERBOSE,
)
_POST = re.compile(
    rf"""/graphql
    | {_API}/experiments/(?:search|search-datasets)
    | {_API}/(?:runs|logged-models)/search
    | {_API}/registered-models/get-latest-versions""",
    re.VERBOSE,
)  # requests that search, with a long condition; MLflow's GraphQL has no mutation that writes (3.17, 2026-11-29)
_HEADERS = (
    (b"referrer-policy", b"no-referrer"),  # the token is in the address of every page
    (
        b"content-security-policy",  # the notes of a run may hold images and links of other people
        b"img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'self'",
    ),
)


def make_token() -> str:
    """Make a new token of 256 random bits, which is one segment of a path."""
    return secrets.token_urlsafe(32)


def guard(app: App, token: str) -> App:
    """Wrap a web application so that it gets only requests that read, under the path ``/TOKEN/``, without the token.

    Every other request, WebSockets included, is answered with 403.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        path = _take_token(str(scope["path"]), token)
        if scope["type"] != "http" or path is None or not _may_ask(str(scope["method"]), path):
            await _refuse(scope, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await app(inner, _limit_body(receive), send_with_headers)

    return guarded


def _take_token(path: str, token: str) -> str | None:
    """Return the path behind the token; None if the token is missing or wrong."""
    given, slash, rest = path.removeprefix("/").partition("/")
    # The comparison takes the same time for every guess.
    is_right = hmac.compare_digest(given.encode(errors="replace"), token.encode())
    return f"/{rest}" if is_right and slash and path.startswith("/") else None


def _may_ask(method: str, path: str) -> bool:
    """Whether a request only reads, and its path cannot be read in two ways."""
    if re.search(r"//|/\.\.?(/|$)|[\\\x00-\x1f]", path):
        return False
    allowed = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(method)
    return allowed is not None and allowed.fullmatch(path) is not None


def _limit_body(receive: Receive) -> Receive:
    """Cut the body of a request after a limit: it is a condition of a search."""
    num_bytes = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        return message if num_bytes <= MAX_BODY_BYTES else {"type": "http.disconnect"}

    return limited


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before the handshake: the answer is 403
        return
    text = b"403: open the address that `lathe ui` printed, with its token. It only shows runs and changes nothing.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})
