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
