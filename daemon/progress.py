"""A progress bar for long work, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.5  # how often a daemon is asked how far it is


class Bar:
    """Draws on stderr when that is a terminal and it is `wanted`; nothing elsewhere, nor until there is progress."""

    def __init__(self, name: str, wanted: bool) -> None:
        self._name = name
        self._wanted = wanted and sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def draw(self, done: int, total: int, text: str) -> None:
        if not self._wanted:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task(self._name, total=total, text=text)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, text=text)

    def draw_files(self, done: int, total: int) -> None:
        self.draw(done, total, "files")

    def draw_status(self, status: dict[str, Any]) -> None:
        """What a daemon's status says of a sync or a refresh under way."""
        if syncing := status.get("syncing"):
            self.draw(syncing["done"], syncing["total"], f"{status['chunks_per_second']:.1f} chunks/s")
        elif refreshing := status.get("refreshing"):
            self.draw(refreshing.get("done", 0), refreshing.get("total", 1), str(refreshing.get("stage", "")))


@contextlib.contextmanager
def following(socket: Path, operation: str, wanted: bool, call: Callable[[Path, str], Any]) -> Iterator[None]:
    """While the block waits for a daemon's `operation`, show how far the daemon is."""
    done = threading.Event()

    def look() -> None:
        with Bar(operation, wanted) as bar:
            while not done.wait(LOOK_SECONDS):
                bar.draw_status(call(socket, "status"))

    if not (wanted and sys.stderr.isatty()):
        yield
        return
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
