"""Keeping the memory small and quick by itself: compaction, indices, pruning, and the catalogue's own tidying.

Nobody's state is taken away that still has a name: versions stay while a snapshot's tag, the head or one of the
latest states needs them. What is pruned is first no longer offered, then removed, so that a kill in between costs
nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime

from store.catalogue import documents, heads, history
from store.catalogue.database import Database
from store.durable import sync_filesystem
from store.seals import seal
from store.types import Head
from store.vectors import Generations, Shape

LATEST_STATES = 64  # that can be returned to by version or time without a snapshot; readers under way are on one
COMMITS = 32  # between two maintenances


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a maintenance did, and what it left. `pruned` counts versions."""

    at: datetime
    seconds: float
    pruned: int
    shape: Shape


def maintain(database: Database, vectors: Generations, now: datetime) -> Upkeep:
    """Bring the head into better shape, prune what nobody can ask for, tidy the catalogue. Changes no answer."""
    started = time.perf_counter()
    with database.read() as session:
        head = heads.head(session)
    assert head is not None
    version = vectors.tidy(head.generation, head.version)
    if version != head.version:
        sync_filesystem(vectors.folder)
        with database.write() as session:
            head = heads.move_head(session, replace(head, at=now, version=version, reason="maintenance"))
    pruned = prune(database, vectors, head)
    with database.write() as session:
        documents.drop_outlived(session, oldest=heads.oldest_kept(session))
        heads.drop_unused(session)
    seal(database, vectors.folder)
    database.vacuum()
    return Upkeep(now, time.perf_counter() - started, pruned, vectors.shape(head.generation))


def prune(database: Database, vectors: Generations, head: Head) -> int:
    """Let all versions go but the head's and those of snapshots and the latest states; returns how many went."""
    with database.write() as session:
        named = {one.head.version for one in history.snapshots(session) if one.head.generation == head.generation}
        keep = named | {head.version} | heads.latest_versions(session, head.generation, LATEST_STATES)
        heads.keep_only(session, head.generation, keep)
    return vectors.prune(head.generation, keep)
