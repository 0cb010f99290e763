"""Files that one process at a time may hold."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from store.errors import DiskFailed, Locked


def take_lock(file: Path, refusal: str) -> FileLock:
    """Hold `file`, made with its folder if need be, until it is released. Raises Locked with `refusal` at once."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(file, mode=0o600, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise Locked(refusal) from None
    except OSError as error:
        raise DiskFailed(
            f"{file.parent} cannot be written: {error.strerror}; mend that or use another folder"
        ) from error
    return lock


def take_writer_lock(state_dir: Path) -> FileLock:
    """Hold a state directory as its one writer. Raises Locked."""
    return take_lock(state_dir / "writer.lock", f"another memex writes {state_dir}; stop it, or let it do the work")
