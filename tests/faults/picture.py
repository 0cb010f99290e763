"""A memory's whole state as plain values, and what must hold of every state directory at any time."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlmodel import select

from daemon.collisions import foreign_providers
from daemon.doctor import doctor
from daemon.runtime import Runtime
from store.catalogue import history
from store.catalogue.tables import AdapterRow
from store.memory import Memory
from store.types import Head
from tests.faults.actions import log_of, open_memory, settings

SAFETY = "before the rollback"  # how the reason of a safety snapshot begins


@dataclass(frozen=True)
class Picture:
    """What a memory holds, without the numbers and times that a recovery may add to."""

    adapter: int | None
    query_adapter: int | None
    chunks: dict[str, tuple[Any, ...]]  # chunk id -> what it says, and its vector's hash
    documents: dict[str, tuple[Any, ...]]
    holds: dict[str, str | None]
    adapters: dict[int | None, str]
    runs: dict[int, tuple[str, int | None, dict[str, Any]]]
    snapshots: dict[str, tuple[int | None, int | None, str]]  # name -> adapters, hash of its chunks
    safety: frozenset[str]  # hashes of those made before rollbacks; their names are made from the time

    def same_but_safety(self, other: Picture) -> bool:
        """A rollback that failed may leave its safety snapshot."""
        return replace(self, safety=other.safety) == other

    def differences(self, other: Picture) -> dict[str, tuple[Any, Any]]:
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def picture(memory: Memory) -> Picture:
    head = memory.head()
    named, safety = {}, set()
    for snapshot in memory.snapshots():
        taken = _hash(repr(sorted(_chunks(memory, snapshot.head).items())).encode())
        if snapshot.reason.startswith(SAFETY):
            safety.add(taken)
        else:
            named[snapshot.name] = (snapshot.head.adapter, snapshot.head.query_adapter, taken)
    with memory.database.read() as session:
        adapters = {row.adapter: row.state for row in session.exec(select(AdapterRow))}
    return Picture(
        adapter=head.adapter,
        query_adapter=head.query_adapter,
        chunks=_chunks(memory, head),
        documents={
            one.document_id: (one.place, one.content, one.live, one.labels, one.error, one.tries)
            for one in memory.known()
        },
        holds={hold.document_id: hold.content for hold in memory.holds()},
        adapters=adapters,
        runs={run.run: (run.decision, run.adapter, dict(run.metrics)) for run in memory.journal.runs()},
        snapshots=named,
        safety=frozenset(safety),
    )


def _chunks(memory: Memory, head: Head) -> dict[str, tuple[Any, ...]]:
    vectors = memory.vectors.vectors(head.generation, head.version)
    hits = memory.vectors.by_id(head.generation, head.version, list(vectors))
    assert len(hits) == len(vectors)
    return {
        hit.chunk_id: (hit.path, hit.revision, hit.position, hit.text, hit.tags, _hash(vectors[hit.chunk_id].tobytes()))
        for hit in hits
    }


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def is_sound(state: Path) -> None:
    """What must hold after any start: nothing half done is left, and doctor finds nothing."""
    with open_memory(state, write=False) as memory:
        head = memory.head()
        assert memory.vectors.latest(head.generation) == head.version
        assert memory.vectors.tags(head.generation) == {one.name: one.head.version for one in memory.snapshots()}
        with memory.database.read() as session:
            assert history.intent(session) is None
    assert problems(state) == []


def embedded_twice(state: Path) -> list[str]:
    return [text for text, times in Counter(log_of(state).read_text().splitlines()).items() if times > 1]


def problems(state: Path) -> list[str]:
    """What doctor finds wrong with a state directory."""
    runtime = Runtime(settings(state), write=False)
    try:
        with patch("daemon.doctor.foreign_providers", _foreign_providers):
            found: list[str] = doctor(runtime)["problems"]
    finally:
        runtime.close()
    return found


_foreign_providers = cache(foreign_providers)  # they do not change between two kills, and take longest to find
