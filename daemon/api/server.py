"""Serving the application: a Unix socket that only this user can reach, and a loopback port if one is set."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from daemon.api.application import Operation, build
from daemon.api.guard import Caller, Door, Guard
from daemon.config import socket_path, token_path
from daemon.settings import Settings
from store.errors import ConfigError, UsageError

LONGEST_SOCKET = 107  # bytes; what a Unix socket's address holds
SHORTEST_TOKEN = 16  # characters
MOST_CONNECTIONS = 256  # of each socket; past it the server answers 503 by itself
ENDING_SECONDS = 5  # for requests under way, before their connections are cut
START_SECONDS = 10.0


class Api:
    """Answers from threads of its own between `start` and `stop`."""

    def __init__(self, operations: dict[str, Operation], status: Any, settings: Settings) -> None:
        """Raises UsageError when the socket's path is too long for the system."""
        self.socket = socket_path(settings)
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            raise UsageError(f"{self.socket}: longer than {LONGEST_SOCKET} bytes; set api.socket to a shorter path")
        self._settings = settings
        self._app = build(operations, status)
        self._door = Door()
        self._bound: list[tuple[socket.socket, Guard]] = []
        self._servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def bind(self) -> None:
        """Take the socket and the port; who connects waits for `start`.

        Raises ConfigError when the token's file or the port cannot be used, UsageError when the socket cannot.
        """
        if address := self._settings.api.address():
            caller = Caller(read_token(token_path(self._settings)), frozenset({"localhost", "127.0.0.1", "[::1]"}))
            self._bound.append((_bind(*address), Guard(self._app, self._door, caller)))
        self._bound.append((_bind_unix(self.socket), Guard(self._app, self._door)))

    def start(self) -> None:
        """Answer on what `bind` took."""
        for listening, app in self._bound:
            self._serve(listening, app)

    def refuse(self) -> None:
        """Begin nothing new: it is answered with 503."""
        self._door.shut()

    def stop(self) -> None:
        """Let requests under way finish, for a few seconds."""
        self.refuse()
        for server, _ in self._servers:
            server.should_exit = True
        for _, thread in self._servers:
            thread.join(timeout=2 * ENDING_SECONDS)
        if self._servers:
            with suppress(OSError):  # gone already, or the disk is
                self.socket.unlink()

    def _serve(self, listening: socket.socket, app: Guard) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="api", daemon=True)
        thread.start()
        self._servers.append((server, thread))
        until = time.monotonic() + START_SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)


def read_token(path: Path) -> str:
    """The token in the file; a new one, for this user's eyes only, where there is no file. Raises ConfigError."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as made:
            made.write(secrets.token_urlsafe(32) + "\n")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"api.token_file: {path} cannot be read: {error}") from None
    if mode & 0o007:
        raise ConfigError(f"api.token_file: others may read {path} (mode {mode:04o}); `chmod 600` it")
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(
            f"api.token_file: {path} should hold one word of at least {SHORTEST_TOKEN} characters; delete it to get one"
        )
    return token


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(f"api.listen: {host} port {port}: {error.strerror}; set another port") from None


def _bind_unix(path: Path) -> socket.socket:
    """The folder is made for this user only; the socket is for this user only wherever it lies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there and is no socket; set api.socket to another path")
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.fspath(path))
        os.chmod(path, 0o600)  # before it listens: until then nobody gets in
        listening.listen(128)
    except OSError as error:
        raise UsageError(f"{path}: cannot listen there: {error.strerror}; set api.socket to another path") from None
    return listening
