"""Putting a backup back where there is no memory.

All of it is read and compared before the first byte is written. Then `catalogue.restoring` marks the state directory,
the tables and adapters are written, and the catalogue, which makes it a memory, is renamed into place as the last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import manifest
from store.catalogue.database import CATALOGUE, RESTORING, SCHEMA
from store.durable import private, sync_filesystem, sync_folder
from store.errors import Corrupt, MemexError, UsageError
from store.lock import take_writer_lock
from store.manifest import FOLDERS, REMEDY, Entry, Manifest, OnProgress


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back: the head that serves now, and how much."""

    files: int
    bytes: int
    head: Mapping[str, Any]  # generation, version, adapter, query_adapter


def restore(folder: Path, state_dir: Path, on_progress: OnProgress = lambda done, total: None) -> Restored:
    """Make the state directory, which has no memory, what it was when `folder` was made its backup.

    Raises UsageError (there is a memory already), NotFound (no backup), Corrupt (it is damaged, foreign, or of another
    memex), Locked, and MemexError (the disk). Nothing stays in the state directory then.
    """
    _refuse_if_taken(state_dir)
    found = manifest.read(folder)
    if found.schema != SCHEMA:
        raise Corrupt(
            f"{folder / manifest.MANIFEST}: catalogue schema {found.schema}, this memex reads {SCHEMA}; "
            "use the memex that made the backup"
        )
    total = 2 * len(found.files)  # each is read twice: to be compared, and to be copied
    try:
        manifest.verify(folder, lambda done, _: on_progress(done, total))
        _refuse_if_full(state_dir, found)
        lock = take_writer_lock(state_dir)
        try:
            _refuse_if_taken(state_dir)
            _clear(state_dir)
            try:
                _fill(state_dir, folder, found, lambda done, _: on_progress(len(found.files) + done, total))
            except BaseException:
                _clear(state_dir)
                raise
        finally:
            lock.release()
    except OSError as error:
        raise MemexError(
            f"{error.filename or state_dir}: {error.strerror or error}; mend that or name another state_dir"
        ) from error
    return Restored(len(found.files), found.size, found.head)


def _fill(state_dir: Path, folder: Path, found: Manifest, on_progress: OnProgress) -> None:
    with open(state_dir / RESTORING, "xb", opener=private):
        pass
    sync_folder(state_dir)
    for done, (path, entry) in enumerate(found.files.items()):
        on_progress(done, len(found.files))
        target = state_dir / (RESTORING if path == CATALOGUE else path)
        _make_folders(target.parent)
        _copy(manifest.object_file(folder, entry.sha256), target, entry)
    sync_filesystem(state_dir)
    os.replace(state_dir / RESTORING, state_dir / CATALOGUE)
    sync_folder(state_dir)
    on_progress(len(found.files), len(found.files))


def _copy(source: Path, target: Path, entry: Entry) -> None:
    digest = hashlib.sha256()
    with manifest.open_plain(source) as opened, open(target, "wb", opener=private) as written:
        for block in manifest.blocks(opened):
            digest.update(block)
            written.write(block)
    if digest.hexdigest() != entry.sha256:
        raise Corrupt(f"{source} changed while it was restored; {REMEDY}")
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _make_folders(folder: Path) -> None:
    if not folder.exists():
        _make_folders(folder.parent)
        folder.mkdir(mode=0o700)


def _refuse_if_taken(state_dir: Path) -> None:
    """What a restore that was cut off left is no memory, and goes."""
    beside = () if (state_dir / RESTORING).exists() else FOLDERS
    for name in (CATALOGUE, f"{CATALOGUE}-wal", *beside):
        if os.path.lexists(state_dir / name):
            raise UsageError(
                f"{state_dir} has a memory, or a part of one ({name}); move it away, or name another state_dir"
            )


def _refuse_if_full(state_dir: Path, found: Manifest) -> None:
    there = next(place for place in (state_dir, *state_dir.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < found.size:
        raise MemexError(
            f"{state_dir}: the backup needs {found.size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            "make room, or name another state_dir"
        )


def _clear(state_dir: Path) -> None:
    """Remove what a restore wrote; the mark goes last."""
    for name in FOLDERS:
        if (state_dir / name).exists():
            shutil.rmtree(state_dir / name)
    (state_dir / RESTORING).unlink(missing_ok=True)
