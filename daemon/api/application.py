"""The application: each operation is a POST of its arguments as JSON; `GET /status` is the rest."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, create_model

from daemon.api import chat, telling
from daemon.api.bodies import Body
from daemon.api.failures import Failure, handle

Operation = Callable[..., Any]

ABOUT = (
    "What can be asked of a memory. Over TCP every request needs `Authorization: Bearer TOKEN`; over the Unix socket "
    "none does. Too many requests at once get 429, a daemon that is stopping answers 503; both say when to try again."
)
FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "What was asked cannot be asked"},
    404: {"model": Failure, "description": "No such snapshot, version, document, retrieval"},
    429: {"model": Failure, "description": "Too many ask at once"},
    503: {"model": Failure, "description": "The daemon is stopping"},
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `token` (a `text` that is not checked yet) as often as there is one, then "
        "one `result` as /ask gives it, or one `error`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


class Arguments(Body):
    model_config = ConfigDict(extra="forbid")


def build(operations: dict[str, Operation], status: Callable[[], Any]) -> FastAPI:
    """The application. An operation's parameters are its request body; an unknown one is an error.

    Keyword-only parameters are for callers in this process: `ask` has two, to be told while it is done.
    """
    bearer = Depends(HTTPBearer(auto_error=False))  # described here, checked by the guard
    app = FastAPI(title="memex", description=ABOUT, docs_url=None, redoc_url=None, dependencies=[bearer])
    handle(app)

    @app.get("/status", summary="What the memory holds and how the daemon is.")
    def _status() -> dict[str, Any]:
        return dict(status())

    for name, operation in operations.items():
        described = getattr(operation, "func", operation).__doc__ or name
        body = _body(name, operation)
        app.post(f"/{name}", summary=described.splitlines()[0], responses=FAILURES, operation_id=name)(
            _route(operation, body)
        )
        if name == "ask":
            app.post(
                "/ask/stream",
                summary="Answer a question, and say so while it is done.",
                response_class=Response,
                responses=FAILURES | EVENTS,
                operation_id="ask_stream",
            )(_stream(operation, body))
            app.include_router(chat.router(operation))

    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _body(name: str, operation: Operation) -> type[BaseModel]:
    fields: dict[str, Any] = {
        one.name: (one.annotation, ... if one.default is inspect.Parameter.empty else one.default)
        for one in inspect.signature(operation, eval_str=True).parameters.values()
        if one.kind is not inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(name, __base__=Arguments, **fields)


def _given(arguments: BaseModel) -> dict[str, Any]:
    return {field: getattr(arguments, field) for field in type(arguments).model_fields}


def _route(operation: Operation, body: type[BaseModel]) -> Callable[[BaseModel], Any]:
    def route(arguments: BaseModel) -> Any:
        return operation(**_given(arguments))

    route.__annotations__["arguments"] = body
    return route


def _stream(operation: Operation, body: type[BaseModel]) -> Callable[..., Any]:
    async def route(arguments: BaseModel, request: Request) -> Response:
        def work(on_token: Callable[[str], None], stop: Callable[[], bool]) -> dict[str, Any]:
            return dict(operation(**_given(arguments), on_token=on_token, stop=stop))

        return telling.response(_lines(await telling.tell(work, request)))

    route.__annotations__ |= {"arguments": body, "request": Request}
    return route


async def _lines(events: AsyncIterator[telling.Event]) -> AsyncIterator[str]:
    async for event in events:
        if isinstance(event, telling.Token):
            yield telling.sent({"text": event.text}, "token")
        elif isinstance(event, telling.Result):
            yield telling.sent(event.found, "result")
        else:
            yield telling.sent(event.described(), "error")


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, without the 422 that FastAPI adds: here what does not fit is a 400."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=_version(), description=app.description, routes=app.routes)
        for path in schema["paths"].values():
            for one in path.values():
                one["responses"].pop("422", None)
        app.openapi_schema = schema
    return app.openapi_schema


def _version() -> str:
    try:
        return version("memexd")
    except PackageNotFoundError:  # run from a checkout
        return "0"
