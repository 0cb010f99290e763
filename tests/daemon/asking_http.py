"""Requests as any program would send them, with the standard library."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from daemon.client import _UnixConnection

Answer = tuple[int, dict[str, str], Any]


def over_socket(path: Path, place: str, body: Any = None, **headers: str) -> Answer:
    return _sent(_UnixConnection(path), place, body, headers)


def over_tcp(port: int, place: str, body: Any = None, **headers: str) -> Answer:
    return _sent(http.client.HTTPConnection("127.0.0.1", port, timeout=60), place, body, headers)


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events: their names ("" without one) and data."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _sent(connection: http.client.HTTPConnection, place: str, body: Any, headers: dict[str, str]) -> Answer:
    """Status, headers (lower case) and the JSON, or the text, that came back. Bytes are sent as they are."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        connection.request("GET", place, headers=sent)
    else:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", place, raw, {"Content-Type": "application/json", **sent})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    return response.status, found, json.loads(text) if text.startswith(("{", "[")) else text
