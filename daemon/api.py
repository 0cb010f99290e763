"""HTTP over a Unix socket: each operation is a POST of its arguments as JSON, `GET /status` is the rest."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, create_model

from store.errors import ConfigError, Locked, MemexError, NotFound, UsageError

LONGEST_SOCKET = 107  # bytes; what a Unix socket's address holds
STATUS = {NotFound: 404, UsageError: 400, ConfigError: 400, Locked: 409}

Operation = Callable[..., Any]


def build(operations: dict[str, Operation], status: Callable[[], Any]) -> FastAPI:
    """The application. An operation's parameters are its request body; an unknown one is an error."""
    app = FastAPI(title="memex", docs_url=None, redoc_url=None)

    @app.get("/status")
    def _status() -> Any:
        return status()

    for name, operation in operations.items():
        described = getattr(operation, "func", operation).__doc__ or name
        app.post(f"/{name}", summary=described.splitlines()[0])(_route(name, operation))

    @app.exception_handler(MemexError)
    def _ours(_request: Request, error: MemexError) -> JSONResponse:
        code = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return JSONResponse(error.described(), status_code=code)

    @app.exception_handler(RequestValidationError)
    def _theirs(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse(UsageError(f"{where}: {first['msg']}").described(), status_code=400)

    return app


class SocketServer:
    """Serves the application from a thread of its own, on a socket that only this user can reach."""

    def __init__(self, app: FastAPI, socket: Path) -> None:
        """Raises UsageError when the socket's path is too long for the system."""
        if len(os.fsencode(socket)) > LONGEST_SOCKET:
            raise UsageError(f"{socket}: longer than {LONGEST_SOCKET} bytes; set api.socket to a shorter path")
        self.socket = socket
        config = uvicorn.Config(app, uds=str(socket), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="api", daemon=True)

    def start(self) -> None:
        # uvicorn makes its socket writable for all; the folder keeps others out.
        self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(self.socket.parent, 0o700)
        self.socket.unlink(missing_ok=True)
        self._thread.start()

    def started(self) -> bool:
        return self._server.started

    def stop(self) -> None:
        """Let requests under way finish, for a few seconds."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        with suppress(OSError):  # gone already, or the disk is
            self.socket.unlink()


def _route(name: str, operation: Operation) -> Callable[[BaseModel], Any]:
    fields: dict[str, Any] = {
        one.name: (one.annotation, ... if one.default is inspect.Parameter.empty else one.default)
        for one in inspect.signature(operation, eval_str=True).parameters.values()
    }
    body = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)

    def route(arguments: BaseModel) -> Any:
        return operation(**{field: getattr(arguments, field) for field in fields})

    route.__annotations__["arguments"] = body
    return route
