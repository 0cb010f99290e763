"""An answer that is told while it is made: the model works in a thread, what it says goes out as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from store.errors import MemexError

log = logging.getLogger("memex")

LOOK_SECONDS = 0.5  # how soon a client that went away is noticed while nothing can be said to it

Work = Callable[[Callable[[str], None], Callable[[], bool]], dict[str, Any]]  # gets `on_token` and `stop`


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of what the model says, not checked yet."""

    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """What the work gave back."""

    found: dict[str, Any]


Event = Token | Result | MemexError


async def tell(work: Work, request: Request) -> AsyncIterator[Event]:
    """The events of `work`, of which the last is a Result or an error. A thread does it.

    Raises the error when it is the first event: then nothing has been told, and the status can say it. When nobody
    listens any more, the work is told to stop.
    """
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop, gone = asyncio.get_running_loop(), threading.Event()

    def put(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        try:
            put(Result(work(lambda text: put(Token(text)), gone.is_set)))
        except MemexError as error:
            put(error)
        except Exception:
            log.exception("an answer failed")
            put(MemexError("the answer failed; the daemon's log says more"))

    threading.Thread(target=run, name="answer", daemon=True).start()
    try:
        first = await _next(events, request)
        if isinstance(first, MemexError):
            raise first
    except BaseException:
        gone.set()
        raise
    return _rest(first, events, gone)


async def _next(events: asyncio.Queue[Event], request: Request) -> Event:
    while True:
        try:
            return await asyncio.wait_for(events.get(), LOOK_SECONDS)
        except TimeoutError:
            if await request.is_disconnected():
                raise MemexError("the client went away") from None


async def _rest(first: Event, events: asyncio.Queue[Event], gone: threading.Event) -> AsyncIterator[Event]:
    event = first
    try:
        yield event
        while isinstance(event, Token):
            event = await events.get()
            yield event
    finally:
        gone.set()


def response(lines: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(
        lines, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


def sent(data: Any, event: str | None = None) -> str:
    """One server-sent event; `data` is JSON, so it has no line breaks."""
    return (f"event: {event}\n" if event else "") + f"data: {json.dumps(data)}\n\n"
