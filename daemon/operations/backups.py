"""A copy of the memory elsewhere, and the memory back from it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from daemon.operations.shapes import Json
from daemon.runtime import Runtime
from daemon.settings import Settings, misplaced
from store.backup import is_lost, note
from store.errors import MemexError, UsageError
from store.manifest import OnProgress

log = logging.getLogger("memex")


def backup(
    runtime: Runtime, dir: str, on_progress: OnProgress, stop: threading.Event, *, scheduled: bool = False
) -> Json:
    """Make `dir` a copy of the memory; how it ended is kept for `status`. Needs no turn of the writer's.

    `scheduled`: nobody looks on. A folder that has lost its backup is taken for a disk that is not mounted then, and
    the backup is not begun anew on the disk below.
    """
    started = time.perf_counter()
    folder = Path(dir).absolute()
    error: str | None = "interrupted"
    try:
        if reason := misplaced(folder, runtime.settings.state_dir, runtime.settings.sources):
            raise UsageError(f"{reason}; back up to another folder")
        if scheduled and is_lost(runtime.settings.state_dir, folder):
            raise MemexError(f"the backup in {folder} is gone; mount its disk, or begin anew: `memex backup {folder}`")
        done = runtime.memory.back_up(folder, on_progress, stop)
        error = None
    except MemexError as failure:
        error = str(failure)
        raise
    finally:
        _note(runtime, folder, error)
    return {
        "dir": str(folder),
        "files": done.files,
        "bytes": done.bytes,
        "copied_files": done.copied_files,
        "copied_bytes": done.copied_bytes,
        "removed": done.removed,
        "seconds": round(time.perf_counter() - started, 3),
    }


def restore(settings: Settings, dir: str, on_progress: OnProgress) -> Json:
    """Make the state directory, which must have no memory, what it was when `dir` was written."""
    from store.restore import restore as put_back

    started = time.perf_counter()
    folder = Path(dir).absolute()
    done = put_back(folder, settings.state_dir, on_progress)
    return {
        "from": str(folder),
        "files": done.files,
        "bytes": done.bytes,
        "head": dict(done.head),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _note(runtime: Runtime, folder: Path, error: str | None) -> None:
    try:
        note(runtime.settings.state_dir, folder, runtime.memory.clock(), error)
    except OSError as failure:
        log.warning("how the backup to %s ended could not be noted: %s", folder, failure)
