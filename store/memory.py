"""The one door to the store: a memory in a state directory.

state_dir/
  catalogue.sqlite      documents, revisions, moves of the head, snapshots, retrievals, runs
  generations/          one Lance table per generation
  embeddings.sqlite     the embedding cache; may be deleted
  adapters/0001/        one folder per adapter
  last-backup.json      when, where to, and how it ended
  writer.lock           held by the one process that writes
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store import backup, forgetting, maintenance, snapshots
from store.backup import BackedUp
from store.catalogue import documents, heads, history, holds, learning
from store.catalogue.database import CATALOGUE, Database, Session
from store.durable import sync_filesystem
from store.embedding import Embedder
from store.embedding_cache import EmbeddingCache, embed_cached
from store.errors import Corrupt, NotFound, UsageError
from store.journal import Journal
from store.lock import take_writer_lock
from store.manifest import OnProgress
from store.opening import begin, fingerprint, recover
from store.past import Past
from store.queries import Queries
from store.recent import Recent
from store.reranking import Reranker
from store.retention import Judged, Policy
from store.search import HYBRID, Ranking, search
from store.snapshots import Plan, RolledBack
from store.types import (
    CARD,
    GENERATOR,
    QUERY,
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
from store.vectors import Generations


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, the state that it searched, and what should be said of it."""

    state: State
    hits: tuple[Hit, ...]
    remarks: tuple[str, ...] = ()
    query_adapter: int | None = None  # that moved the question; not the state's where a remark says why


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
        settings: Mapping[str, Any] | None = None,
        cache_mb: int = 1024,
        ranking: Ranking = HYBRID,
        reranker: Reranker | None = None,
        recent: int = 0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`generation` is how chunks and vectors are made; its fingerprint names the Lance table. `settings` are all
        that are in force, JSON-able; they are kept, so that states can be compared. `recent` is how many of the latest
        searches are kept in memory.

        Raises Locked (another writer), ConfigError (the memory was made with another `generation`), NotFound (nothing
        to read yet), DiskFailed (the disk refuses) and Corrupt (what was acknowledged cannot be read).
        """
        self.state_dir = state_dir
        self.embedder = embedder
        self.clock = clock
        self.ranking = ranking
        self._reranker = reranker
        self.queries = Queries(embedder, self.adapter_folder, recent)
        # By the state's version, so that a commit leaves nothing stale.
        self._searches: Recent[tuple[Hashable, ...], tuple[Hit, ...]] = Recent(recent)
        self.generation = "g" + fingerprint(generation)
        self._settings = dict(settings or {})
        self._config = fingerprint(self._settings)
        self._turn = threading.RLock()
        self.forgotten = 0  # how often something was, by this object
        self._commits = maintenance.COMMITS  # since the last maintenance; how many before this start is not known
        self.writes = write  # whether this process holds the writer's lock
        with ExitStack() as opened:
            if write:
                opened.callback(take_writer_lock(state_dir).release)
            elif not (state_dir / CATALOGUE).exists():
                raise NotFound(f"no memory in {state_dir} yet; run `memex sync` or `memex serve` first")
            self.database = Database(state_dir / CATALOGUE, create=write)
            opened.callback(self.database.close)
            self.vectors = Generations(state_dir / "generations")
            self.journal = Journal(self.database, clock)
            self.past = Past(self.database, self.vectors, self.state)
            self.cache = EmbeddingCache(state_dir / "embeddings.sqlite", cache_mb)
            opened.callback(self.cache.close)
            if write:
                begin(self.database, self.vectors, generation, self._settings, embedder.dimension, clock())
                recover(self.database, self.vectors, self.cache, clock())
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
                moved = heads.move_head(session, replace(head, at=now, version=version, reason="ingest"))
                documents.apply(session, batch, generation=head.generation, move=moved.move, now=now)
            self._commits += 1
            return moved

    def upkeep_due(self) -> bool:
        """Whether enough was committed for a maintenance to pay."""
        return self._commits >= maintenance.COMMITS

    def maintain(self) -> maintenance.Upkeep:
        """Compact, index and prune; changes no answer, and no reader notices."""
        with self._turn:
            self._commits = 0
            return maintenance.maintain(self.database, self.vectors, self.clock())

    def promote(self, adapter: int, ended: Ended) -> Head:
        """Let an adapter serve: one step with the end of its refresh and snapshots of the states before and after."""
        return self._promote(adapter, GENERATOR, lambda session: learning.end_run(session, ended, self.clock()))

    def promote_query(self, adapter: int, run: int, told: Mapping[str, Any]) -> Head:
        """Let a query adapter serve: as `promote`, but that the run has ended; `told` is kept in its metrics."""
        return self._promote(adapter, QUERY, lambda session: learning.note_query(session, run, told))

    def snapshot(
        self, name: str | None = None, reason: str = "by hand", *, pinned: bool = False, undoes: str = ""
    ) -> Snapshot:
        with self._turn:
            return snapshots.create(
                self.database,
                self.vectors,
                name=name,
                reason=reason,
                config=self._config,
                now=self.clock(),
                pinned=pinned,
                undoes=undoes,
            )

    def delete_snapshot(self, name: str) -> None:
        with self._turn:
            snapshots.delete(self.database, self.vectors, name)

    def pin_snapshot(self, name: str, pinned: bool) -> Snapshot:
        with self._turn:
            return snapshots.pin(self.database, name, pinned)

    def prune_snapshots(self, policy: Policy) -> Judged:
        """Let go of the snapshots that the policy does not keep."""
        with self._turn:
            return snapshots.prune(self.database, self.vectors, policy)

    def roll_back(self, name: str, only: str | None = None, why: str = "") -> RolledBack:
        with self._turn:
            return snapshots.roll_back(
                self.database,
                self.vectors,
                name,
                only=only,
                config=self._config,
                now=self.clock(),
                check=self._check_there,
                why=why,
            )

    def forget(self, document_ids: Sequence[str]) -> forgetting.Forgotten:
        """Remove documents from every state, past ones too, and from all that was made of them."""
        with self._turn:
            try:
                return forgetting.forget(
                    self.database, self.vectors, self.cache, self.state_dir, document_ids, self.clock()
                )
            finally:
                self.forgotten += 1
                self._searches.drop()
                self.queries.drop_adapters()

    def release(self, document_ids: Sequence[str]) -> None:
        """Let held content back in; the next scan ingests it."""
        with self._turn, self.database.write() as session:
            holds.drop(session, document_ids)

    def retry(self, paths: Sequence[str] | None = None) -> int:
        """Make failed documents due at once; returns how many."""
        with self._turn, self.database.write() as session:
            return documents.retry_now(session, paths)

    def back_up(self, folder: Path, on_progress: OnProgress, stop: threading.Event) -> BackedUp:
        """Make `folder` a copy of the head, all snapshots and adapters (see `backup.back_up`)."""
        return backup.back_up(
            self.state_dir, self.database, self._turn, folder, clock=self.clock, on_progress=on_progress, stop=stop
        )

    def put_down(self, idle_seconds: float) -> None:
        """Let the models go that were not used in `idle_seconds`; they come back when they are needed."""
        self.embedder.put_down(idle_seconds)
        if self._reranker:
            self._reranker.put_down(idle_seconds)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nothing is written by this process until the block ends."""
        with self._turn:
            yield

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

    def search(self, query: str, k: int, *, when: str | State | None = None, filters: Filters | None = None) -> Found:
        """The `k` chunks that fit the query best in the head or in a past state, best first (see `store.search`)."""
        if not query.strip():
            raise UsageError("the query is empty; say what to look for")
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 result")
        state = when if isinstance(when, State) else self.state(when)
        filters = filters or Filters()
        head, forgotten = state.head, self.forgotten
        key = (head.generation, head.version, head.query_adapter, query, k, filters, self.ranking)
        if (kept := self._searches.get(key)) is not None:
            return Found(state, kept, query_adapter=head.query_adapter)
        asked = self.queries.ask(query, head.query_adapter)
        hits, remarks = search(self.vectors, head, asked, k, filters, self.ranking, self._reranker)
        remarks = (*asked.remarks, *remarks)
        if not remarks and forgotten == self.forgotten:
            self._searches.put(key, tuple(hits))
        return Found(state, tuple(hits), remarks, asked.adapter)

    def around(self, hits: Sequence[Hit], reach: int, head: Head | None = None) -> list[Hit]:
        """The chunks up to `reach` before and after each hit in its document, and the hits' own, in reading order."""
        head = head or self.head()
        spans = [(hit.document_id, hit.position - reach, hit.position + reach) for hit in hits]
        return self.vectors.between(head.generation, head.version, spans) if spans else []

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

    def holds(self) -> list[Hold]:
        with self.database.read() as session:
            return holds.listing(session)

    def snapshots(self) -> list[Snapshot]:
        with self.database.read() as session:
            return history.snapshots(session)

    def plan_rollback(self, name: str, only: str | None = None) -> Plan:
        return snapshots.plan(self.database, name, only, now=self.clock(), check=self._check_there)

    def sources(self) -> dict[str, int]:
        """The names of the sources that have documents, live or failed, and how many."""
        with self.database.read() as session:
            return documents.sources(session)

    def counts(self) -> tuple[int, int]:
        """(documents, chunks) at the head."""
        with self.database.read() as session:
            found = heads.head(session)
            assert found is not None
            return documents.counts_at(session, found.move)

    def live_at(self, head: Head, only: Iterable[str] | None = None) -> dict[str, Revision]:
        """document id -> the revision that the catalogue says was live in that state; of `only` these, where given."""
        with self.database.read() as session:
            return documents.live_at(session, head.move, only)

    def by_id(self, chunk_ids: Sequence[str], head: Head | None = None) -> list[Hit]:
        """Those of the chunks that the head (or another state) has, in the order asked for."""
        head = head or self.head()
        return self.vectors.by_id(head.generation, head.version, chunk_ids)

    def adapter_folder(self, adapter: int) -> Path:
        return self.state_dir / "adapters" / f"{adapter:04d}"

    # --- below -------------------------------------------------------------------------------------------------

    def _promote(self, adapter: int, kind: str, record: Callable[[Session], None]) -> Head:
        how: dict[str, Any] = {"kind": kind, "config": self._config, "clock": self.clock}
        with self._turn:
            return snapshots.promote(self.database, self.vectors, adapter, record, **how)

    def _check_there(self, head: Head) -> None:
        """Raise Corrupt when a head names something that is missing; a rollback must not lead there."""
        self.vectors.count(head.generation, head.version)
        for adapter in (head.adapter, head.query_adapter):
            if adapter is not None and not (self.adapter_folder(adapter) / CARD).exists():
                raise Corrupt(f"adapter {adapter} is missing from {self.adapter_folder(adapter)}")


def new_id() -> str:
    """A fresh id for a document or a retrieval."""
    return uuid.uuid4().hex[:16]
