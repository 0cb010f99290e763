"""Copying a memory elsewhere while it is written.

On the writer's turn only a plan is made: a read transaction on the catalogue, and a list of the files that stand beside
it. Copying needs no turn, and nothing is pinned for it: Lance never changes a file, it only removes whole ones. If one
of the plan's is gone when the copy is complete, another plan is made, which finds most of its files copied. So what a
manifest lists was all there after the last byte was copied, and what was forgotten before that is not among it.

The manifest moves the backup to its new state in one step. Before it nothing that the old one lists is touched, after
it what no manifest lists is removed; a kill leaves the old backup or the new one, and at most garbage.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from store import manifest
from store.catalogue import heads
from store.catalogue.database import CATALOGUE, Database
from store.durable import private, sync_filesystem, write_text
from store.errors import MemexError, NotFound, UsageError
from store.lock import take_lock
from store.manifest import FOLDERS, LOCK, MANIFEST, OBJECTS, PART, Entry, Manifest, OnProgress
from store.summary import HEAD, LAST_BACKUP, last_backup

ROUNDS = 5  # plans made before giving up; each but the first copies only what came since the one before


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds now, what was copied for it, and how many old files were removed from it."""

    files: int
    bytes: int
    copied_files: int
    copied_bytes: int
    removed: int


@dataclass(frozen=True, slots=True)
class _Source:
    """A file as the plan saw it. `content`: of the few that are rewritten in place, which cannot be read later."""

    path: str  # below the state directory
    size: int
    mtime_ns: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class _Plan:
    created_at: datetime
    schema: int
    head: Mapping[str, Any]
    sources: tuple[_Source, ...]


class _Changed(Exception):
    """The memory has moved on since the plan."""


def back_up(
    state_dir: Path,
    database: Database,
    turn: AbstractContextManager[object],
    folder: Path,
    *,
    clock: Callable[[], datetime],
    on_progress: OnProgress,
    stop: threading.Event,
) -> BackedUp:
    """Make `folder` a copy of the head, of all snapshots and of all adapters; what is there already is not copied.

    Raises UsageError (the folder holds another memory's backup), Corrupt (it holds something else, or a damaged
    manifest), Locked (another backup to it is under way) and MemexError (the disk, or `stop`). Whatever it raises, the
    backup that was there is as it was.
    """
    try:
        manifest.objects(folder)  # raises before the first file is made in a folder that is not ours
        if not folder.exists():
            folder.mkdir(mode=0o700)  # not its parents: where they are missing, a disk is not mounted
        lock = take_lock(folder / LOCK, f"another backup to {folder} is under way; wait for it")
        try:
            with database.write() as session:
                origin = heads.origin(session)
            return _back_up(state_dir, database, turn, folder, origin, clock, on_progress, stop)
        finally:
            lock.release()
    except (OSError, sqlite3.Error) as error:
        where, why = getattr(error, "filename", None) or folder, getattr(error, "strerror", None) or error
        raise MemexError(
            f"{where}: {why}; mend that or use another folder (what was backed up there before stands)"
        ) from error


def _back_up(
    state_dir: Path,
    database: Database,
    turn: AbstractContextManager[object],
    folder: Path,
    origin: str,
    clock: Callable[[], datetime],
    on_progress: OnProgress,
    stop: threading.Event,
) -> BackedUp:
    copy = _Copy(state_dir, folder, _before(folder, origin), stop)
    for _ in range(ROUNDS):
        with closing(_read_only(database.path)) as catalogue:
            try:
                with turn:
                    plan = _plan(state_dir, catalogue, clock())
                files = copy.all(plan, catalogue, on_progress)
            except _Changed:
                continue
        sync_filesystem(folder)
        if all(_stands(state_dir, source) for source in plan.sources):
            break
    else:
        raise MemexError(f"{folder}: the memory changed faster than it was copied; try again at a quieter time")
    now = Manifest(plan.created_at.isoformat(), origin, plan.schema, plan.head, files)
    manifest.write(folder, now)
    removed = _remove_unlisted(folder, now)
    return BackedUp(len(files), now.size, copy.files, copy.bytes, removed)


def note(state_dir: Path, folder: Path, at: datetime, error: str | None) -> None:
    """Keep how a backup ended, for `status`."""
    this = {"at": at.isoformat(), "dir": str(folder)}
    last_ok = this if error is None else (last_backup(state_dir) or {}).get("last_ok")
    write_text(state_dir / LAST_BACKUP, json.dumps({**this, "ok": error is None, "error": error, "last_ok": last_ok}))


def is_lost(state_dir: Path, folder: Path) -> bool:
    """Whether the last good backup went to `folder` and is not there any more, as when its disk is not mounted."""
    last_ok = (last_backup(state_dir) or {}).get("last_ok")
    return last_ok is not None and last_ok["dir"] == str(folder) and not (folder / MANIFEST).exists()


