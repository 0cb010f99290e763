"""Vectors of texts that were embedded before, bounded, in a SQLite file of its own.

It may be lost at any time and costs only work: commits are not synced to disk one by one, and a damaged file is set
aside (`<file>.damaged`, the newest one only) and begun anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from store.embedding import Embedder
from store.errors import Corrupt
from store.sqlite import as_ours
from store.types import Vectors

Vector = NDArray[np.float32]  # (dimension,)
Result = TypeVar("Result")

KEEP_SHARE = 0.9  # what eviction leaves of the bound, so that it is rare

# The keys stand apart from the vectors: marking one as used then rewrites 50 bytes, not a page of vectors.
_SCHEMA = """
create table if not exists vectors (id integer primary key, vector blob not null);
create table if not exists keys (
    key blob primary key, used integer not null, checksum integer not null, id integer not null
) without rowid;
"""

log = logging.getLogger(__name__)


def cache_key(text: str, fingerprint: str) -> bytes:
    """The name of a text's vector under a generation's fingerprint, 20 bytes."""
    digest = hashlib.blake2b(fingerprint.encode(), digest_size=20)
    digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def embed_cached(
    embedder: Embedder, cache: EmbeddingCache, fingerprint: str, texts: Sequence[str]
) -> tuple[Vectors, int]:
    """The texts' vectors in their order, and how many of them had to be embedded.

    Equal texts are embedded once. What was embedded is in the cache before this returns.
    """
    keys = [cache_key(text, fingerprint) for text in texts]
    text_of = dict(zip(keys, texts, strict=True))
    known = cache.get_many(list(text_of))
    missing = [key for key in text_of if key not in known]
    if missing:
        fresh = dict(zip(missing, embedder.embed([text_of[key] for key in missing]), strict=True))
        cache.put_many(fresh)
        known |= fresh
    vectors = np.array([known[key] for key in keys], np.float32).reshape(len(keys), embedder.dimension)
    return vectors, len(missing)


class EmbeddingCache:
    """Vectors by key. Once `megabytes` are full, the least recently used go; 0 keeps nothing.

    Usable from several threads. Opened when it is first used. A disk that refuses costs what it should have kept.
    """

    def __init__(self, file: Path, megabytes: float) -> None:
        self._file = file
        self._bound = int(megabytes * 1e6)
        self._lock = threading.Lock()
        self._is_open = False

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """The vectors of those keys that are known; they count as used now."""
        with self._lock:
            known = self._on_disk(lambda: self._get(keys)) or {}
            self._on_disk(lambda: self._mark(known))
            return known

    def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep these vectors, and let go of the least recently used beyond the bound."""
        if vectors and self._bound:
            with self._lock:
                self._on_disk(lambda: self._put(vectors))

    def forget(self, keys: Sequence[bytes]) -> None:
        """Remove these vectors so that no byte of them stays in the cache's files. Raises DiskFailed."""
        with self._lock:
            self._on_disk(lambda: self._remove(keys), needed=True)
            self._on_disk(lambda: self._db.execute("pragma wal_checkpoint(truncate)").fetchall(), needed=True)
            self._damaged.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove everything, files included."""
        with self._lock:
            if self._is_open:
                self._db.close()
            for suffix in ("", "-wal", "-shm", ".damaged"):
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
            self._connect()

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._db.close()

    def __len__(self) -> int:
        with self._lock:
            return self._on_disk(lambda: int(self._db.execute("select count(*) from keys").fetchone()[0])) or 0

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        known: dict[bytes, Vector] = {}
        select = "select vector, checksum from keys join vectors using (id) where key = ?"
        for key in keys:
            row = self._db.execute(select, (key,)).fetchone()
            if row is not None and zlib.crc32(row[0]) == row[1]:
                known[key] = np.frombuffer(row[0], np.float32)
        return known

    def _mark(self, keys: Iterable[bytes]) -> None:
        now = self._tick()
        with self._db:
            self._db.executemany("update keys set used = ? where key = ?", ((now, key) for key in keys))

    def _put(self, vectors: Mapping[bytes, Vector]) -> None:
        now = self._tick()
        with self._db:
            self._delete(list(vectors))
            for key, vector in vectors.items():
                blob = np.ascontiguousarray(vector, np.float32).tobytes()
                id_ = self._db.execute("insert into vectors (vector) values (?)", (blob,)).lastrowid
                self._db.execute("insert into keys values (?, ?, ?, ?)", (key, now, zlib.crc32(blob), id_))
        while (size := self._size()) > self._bound:
            count = self._db.execute("select count(*) from keys").fetchone()[0]
            excess = max(1, round(count * (1 - KEEP_SHARE * self._bound / size)))
            self._remove([key for (key,) in self._db.execute("select key from keys order by used limit ?", (excess,))])
            if excess >= count:
                break

    def _remove(self, keys: Sequence[bytes]) -> None:
        with self._db:
            self._delete(keys)

    def _delete(self, keys: Sequence[bytes]) -> None:
        each = [(key,) for key in keys]
        self._db.executemany("delete from vectors where id = (select id from keys where key = ?)", each)
        self._db.executemany("delete from keys where key = ?", each)

    def _size(self) -> int:
        """Bytes of the pages in use; a scan-free measure."""
        pages, free, page = (
            int(self._db.execute(f"pragma {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page

    def _tick(self) -> int:
        """A logical clock: the machine's may jump."""
        self._clock += 1
        return self._clock

    def _connect(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self._file, timeout=10, check_same_thread=False)
        for pragma in ("page_size = 16384", "journal_mode = wal", "synchronous = normal", "secure_delete = on"):
            self._db.execute(f"pragma {pragma}")
        self._db.executescript(_SCHEMA)
        self._clock = int(self._db.execute("select coalesce(max(used), 0) from keys").fetchone()[0])
        self._is_open = True

    def _on_disk(self, action: Callable[[], Result], *, needed: bool = False) -> Result | None:
        """The action's result; None if the file proved damaged and was begun anew, or the disk refused."""
        try:
            if not self._is_open:
                self._connect()
            return action()
        except sqlite3.DatabaseError as error:
            known = as_ours(error, self._file)
            if isinstance(known, Corrupt):
                self._start_anew(error)
            elif needed or known is None:
                raise known or error from error
            else:
                log.warning("The embedding cache keeps nothing now: %s", known)
            return None

    def _start_anew(self, error: sqlite3.DatabaseError) -> None:
        log.warning("The embedding cache %s is damaged (%s); it is set aside and begun anew.", self._file, error)
        self._db.close()
        os.replace(self._file, self._damaged)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._file}{suffix}")
        self._connect()

    @property
    def _damaged(self) -> Path:
        return self._file.with_name(self._file.name + ".damaged")
