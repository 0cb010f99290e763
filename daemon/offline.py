"""Doing an operation in this process, when no daemon runs."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

from daemon import operations
from daemon.operations.backups import backup, restore
from daemon.refresh import plan, refresh
from daemon.runtime import Progress, Runtime
from daemon.settings import Settings
from store.errors import NotFound

UNHURRIED = 10.0  # seconds of embedding in one commit, where no fresh edit waits behind it


def perform(settings: Settings, operation: str, arguments: dict[str, Any], *, show_progress: bool) -> Any:
    """Open the memory, do one operation, close it. Takes the writer's lock only when the operation writes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    learns = operation == "refresh" and not arguments.get("dry_run")
    backs_up = operation == "backup"
    if backs_up and not (settings.state_dir / "catalogue.sqlite").exists():  # opened for writing it would be made
        raise NotFound(f"no memory in {settings.state_dir} to back up; `memex restore DIR` puts one back")
    runtime = Runtime(settings, write=operation in operations.WRITE or learns or backs_up)
    try:
        if backs_up:
            with _Bar("backup", show_progress) as bar:
                return backup(runtime, on_progress=bar.files, stop=threading.Event(), **arguments)
        if learns:
            with _Bar("refresh", show_progress) as bar:
                return refresh(
                    runtime,
                    trigger="by hand",
                    write=lambda job: job(),
                    on_progress=bar.stage,
                    stop=threading.Event(),
                )
        if operation == "refresh":
            return plan(runtime)
        with _Bar(operation, show_progress) as bar:
            runtime.after_commit = bar.update
            runtime.batch_seconds = max(runtime.batch_seconds, UNHURRIED)
            return (operations.READ | operations.WRITE)[operation](runtime, **arguments)
    finally:
        runtime.close()


def put_back(settings: Settings, folder: str, *, show_progress: bool) -> Any:
    """Restore a backup. Opens no memory: there is none yet."""
    with _Bar("restore", show_progress) as bar:
        return restore(settings, folder, bar.files)


class _Bar:
    """A progress bar on stderr when that is a terminal; nothing elsewhere, and nothing until there is progress."""

    def __init__(self, name: str, wanted: bool) -> None:
        self._name = name
        self._wanted = wanted and sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, progress: Progress) -> None:
        self._draw(progress.done, progress.total, f"{progress.chunks_per_second:.1f} chunks/s")

    def stage(self, progress: dict[str, Any]) -> None:
        self._draw(progress.get("done", 0), progress.get("total", 1), str(progress.get("stage", "")))

    def files(self, done: int, total: int) -> None:
        self._draw(done, total, "files")

    def _draw(self, done: int, total: int, text: str) -> None:
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
