"""The one door to the store: a memory in a state directory.

state_dir/
  catalogue.sqlite      documents, revisions, moves of the head, snapshots, retrievals, runs
  generations/          one Lance table per generation
  embeddings.sqlite     the embedding cache; may be deleted
  adapters/0001/        one folder per adapter
  writer.lock           held by the one process that writes
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from store import snapshots
from store.catalogue import documents, heads, history, holds, learning
from store.catalogue.database import Database
from store.durable import sync_filesystem
from store.embedding import Embedder
from store.embedding_cache import EmbeddingCache, embed_cached
from store.errors import ConfigError, Corrupt, DiskFailed, Locked, NotFound, UsageError
from store.journal import Journal
from store.snapshots import Plan, RolledBack, plan
from store.types import (
    Batch,
    Document,
    Ended,
    Filters,
    Head,
    Hit,
    Hold,
    Known,
    Revision,
    Snapshot,
    State,
    Vectors,
)
from store.vectors import CREATED, Generations

CATALOGUE = "catalogue.sqlite"


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and the state that it searched."""

    state: State
    hits: tuple[Hit, ...]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Memory:
    """Opened for writing it holds the lock and has recovered what a kill left; opened for reading it changes nothing.

    Reading is safe from any thread; writing (`commit`, snapshots, rollback) takes its turn on one lock.
    """

    def __init__(
        self,
        state_dir: Path,
        embedder: Embedder,
        *,
        write: bool,
        generation: Mapping[str, Any],
        config: str = "",
        cache_mb: int = 1024,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`generation` is how chunks and vectors are made; its fingerprint names the Lance table. `config` is the
        fingerprint of all settings, kept with each snapshot.

        Raises Locked (another writer), ConfigError (the memory was made with another `generation`), NotFound (nothing
        to read yet), DiskFailed (the disk refuses) and Corrupt (what was acknowledged cannot be read).
        """
        self.state_dir = state_dir
        self.embedder = embedder
        self.clock = clock
        self.generation_settings = dict(generation)
        self.generation = fingerprint(generation)
        self._config = config
        self._turn = threading.RLock()
        with ExitStack() as opened:
            if write:
                opened.callback(_take_lock(state_dir).release)
            elif not (state_dir / CATALOGUE).exists():
                raise NotFound(f"no memory in {state_dir} yet; run `memex sync` or `memex serve` first")
            self.database = Database(state_dir / CATALOGUE, create=write)
            opened.callback(self.database.close)
            self.vectors = Generations(state_dir / "generations")
            self.journal = Journal(self.database, clock)
            self.cache = EmbeddingCache(state_dir / "embeddings.sqlite", cache_mb)
            opened.callback(self.cache.close)
            if write:
                self._begin()
                self._recover()
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing -----------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Vectors for chunk texts, shape (n, dimension), and how many of them had to be computed."""
        return embed_cached(self.embedder, self.cache, self.generation, texts)

    def commit(self, batch: Batch) -> Head:
        """Make a batch part of memory, wholly or not at all, and return the head that has it.

        When this returns the batch is on the disk. Readers see the state before or the state after. Raises DiskFailed
        when the disk refuses, and then it did not happen.
        """
        with self._turn:
            head, now = self.head(), self.clock()
            if not batch.changes_memory:
                with self.database.write() as session:
                    documents.apply(session, batch, generation=head.generation, move=head.move, now=now)
                return head
            version = self.vectors.write(
                head.generation,
                base=head.version,
                upserts=batch.upserts,
                rehomed=batch.rehomed,
                removed=batch.removed,
                ingested_at=now,
            )
            sync_filesystem(self.state_dir)
            with self.database.write() as session:
                moved = heads.move_head(
                    session, at=now, generation=head.generation, version=version, adapter=head.adapter, reason="ingest"
                )
                documents.apply(session, batch, generation=head.generation, move=moved.move, now=now)
            return moved

    def promote(self, adapter: int, ended: Ended) -> Head:
        """Let an adapter serve: one step with the end of its refresh and snapshots of the states before and after."""
        with self._turn:
            return snapshots.promote(self.database, self.vectors, adapter, ended, config=self._config, clock=self.clock)

    def snapshot(self, name: str | None = None, reason: str = "by hand") -> Snapshot:
        with self._turn:
            return snapshots.create(
                self.database, self.vectors, name=name, reason=reason, config=self._config, now=self.clock()
            )

    def delete_snapshot(self, name: str) -> None:
        with self._turn:
            snapshots.delete(self.database, self.vectors, name)

    def roll_back(self, name: str, only: str | None = None) -> RolledBack:
        with self._turn:
            return snapshots.roll_back(
                self.database,
                self.vectors,
                name,
                only=only,
                config=self._config,
                now=self.clock(),
                check=self._check_there,
            )

    def release(self, document_ids: Sequence[str]) -> None:
        """Let held content back in; the next scan ingests it."""
        with self._turn, self.database.write() as session:
            holds.drop(session, document_ids)

    def retry(self, paths: Sequence[str] | None = None) -> int:
        """Make failed documents due at once; returns how many."""
        with self._turn, self.database.write() as session:
            return documents.retry_now(session, paths)

    # --- reading -----------------------------------------------------------------------------------------------

    def head(self) -> Head:
        with self.database.read() as session:
            found = heads.head(session)
        if found is None:
            raise Corrupt(f"{self.state_dir}: the catalogue has no head; restore it from a backup")
        return found

    def state(self, when: str | None = None) -> State:
        """The state that `when` means (see `snapshots.resolve`)."""
        return snapshots.resolve(self.database, when, self.clock())

    def search(self, query: str, k: int, *, when: str | None = None, filters: Filters | None = None) -> Found:
        """The `k` chunks nearest to the query in the head or in a past state, best first."""
        if not query.strip():
            raise UsageError("the query is empty; say what to look for")
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 result")
        state = self.state(when)
        vector = self.embedder.embed([self._cut(query)])[0]
        head = state.head
        hits = self.vectors.search(head.generation, head.version, np.asarray(vector), k, filters or Filters())
        return Found(state, tuple(hits))

    def chunks(self, document_ids: Sequence[str], head: Head | None = None) -> list[Hit]:
        """The documents' chunks in reading order."""
        head = head or self.head()
        return self.vectors.chunks(head.generation, head.version, document_ids)

    def known(self, source: str | None = None) -> list[Known]:
        with self.database.read() as session:
            return documents.known(session, source)

    def known_at(self, source: str, relatives: Sequence[bytes]) -> dict[bytes, Known]:
        with self.database.read() as session:
            return documents.known_at(session, source, relatives)

    def known_with(self, contents: Sequence[str]) -> list[Known]:
        with self.database.read() as session:
            return documents.known_with(session, contents)

    def documents(self) -> list[Document]:
        with self.database.read() as session:
            return documents.listing(session)

    def find(self, name: str) -> Document:
        """The one document that an id, a path or a path's end names. Raises NotFound, UsageError when it is several."""
        with self.database.read() as session:
            found = documents.find(session, name)
        if not found:
            raise NotFound(f"no document {name!r}; `memex documents` lists them")
        if len(found) > 1 and found[0].state != "gone" and found[1].state != "gone":
            raise UsageError(f"{name!r} names {len(found)} documents; say more of the path, as in {found[0].path}")
        return found[0]

    def history(self, document_id: str) -> list[Revision]:
        with self.database.read() as session:
            return documents.history(session, document_id)

    def holds(self) -> list[Hold]:
        with self.database.read() as session:
            return holds.listing(session)

    def snapshots(self) -> list[Snapshot]:
        with self.database.read() as session:
            return history.snapshots(session)

    def named(self, name: str) -> Snapshot:
        return next((one for one in self.snapshots() if one.name == name), None) or _no_snapshot(name)

    def plan_rollback(self, name: str, only: str | None = None) -> Plan:
        return plan(self.database, name, only)

    def counts(self) -> tuple[int, int]:
        """(documents, chunks) at the head."""
        with self.database.read() as session:
            found = heads.head(session)
            assert found is not None
            return documents.counts_at(session, found.move)

    def live_at(self, head: Head) -> dict[str, Revision]:
        """document id -> the revision that the catalogue says was live in that state."""
        with self.database.read() as session:
            return documents.live_at(session, head.move)

    def by_id(self, chunk_ids: Sequence[str]) -> list[Hit]:
        """Those of the chunks that the head has, in the order asked for."""
        head = self.head()
        return self.vectors.by_id(head.generation, head.version, chunk_ids)

    def adapter_folder(self, adapter: int) -> Path:
        return self.state_dir / "adapters" / f"{adapter:04d}"

    # --- opening -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Make the first head, or see that the one there is fits the settings."""
        with self.database.read() as session:
            head = heads.head(session)
            made_with = heads.generation_settings(session, head.generation) if head else {}
        if head is None:
            self._check_new()
            version = self.vectors.create(self.generation, self.embedder.dimension)
            sync_filesystem(self.state_dir)
            now = self.clock()
            with self.database.write() as session:
                heads.add_generation(session, self.generation, self.generation_settings, now)
                heads.move_head(
                    session, at=now, generation=self.generation, version=version, adapter=None, reason="created"
                )
        elif head.generation != self.generation:
            wanted = self.generation_settings
            differing = sorted(key for key in made_with.keys() | wanted.keys() if made_with.get(key) != wanted.get(key))
            raise ConfigError(
                f"{self.state_dir} was made with other settings ("
                + ", ".join(f"{key}: {made_with.get(key)}, now {wanted.get(key)}" for key in differing)
                + "); set them back, or name another state_dir and let it ingest anew"
            )

    def _check_new(self) -> None:
        """Raise Corrupt when there is no head, and yet something was written: the catalogue was lost."""
        for generation, version in self.vectors.on_disk().items():
            if version > CREATED:
                raise Corrupt(
                    f"{self.state_dir / CATALOGUE} is empty, but generation {generation} has content; restore the "
                    "catalogue from a backup, or move the state directory away to ingest anew"
                )
            self.vectors.drop_unreadable(generation, newer_than=0)

    def _recover(self) -> None:
        """Complete a rollback that was cut off; put aside what was written but never acknowledged."""
        head = self.head()
        self.vectors.drop_unreadable(head.generation, newer_than=head.version)
        with self.database.read() as session:
            intent = history.intent(session)
        if intent is not None:
            snapshots.complete(self.database, self.vectors, intent, self.clock())
        with self.database.write() as session:
            learning.end_unfinished_runs(session, self.clock())
        head = self.head()
        latest = self.vectors.latest(head.generation)
        if latest < head.version:
            raise Corrupt(
                f"generation {head.generation}: the head is version {head.version}, the newest on disk is {latest}; "
                "restore the state directory from a backup, or delete it to ingest anew"
            )
        if latest > head.version:
            version = self.vectors.restore(head.generation, head.version)
            sync_filesystem(self.state_dir)
            with self.database.write() as session:
                heads.move_head(
                    session,
                    at=self.clock(),
                    generation=head.generation,
                    version=version,
                    adapter=head.adapter,
                    reason="recovered: an unfinished write was put aside",
                )
        snapshots.sweep_tags(self.database, self.vectors, head.generation)

    def _cut(self, query: str) -> str:
        """The query as far as the embedder can see."""
        (spans,) = self.embedder.spans([query])
        return query if len(spans) <= self.embedder.window else query[: spans[self.embedder.window - 1][1]]

    def _check_there(self, head: Head) -> None:
        """Raise Corrupt when a head names something that is missing; a rollback must not lead there."""
        self.vectors.count(head.generation, head.version)
        if head.adapter is not None and not (self.adapter_folder(head.adapter) / "card.json").exists():
            raise Corrupt(f"adapter {head.adapter} is missing from {self.adapter_folder(head.adapter)}")


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The name of a generation: the same settings give the same one."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return "g" + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def new_id() -> str:
    """A fresh id for a document or a retrieval."""
    return uuid.uuid4().hex[:16]


def _take_lock(state_dir: Path) -> FileLock:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(state_dir / "writer.lock", timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        raise Locked(f"another memex writes {state_dir}; stop it, or let it do the work") from None
    except OSError as error:
        raise DiskFailed(f"{state_dir} cannot be written: {error.strerror}") from error
    return lock


def _no_snapshot(name: str) -> Snapshot:
    raise NotFound(f"no snapshot {name!r}; `memex snapshot list` shows those there are")
