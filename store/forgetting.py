"""Forgetting: a document's content leaves every state, past ones too, and what was made from it.

The one thing that changes a snapshot. In this order, so that a kill at any point is completed by the next start: the
intent; the embedding cache and what refreshes left; the tables, where each version that stays is written anew without
the document; one transaction in the catalogue; then the old versions and the weights go from the disk; last the intent.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from store.catalogue import documents, forgetting, heads, history
from store.catalogue.database import Database
from store.durable import sync_filesystem
from store.embedding_cache import EmbeddingCache, cache_key
from store.snapshots import sweep_tags
from store.types import GENERATOR, QUERY, Head
from store.vectors import Generations

REASON = "forgotten"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting removed. `adapters` and `query_adapters` learned from it and are retired; `serving` and
    `serving_query` are those that serve now."""

    document_ids: tuple[str, ...]
    snapshots: int  # written anew
    retrievals: int
    examples: int
    adapters: tuple[int, ...]
    serving: int | None
    query_adapters: tuple[int, ...]
    serving_query: int | None


def forget(
    database: Database,
    vectors: Generations,
    cache: EmbeddingCache,
    state_dir: Path,
    document_ids: Sequence[str],
    now: datetime,
) -> Forgotten:
    """Remove the documents from the head, all versions, snapshots, the embedding cache, retrievals, examples and the
    full-text index; retire the adapters that learned from them. A file that still lies in its folder stays out until it
    is changed or released: only its place and the hash of its content are still known.
    """
    with database.write() as session:
        forgetting.begin(session, document_ids)
    return complete(database, vectors, cache, state_dir, now)


def complete(
    database: Database, vectors: Generations, cache: EmbeddingCache, state_dir: Path, now: datetime
) -> Forgotten:
    """Carry out a forgetting whose intent is written. Doing it twice is doing it once."""
    with database.read() as session:
        ids = forgetting.begun(session)
        head, first = heads.head(session), forgetting.first_move(session, ids)
        named = history.snapshots(session)
        contents = {one.content for document_id in ids for one in documents.history(session, document_id)}
        runs = forgetting.runs_with(session, ids)
        untouched = forgetting.runs_without(session, ids)
        files = [one for one in documents.known(session) if one.document_id in ids and one.content is not None]
    assert head is not None
    states = [one.head for one in named]
    sweep_tags(database, vectors, head.generation)  # what an error left would keep an old version
    _forget_vectors(vectors, cache, [*states, head], ids, contents)
    for left in (state_dir / "refresh").glob("*"):  # also what a control was killed with, whose examples nobody listed
        if not left.name.isdecimal():
            left.unlink()
        elif int(left.name) not in untouched:
            shutil.rmtree(left, ignore_errors=True)
    touched = sorted({one.version for one in states if first is not None and one.move >= first} - {head.version})
    rewritten = {version: vectors.purge(head.generation, version, ids) for version in touched}
    rewritten[head.version] = version = vectors.purge(head.generation, head.version, ids)
    for one in named:  # where a tag is now says nothing, if this was begun before
        if one.head.version in rewritten:
            vectors.tag(head.generation, one.name, rewritten[one.head.version])
    sync_filesystem(state_dir)
    with database.write() as session:
        retrievals = forgetting.drop_retrievals(session, ids)
        examples = forgetting.drop_examples(session, ids)
        gone = forgetting.retire_adapters(session, runs, ids)
        instead = {kind: forgetting.newest_promoted(session, kind) for kind in (GENERATOR, QUERY)}
        heads.rewritten(session, head.generation, rewritten)
        heads.without_adapters(session, gone, instead)
        serves = replace(
            head,
            at=now,
            version=version,
            adapter=instead[GENERATOR] if head.adapter in gone else head.adapter,
            query_adapter=instead[QUERY] if head.query_adapter in gone else head.query_adapter,
            reason=f"forgot {len(ids)} documents",
        )
        heads.move_head(session, serves)
        documents.erase(session, ids)
        for file in files:
            documents.keep_out(session, file, REASON, now)
        history.recount(session)
        retired = forgetting.retired(session)
        kept = {one.head.version for one in history.snapshots(session)} | {version}
        heads.keep_only(session, head.generation, kept)
    vectors.prune(head.generation, kept, orphans=True)
    for adapter in retired:
        shutil.rmtree(state_dir / "adapters" / f"{adapter:04d}", ignore_errors=True)
    database.checkpoint()
    with database.write() as session:
        forgetting.end(session)
    adapters, query_adapters = (tuple(sorted(one for one in gone if gone[one] == kind)) for kind in (GENERATOR, QUERY))
    return Forgotten(
        document_ids=tuple(ids),
        snapshots=len(touched),
        retrievals=retrievals,
        examples=examples,
        adapters=adapters,
        serving=serves.adapter,
        query_adapters=query_adapters,
        serving_query=serves.query_adapter,
    )


def _forget_vectors(
    vectors: Generations, cache: EmbeddingCache, states: Sequence[Head], ids: Sequence[str], contents: set[str]
) -> None:
    """Remove the embeddings of all texts that the documents ever had; all there are, if a text is known no more."""
    hits = [
        (state.generation, hit)
        for state in {(one.generation, one.version): one for one in states}.values()
        for hit in vectors.chunks(state.generation, state.version, ids)
    ]
    if contents <= {hit.revision for _, hit in hits}:
        cache.forget(sorted({cache_key(hit.text, generation) for generation, hit in hits}))
    else:
        cache.forget_all()
