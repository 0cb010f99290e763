"""SQLite's files on a disk that may be read-only, full or failing. Plain sqlite3: `memex status` needs no more."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from store.errors import Corrupt, DiskFailed, MemexError

DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
BROKEN = ("no such table", "no such column", "Could not decode to UTF-8", "malformed")  # what a damaged page brings
REFUSED = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


def address(path: Path, mode: str = "rwc") -> str:
    """The URI to connect to.

    Where nothing can be written, SQLite cannot make the journal that it reads with; and needs none, if none was left.
    """
    journal = path.with_name(path.name + "-wal")
    immutable = not os.access(path.parent, os.W_OK) and not journal.exists()
    return f"{path.absolute().as_uri()}?mode={mode}" + ("&immutable=1" if immutable else "")


def as_ours(error: BaseException | None, path: Path) -> MemexError | None:
    """What SQLite says of a disk or a file, as our error; None when it says something else."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in DAMAGED or any(word in str(error) for word in BROKEN):
        return Corrupt(
            f"{path}: the catalogue cannot be read ({error}); if the disk is well, restore the state directory from a "
            "backup"
        )
    if code in REFUSED:
        return DiskFailed(f"{path}: {error}")
    return None
