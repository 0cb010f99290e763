"""What every request must pass before anything is done for it: who asks, from where, how much, how many at once."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.api.failures import refusal
from store.errors import Busy, MemexError, Stopping, UsageError

log = logging.getLogger("memex")

AT_ONCE = 32  # requests that do something; fewer than the server's 40 threads, so that GET /status is always answered
LARGEST_BODY = 1 << 20  # bytes
PATIENCE = 16  # times as much is read before the connection is cut
BODY_SECONDS = 10.0  # for a body to arrive
SEND_SECONDS = 60.0  # for a client to take a part of its answer
OF_THE_SOCKET = frozenset({"/backup"})  # what only those may ask who can reach the socket


class Door:
    """Counts requests under way, on all sockets together; may be shut. Safe from any thread."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self._most = most
        self._inside = 0
        self._shut = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Raises Busy when too many are inside, Stopping when shut. Whoever entered must leave."""
        with self._lock:
            if self._shut:
                raise Stopping("memex is stopping; ask again when it is back")
            if self._inside >= self._most:
                raise Busy(f"{self._inside} requests are under way; ask again in a moment")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def shut(self) -> None:
        with self._lock:
            self._shut = True


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may ask over TCP: whoever has the token, under one of the host names, and no other site's page."""

    token: str
    hosts: frozenset[str]

    def objection(self, headers: Headers) -> tuple[int, str] | None:
        """Status and reason of a refusal. The names come first: a page that guesses tokens learns nothing."""
        named = headers.getlist("host")
        if len(named) != 1 or _name(named[0]) not in self.hosts:
            return 403, f"Host should be one of {', '.join(sorted(self.hosts))}"
        if any(origin != f"http://{named[0]}" for origin in headers.getlist("origin")):
            return 403, "a page of another origin may not ask"
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token.encode()):
            return 401, "say `Authorization: Bearer TOKEN`; the token is in api.token_file"
        return None


class Guard:
    """The application behind its checks (ASGI). Without a `caller` all may ask: the socket keeps others out."""

    def __init__(self, app: ASGIApp, door: Door, caller: Caller | None = None) -> None:
        self._app = app
        self._door = door
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a WebSocket: the server refuses what sends nothing
            return
        headers, path = Headers(scope=scope), scope["path"]
        if self._caller and (objection := self._caller.objection(headers)):
            code, why = objection
            await refusal(path, code, UsageError(why))(scope, receive, send)
            return
        if self._caller and path in OF_THE_SOCKET:
            await refusal(path, 403, UsageError("it names a folder of this machine: ask over the socket"))(
                scope, receive, send
            )
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._door.enter()
        except MemexError as error:
            code = 429 if isinstance(error, Busy) else 503
            await refusal(path, code, error)(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            await asyncio.wait_for(send(message), SEND_SECONDS)

        try:
            await self._with_body(headers, scope, receive, send_in_time)
        except TimeoutError:
            log.warning("%s: the client does not read its answer; let go", path)
        finally:
            self._door.leave()

    async def _with_body(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body to its end, then let the application have it."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        code, why = 0, ""
        body: bytes | None = b""
        if kind != "application/json":
            code, why = 415, "Content-Type should be application/json"
        else:
            try:
                body = await asyncio.wait_for(_read(receive), BODY_SECONDS)
            except TimeoutError:
                code, why = 408, f"the body did not arrive in {BODY_SECONDS:.0f} seconds"
            else:
                if body is not None and len(body) > LARGEST_BODY:
                    code, why = 413, f"the body may have {LARGEST_BODY} bytes"
        if code:
            response = refusal(scope["path"], code, UsageError(why))
            response.headers["Connection"] = "close"  # what is left of the body is nobody's request
            await response(scope, receive, send)
        elif body is not None:
            await self._app(scope, _again(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The body, or as much of it as shows that it is too large; None: the client went away.

    The rest of one that is too large is thrown away, up to a point: who is cut off while sending reads no answer.
    """
    body, size = bytearray(), 0
    while size <= PATIENCE * LARGEST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        body += part[: LARGEST_BODY + 1 - len(body)]
        if not message.get("more_body", False):
            break
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """A channel that gives the body, whole, and then what `receive` gives."""
    given = False

    async def give() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def _name(host: str) -> str:
    """The name in a Host header, without the port; "" when there is none."""
    name, bracket, port = host.partition("]") if host.startswith("[") else (host, "", "")
    if bracket:
        return f"{name}]".lower() if port == "" or port.startswith(":") else ""
    return name.partition(":")[0].lower()
