"""OpenAI's chat completions, answered from the memory, so that programs made for those can ask it.

The last message of the user is the question. Which model answers, and how, is for the settings: what a request says of
that is read over. What was checked comes after the answer, as text.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from daemon import render
from daemon.api import telling
from daemon.api.bodies import check_text
from daemon.api.failures import described, status_of
from store.errors import UsageError

MODEL = "memex"


class Part(BaseModel):
    """A part of a message; only texts are read."""

    type: str
    text: str = ""


class Message(BaseModel):
    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(BaseModel):
    include_usage: bool = False


class Chat(BaseModel):
    """As OpenAI has it; fields that are not here are read over."""

    messages: list[Message] = Field(min_length=1)
    model: str = MODEL
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None

    def question(self) -> str:
        """Raises UsageError."""
        asked = next((one.text() for one in reversed(self.messages) if one.role == "user"), "")
        if not asked.strip():
            raise UsageError("messages: no question; the last message with role 'user' should have a text")
        try:
            check_text(asked)
        except ValueError as error:
            raise UsageError(f"messages: the question is {error}") from None
        return asked


def router(ask: Callable[..., dict[str, Any]]) -> APIRouter:
    """The routes below /v1, answered by the operation `ask`."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"])

    @routes.get("/models", summary="The one model: this memory.")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "memex"}]}

    @routes.post(
        "/chat/completions",
        summary="Answer the last message of the user from the documents, with citations as text.",
        response_model=None,
        operation_id="chat_completions",
    )
    async def completions(chat: Chat, request: Request) -> Response | dict[str, Any]:
        question = chat.question()

        def work(on_token: Callable[[str], None], stop: Callable[[], bool]) -> dict[str, Any]:
            return ask(question, on_token=on_token, stop=stop)

        events = await telling.tell(work, request)
        if chat.stream:
            usage = chat.stream_options is not None and chat.stream_options.include_usage
            return telling.response(_lines(events, usage))
        async for event in events:
            if isinstance(event, telling.Result):
                return _whole(event.found)
            if not isinstance(event, telling.Token):
                raise event
        raise AssertionError("an answer ends with its result or an error")

    return routes


def _whole(found: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": found["answer"] + render.after_answer(found["answer"], found)}
    return {
        **_frame("chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(found),
        "memex": found,
    }


async def _lines(events: AsyncIterator[telling.Event], with_usage: bool) -> AsyncIterator[str]:
    frame = _frame("chat.completion.chunk")
    said = ""

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        return telling.sent({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})

    yield chunk({"role": "assistant", "content": ""})
    async for event in events:
        if isinstance(event, telling.Token):
            said += event.text
            yield chunk({"content": event.text})
        elif isinstance(event, telling.Result):
            yield chunk({"content": render.after_answer(said, event.found)})
            yield chunk({}, "stop", memex=event.found)
            if with_usage:
                yield telling.sent({**frame, "choices": [], "usage": _usage(event.found)})
            yield "data: [DONE]\n\n"
        else:
            yield telling.sent(described("/v1/", status_of(event), event))


def _frame(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}


def _usage(found: dict[str, Any]) -> dict[str, int]:
    prompt, new = found["prompt_tokens"], found["new_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
