"""Opening a memory for writing: the lock, the first head, and what a kill left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from store import forgetting as forgetting_of_documents
from store import snapshots
from store.catalogue import forgetting, heads, history, learning
from store.catalogue.database import Database
from store.durable import sync_filesystem
from store.embedding_cache import EmbeddingCache
from store.errors import ConfigError, Corrupt
from store.types import Head
from store.vectors import CREATED, Generations


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The same settings give the same one."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def begin(
    database: Database,
    vectors: Generations,
    generation: Mapping[str, Any],
    settings: Mapping[str, Any],
    dimension: int,
    now: datetime,
) -> None:
    """Make the first head, or see that the one there is was made as `generation` says; note the settings in force.

    Raises ConfigError.
    """
    name = "g" + fingerprint(generation)
    with database.read() as session:
        head = heads.head(session)
        made_with = heads.generation_settings(session, head.generation) if head else {}
    if head is None:
        _check_new(database, vectors)
        version = vectors.create(name, dimension)
        sync_filesystem(vectors.folder)
        with database.write() as session:
            heads.add_generation(session, name, dict(generation), now)
            head = heads.move_head(session, Head(0, now, name, version, adapter=None, reason="created"))
    elif head.generation != name:
        keys = sorted(made_with.keys() | generation.keys())
        differing = [key for key in keys if made_with.get(key) != generation.get(key)]
        raise ConfigError(
            f"{database.path.parent} was made with other settings ("
            + ", ".join(f"{key}: {made_with.get(key)}, now {generation.get(key)}" for key in differing)
            + "); set them back, or name another state_dir and let it ingest anew"
        )
    with database.write() as session:
        heads.note_settings(session, head.move, fingerprint(settings), dict(settings))


def _check_new(database: Database, vectors: Generations) -> None:
    """Raise Corrupt when there is no head, and yet something was written: the catalogue was lost."""
    for generation, version in vectors.on_disk().items():
        if version > CREATED:
            raise Corrupt(
                f"{database.path} is empty, but generation {generation} has content; restore the catalogue from a "
                "backup, or move the state directory away to ingest anew"
            )
        vectors.drop_unreadable(generation, newer_than=0)


def recover(database: Database, vectors: Generations, cache: EmbeddingCache, now: datetime) -> None:
    """Complete what was cut off; put aside what was written but never acknowledged. Raises Corrupt."""
    with database.read() as session:
        intent, head = history.intent(session), heads.head(session)
    assert head is not None
    vectors.drop_unreadable(head.generation, newer_than=head.version)
    if intent is not None:
        snapshots.complete(database, vectors, intent, now)
    with database.read() as session:
        forgotten = forgetting.begun(session)
    if forgotten:
        forgetting_of_documents.complete(database, vectors, cache, database.path.parent, now)
    with database.write() as session:
        learning.interrupt_runs(session)
        head = heads.head(session)
    assert head is not None
    _put_aside(database, vectors, head, now)
    snapshots.sweep_tags(database, vectors, head.generation)


def _put_aside(database: Database, vectors: Generations, head: Head, now: datetime) -> None:
    """Make the head's version the newest again."""
    latest = vectors.latest(head.generation)
    if latest < head.version:
        raise Corrupt(
            f"generation {head.generation}: the head is version {head.version}, the newest on disk is {latest}; "
            "restore the state directory from a backup, or delete it to ingest anew"
        )
    if latest > head.version:
        version = vectors.restore(head.generation, head.version)
        sync_filesystem(vectors.folder)
        with database.write() as session:
            reason = "recovered: an unfinished write was put aside"
            heads.move_head(session, replace(head, at=now, version=version, reason=reason))
