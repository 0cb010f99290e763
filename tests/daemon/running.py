"""A real daemon and the real command line, with the hashing embedder: fast, as no claim here is about meaning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import client

MEMEX = str(Path(sys.executable).with_name("memex"))


class Running:
    """A state directory, a watched folder and, between `start` and `stop`, a daemon."""

    def __init__(self, folder: Path, extra: str = "", settle_seconds: float = 0.1) -> None:
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.state = folder / "state"
        self.config = folder / "memex.toml"
        self.log = folder / "daemon.log"
        self.config.write_text(
            f"state_dir = {json.dumps(str(self.state))}\n[[sources]]\npath = {json.dumps(str(self.docs))}\n"
            '[embedding]\nmodel = "hashing"\n[refresh]\nlearn = false\n'
            f"[ingest]\nsettle_seconds = {settle_seconds}\n{extra}"
        )
        self.socket = self.state / "run" / "memex.sock"
        self.daemon: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MEMEX, *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            timeout=120,
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON of a command that succeeds."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def call(self, operation: str, **arguments: Any) -> Any:
        """What the running daemon answers, without the seconds that starting a command takes."""
        return client.call(self.socket, operation, arguments)

    def start(self, **environment: str) -> None:
        self.spawn(**environment)
        self.until(self.has_state)

    def spawn(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [MEMEX, "serve", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def has_state(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log.read_text()
        return client.is_running(self.socket)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(timeout=60)

    def until(self, done: Callable[[], Any], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:] if self.log.exists() else "no log"
            time.sleep(0.05)

    def paths(self) -> set[str]:
        """What memory has, relative to the watched folder."""
        running = self.daemon is not None and self.daemon.poll() is None
        listed = (self.call if running else self.ask)("documents")["documents"]
        return {os.path.relpath(one["path"], self.docs) for one in listed if one["chunks"]}
