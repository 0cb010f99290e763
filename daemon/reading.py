"""Reading a file below a source's folder, and nothing outside of it."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from store.errors import ParseError
from store.types import Stat

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_STEP = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ChangedWhileRead(Exception):
    """The file was written, replaced or removed while it was read; it is to be read again when it is quiet."""


def read_file(root_fd: int, relative: bytes, max_bytes: int) -> tuple[bytes, Stat]:
    """The content of the regular file at `relative` below the folder `root_fd`, and its stat while it was read.

    No symbolic link is followed, neither at the end of the path nor on the way. ParseError says why a file cannot be
    read; FileNotFoundError passes through, ChangedWhileRead means try later.
    """
    *folders, name = relative.split(b"/")
    if any(part in (b"", b".", b"..") for part in (*folders, name)):
        raise ParseError("not a path below the source's folder")
    with ExitStack() as opened:
        try:
            # one step at a time: no link on the way is followed, and a path may be longer than the kernel takes at once
            folder = root_fd
            for part in folders:
                folder = os.open(part, _STEP, dir_fd=folder)
                opened.callback(os.close, folder)
            file = os.open(name, _FILE, dir_fd=folder)
        except OSError as error:
            raise _reason(error) from error
        opened.callback(os.close, file)
        before = os.fstat(file)
        if not stat.S_ISREG(before.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(before.st_mode)), "a special file")
            raise ParseError(f"{kind}, not a regular file")
        if before.st_size > max_bytes:
            raise ParseError(f"{before.st_size >> 20:,} MB is more than the limit of {max_bytes >> 20:,} MB")
        data = _read(file, before.st_size)
        _check_unchanged(before, os.fstat(file), len(data))
        try:
            now = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise ChangedWhileRead from None
        _check_unchanged(before, now, len(data))
    return data, Stat(before.st_size, before.st_mtime_ns, before.st_ino)


def _read(file: int, size: int) -> bytes:
    """Up to one byte more than `size`, by which a file that grew is recognised."""
    parts = []
    left = size + 1
    try:
        while left and (part := os.read(file, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise _reason(error) from error
    return b"".join(parts)


def _check_unchanged(before: os.stat_result, after: os.stat_result, read: int) -> None:
    was = before.st_size, before.st_mtime_ns, before.st_ino, before.st_dev
    if (after.st_size, after.st_mtime_ns, after.st_ino, after.st_dev) != was or read != before.st_size:
        raise ChangedWhileRead


def _reason(error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return error
    if error.errno == errno.ELOOP:
        return ParseError("a symbolic link, which is not followed")
    if error.errno == errno.ENOTDIR:
        return ParseError("its folder is a symbolic link, which is not followed, or not a folder")
    if error.errno == errno.ENXIO:
        return ParseError("a socket or a device, not a regular file")
    return ParseError(f"cannot be read: {error.strerror}")
