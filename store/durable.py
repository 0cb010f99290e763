"""Making writes survive a power cut. LanceDB and SQLite's journal leave that to the file system; this asks it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from store.errors import DiskFailed


def sync_filesystem(folder: Path) -> None:
    """Return once everything written below `folder`'s file system is on the disk (syncfs(2); sync(2) elsewhere).

    Raises DiskFailed when it refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise DiskFailed(f"{folder}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write so that a reader, or a start after a power cut, sees the old file or the new one, never a part.

    Only the owner may read it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8", opener=private) as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return once the names in `folder` are on the disk; without it a rename may be lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes is its owner's alone."""
    return os.open(path, flags, 0o600)
