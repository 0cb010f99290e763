"""Talking to a running daemon over its socket; standard library only, so that it answers at once."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store import errors


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("memex")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def is_running(path: Path) -> bool:
    """Whether a daemon answers on the socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(2.0)
            probe.connect(str(path))
    except OSError:
        return False
    return True


def call(
    path: Path,
    operation: str,
    arguments: dict[str, Any] | None = None,
    on_token: Callable[[str], None] | None = None,
) -> Any:
    """Ask the daemon, wait for its answer however long it takes, and raise the error it gave as our own.

    With `on_token`, `ask` is told while it is answered.
    """
    place = f"/{operation}/stream" if on_token else f"/{operation}"
    connection = _UnixConnection(path)
    try:
        if operation == "status":
            connection.request("GET", "/status")
        else:
            body = json.dumps(arguments or {}).encode()
            connection.request("POST", place, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        told = on_token is not None and response.status == 200
        text = _listen(response, on_token) if on_token and told else response.read()
    except (OSError, http.client.HTTPException) as error:
        raise errors.MemexError(f"the daemon at {path} went away ({error}); read its log") from error
    finally:
        connection.close()
    answer = json.loads(text) if text.startswith((b"{", b"[")) else {"message": text.decode(errors="replace")}
    if response.status >= 400 or (told and "exit_code" in answer):
        kind = getattr(errors, str(answer.get("error")), errors.MemexError)
        raise kind(answer.get("message", f"the daemon answered {response.status}; read its log"))
    return answer


def _listen(response: http.client.HTTPResponse, on_token: Callable[[str], None]) -> bytes:
    """The data of the last of the server-sent events: a result or an error."""
    kind = ""
    for line in response:
        name, _, value = line.rstrip().partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data" and kind == "token":
            on_token(json.loads(value)["text"])
        elif name == b"data":
            return value
    raise http.client.IncompleteRead(b"")
