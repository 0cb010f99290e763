"""Opening a memory for writing: the lock, the first head, and what a kill left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from store import forgetting as forgetting_of_documents
from store import snapshots
from store.catalogue import forgetting, heads, history, learning
from store.catalogue.database import Database
from store.durable import sync_filesystem
from store.embedding_cache import EmbeddingCache
from store.errors import ConfigError, Corrupt, Locked
from store.types import Head
from store.vectors import Generations


def take_lock(state_dir: Path) -> FileLock:
    """The one writer's lock. Raises Locked."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(state_dir / "writer.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise Locked(f"another memex writes {state_dir}; stop it, or let it do the work") from None
    return lock


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The name of a generation: the same settings give the same one."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return "g" + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def begin(database: Database, vectors: Generations, settings: Mapping[str, Any], dimension: int, now: datetime) -> None:
    """Make the first head, or see that the one there is was made with these settings. Raises ConfigError."""
    wanted = fingerprint(settings)
    with database.read() as session:
        head = heads.head(session)
        made_with = heads.generation_settings(session, head.generation) if head else {}
    if head is None:
        version = vectors.create(wanted, dimension)
        with database.write() as session:
            heads.add_generation(session, wanted, dict(settings), now)
            heads.move_head(session, at=now, generation=wanted, version=version, adapter=None, reason="created")
    elif head.generation != wanted:
        differing = sorted(key for key in made_with.keys() | settings.keys() if made_with.get(key) != settings.get(key))
        raise ConfigError(
            f"{database.path.parent} was made with other settings ("
            + ", ".join(f"{key}: {made_with.get(key)}, now {settings.get(key)}" for key in differing)
            + "); set them back, or name another state_dir and let it ingest anew"
        )


def recover(database: Database, vectors: Generations, cache: EmbeddingCache, now: datetime) -> None:
    """Complete what was cut off; put aside what was written but never acknowledged. Raises Corrupt."""
    with database.read() as session:
        intent, head = history.intent(session), heads.head(session)
        before = history.snapshot(session, intent.safety) if intent else None
    if intent is not None and head is not None and before is not None and before.head.move == head.move:
        snapshots.complete(database, vectors, intent, now)
    elif intent is not None:  # it failed, which was said, and memory went on from the state before
        with database.write() as session:
            history.clear_intent(session)
    with database.read() as session:
        forgotten = forgetting.begun(session)
    if forgotten:
        forgetting_of_documents.complete(database, vectors, cache, database.path.parent, now)
    with database.write() as session:
        learning.end_unfinished_runs(session, now)
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
            heads.move_head(
                session,
                at=now,
                generation=head.generation,
                version=version,
                adapter=head.adapter,
                reason="recovered: an unfinished write was put aside",
            )
