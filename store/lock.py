"""One process writes a state directory."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from store.errors import Locked


def take_lock(state_dir: Path) -> FileLock:
    """The writer's lock, held until it is released or this process ends. Raises Locked when another holds it."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(state_dir / "writer.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise Locked(f"another memex writes {state_dir}; stop it, or let it do the work") from None
    return lock