class _Copy:
    """The objects of one backup: which are there, and what was copied so far."""

    def __init__(self, state_dir: Path, folder: Path, before: Manifest | None, stop: threading.Event) -> None:
        self._state_dir = state_dir
        self._folder = folder
        self._stop = stop
        self._there = manifest.objects(folder)
        self._known = dict(before.files) if before else {}
        listed = self._known.values()
        # What a manifest lists was on the disk before the manifest was. Anything else may be half of a file.
        self._whole = {one.sha256 for one in listed if self._there.get(one.sha256) == one.size}
        self.files = 0
        self.bytes = 0

    def all(self, plan: _Plan, catalogue: sqlite3.Connection, on_progress: OnProgress) -> dict[str, Entry]:
        """Raises _Changed when a file of the plan is gone before it was copied."""
        total = len(plan.sources) + 1
        on_progress(0, total)
        files = {CATALOGUE: self._catalogue(catalogue)}
        for source in plan.sources:
            on_progress(len(files), total)
            if not manifest.fits(source.path):
                raise UsageError(f"{self._state_dir}/{source.path} is no file of a memory; move it away")
            files[source.path] = self._known[source.path] = self._file(source)
        on_progress(total, total)
        return files

    def _catalogue(self, catalogue: sqlite3.Connection) -> Entry:
        """Copies the state that the plan's transaction sees, whatever was committed since."""
        part = self._folder / OBJECTS / f"catalogue{PART}"
        part.parent.mkdir(mode=0o700, exist_ok=True)
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=private):
            pass
        # Nobody else opens this file: no locks, which some network folders do not have, and no journal beside it.
        with closing(sqlite3.connect(f"{part.as_uri()}?nolock=1", uri=True, isolation_level=None)) as target:
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            catalogue.backup(target)
        catalogue.close()  # its transaction would keep the journal from being emptied while the rest is copied
        stat = os.stat(part)
        with open(part, "rb") as opened:
            sha256 = manifest.hash_of(self._blocks(opened))
        if self._has(sha256, stat.st_size):
            part.unlink()
        else:
            self._settle(part, sha256, stat.st_size)
        return Entry(stat.st_size, sha256, stat.st_mtime_ns)

    def _file(self, source: _Source) -> Entry:
        known = self._known.get(source.path)
        same = known and (known.size, known.mtime_ns) == (source.size, source.mtime_ns)
        if known and same and source.content is None and known.sha256 in self._whole:
            return known
        with self._open(source) as opened:
            sha256 = manifest.hash_of(self._blocks(opened))
            if not self._has(sha256, source.size):
                opened.seek(0)
                part = manifest.object_file(self._folder, sha256).with_suffix(PART)
                part.parent.mkdir(mode=0o700, exist_ok=True)
                if _write(part, self._blocks(opened)) != sha256:
                    raise _Changed
                self._settle(part, sha256, source.size)
        return Entry(source.size, sha256, source.mtime_ns)

    def _open(self, source: _Source) -> BinaryIO:
        if source.content is not None:
            return io.BytesIO(source.content)
        try:
            opened = open(self._state_dir / source.path, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            raise _Changed from None
        if (os.fstat(opened.fileno()).st_size, os.fstat(opened.fileno()).st_mtime_ns) != (source.size, source.mtime_ns):
            opened.close()
            raise _Changed
        return opened

    def _has(self, sha256: str, size: int) -> bool:
        if sha256 not in self._whole and self._there.get(sha256) == size:  # left by a backup that was killed
            with manifest.open_plain(manifest.object_file(self._folder, sha256)) as opened:
                if manifest.hash_of(self._blocks(opened)) == sha256:
                    self._whole.add(sha256)
        return sha256 in self._whole

    def _settle(self, part: Path, sha256: str, size: int) -> None:
        target = manifest.object_file(self._folder, sha256)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(part, target)
        self._whole.add(sha256)
        self.files += 1
        self.bytes += size

    def _blocks(self, opened: BinaryIO) -> Iterator[bytes]:
        for block in manifest.blocks(opened):
            if self._stop.is_set():
                raise MemexError("memex is stopping; the next backup goes on from here, an older one there stands")
            yield block


def _write(file: Path, blocks: Iterator[bytes]) -> str:
    """Returns the sha256 of what was written."""
    digest = hashlib.sha256()
    with open(file, "wb", opener=private) as opened:
        for block in blocks:
            digest.update(block)
            opened.write(block)
    return digest.hexdigest()


def _before(folder: Path, origin: str) -> Manifest | None:
    try:
        before = manifest.read(folder)
    except NotFound:
        return None
    if before.memory != origin:
        raise UsageError(
            f"{folder} holds the backup of another memory, made {before.created_at}; `memex restore` it, "
            "or back this one up to another folder"
        )
    return before


def _read_only(catalogue: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{catalogue.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=30)


def _plan(state_dir: Path, catalogue: sqlite3.Connection, now: datetime) -> _Plan:
    """The state to copy. The transaction that begins here stays open: it holds the catalogue's half."""
    catalogue.execute("BEGIN")
    row = catalogue.execute(f"SELECT {', '.join(HEAD)} FROM moves JOIN head USING (move)").fetchone()
    (schema,) = catalogue.execute("PRAGMA user_version").fetchone()
    head = dict(zip(HEAD, row, strict=True))
    return _Plan(now, schema, head, tuple(_sources(state_dir)))


def _sources(state_dir: Path) -> Iterator[_Source]:
    for top in FOLDERS:
        for folder, _, names in os.walk(state_dir / top, onerror=_raise_unless_missing):
            for name in sorted(names):
                if name.startswith(".tmp") or ".tmp." in name or "#" in name:
                    continue  # Lance writes under these names and renames
                file = Path(folder, name)
                try:
                    stat = file.stat()
                    # Of Lance's files only its tags and its hint of the newest version are ever rewritten.
                    content = file.read_bytes() if name.endswith(".json") else None
                except FileNotFoundError:
                    raise _Changed from None
                size = stat.st_size if content is None else len(content)
                yield _Source(str(file.relative_to(state_dir)), size, stat.st_mtime_ns, content)


def _stands(state_dir: Path, source: _Source) -> bool:
    if source.content is not None:
        return True
    try:
        stat = os.stat(state_dir / source.path)
    except FileNotFoundError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (source.size, source.mtime_ns)


def _remove_unlisted(folder: Path, now: Manifest) -> int:
    kept = {entry.sha256 for entry in now.files.values()}
    removed = 0
    for shard, _, names in os.walk(folder / OBJECTS):
        for name in names:
            if name not in kept:
                os.unlink(Path(shard, name))
                removed += 1
    return removed


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
