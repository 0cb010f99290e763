"""Doing an operation in this process, when no daemon runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from daemon import operations
from daemon.collecting import plan
from daemon.operations.backups import backup, restore
from daemon.progress import Bar
from daemon.refresh import refresh
from daemon.runtime import Progress, Runtime
from daemon.settings import Settings
from store.errors import NotFound

UNHURRIED = 10.0  # seconds of embedding in one commit, where no fresh edit waits behind it


@contextmanager
def opened(settings: Settings) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """A memory opened for operations that only read, or that write rows of the journal."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    runtime = Runtime(settings, write=False)
    try:
        yield lambda operation, arguments: operations.READ[operation](runtime, **arguments)
    finally:
        runtime.close()


def perform(settings: Settings, operation: str, arguments: dict[str, Any], *, show_progress: bool) -> Any:
    """Open the memory, do one operation, close it. Takes the writer's lock only when the operation writes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    learns = operation == "refresh" and not arguments.get("dry_run")
    backs_up = operation == "backup"
    if backs_up and not (settings.state_dir / "catalogue.sqlite").exists():  # opened for writing it would be made
        raise NotFound(f"no memory in {settings.state_dir} to back up; `memex restore DIR` puts one back")
    writing = operations.WRITE | operations.WRITE_IN_STEPS
    runtime = Runtime(settings, write=operation in writing or learns or backs_up)
    try:
        if backs_up:
            with Bar("backup", show_progress) as bar:
                return backup(runtime, on_progress=bar.draw_files, stop=threading.Event(), **arguments)
        if learns:
            with Bar("refresh", show_progress) as bar:

                def on_stage(stage: dict[str, Any]) -> None:
                    bar.draw_status({"refreshing": stage})

                control = arguments.get("control")
                return refresh(
                    runtime, trigger="by hand", on_progress=on_stage, stop=threading.Event(), control=control
                )
        if operation == "refresh":
            return plan(runtime, arguments.get("whole", False))
        with Bar(operation, show_progress) as bar:

            def on_progress(now: Progress) -> None:
                bar.draw(now.done, now.total, f"{now.pace.chunks_per_second:.1f} chunks/s")

            runtime.on_progress = on_progress
            runtime.batch_seconds = max(runtime.batch_seconds, UNHURRIED)
            return (operations.READ | writing)[operation](runtime, **arguments)
    finally:
        runtime.close()


def put_back(settings: Settings, folder: str, *, show_progress: bool) -> Any:
    """Restore a backup. Opens no memory: there is none yet."""
    with Bar("restore", show_progress) as bar:
        return restore(settings, folder, bar.draw_files)
