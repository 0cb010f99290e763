"""Errors as responses: ours as `MemexError.described` has them, below /v1 in OpenAI's shape."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from store.errors import Busy, EndpointFailed, Locked, MemexError, NotFound, Stopping, UsageError

log = logging.getLogger("memex")

STATUS: dict[type[MemexError], int] = {
    NotFound: 404,
    UsageError: 400,
    Locked: 409,
    Busy: 429,
    EndpointFailed: 502,
    Stopping: 503,
}
RETRY_SECONDS = {429: 2, 503: 10}


class Failure(BaseModel):
    """Why something was not done."""

    error: str
    message: str
    exit_code: int


def status_of(error: MemexError) -> int:
    return next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)


def refusal(path: str, code: int, error: MemexError) -> JSONResponse:
    """The response to a request for `path` that is not carried out."""
    headers = {"Retry-After": str(RETRY_SECONDS[code])} if code in RETRY_SECONDS else {}
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(described(path, code, error), status_code=code, headers=headers)


def described(path: str, code: int, error: MemexError) -> dict[str, Any]:
    if not path.startswith("/v1/"):
        return dict(error.described())
    kind = "rate_limit_error" if code == 429 else "server_error" if code >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": type(error).__name__}}


def handle(app: FastAPI) -> None:
    """Have `app` answer every error in these shapes."""

    @app.exception_handler(MemexError)
    def _ours(request: Request, error: MemexError) -> JSONResponse:
        return refusal(request.url.path, status_of(error), error)

    @app.exception_handler(RequestValidationError)
    def _not_what_it_takes(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        named = [str(part) for part in first["loc"] if isinstance(part, str)]
        where = ".".join(named[1:]) or "body"
        return refusal(request.url.path, 400, UsageError(f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    def _no_such_thing(request: Request, error: HTTPException) -> JSONResponse:
        kind = NotFound if error.status_code == 404 else UsageError
        why = f"{request.method} {request.url.path}: {error.detail}; GET /openapi.json says what there is"
        return refusal(request.url.path, error.status_code, kind(why))

    @app.exception_handler(Exception)
    def _ours_to_mend(request: Request, _error: Exception) -> JSONResponse:
        # The server logs it; what it says may name what the client should not know.
        phrase = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
        return refusal(request.url.path, 500, MemexError(f"{phrase}; the daemon's log says more"))
