"""What the past costs: rollback and snapshots at two sizes, searching an old state, disk and search after much change.

Vectors are random, so no model is needed; sizes are those of the default model (384 dimensions).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from store.embedding import HashingEmbedder
from store.memory import Memory
from store.types import Batch, Chunk, Labels, Place, Stat, Upsert
from tests.bench import corpus

CHUNKS = 8  # of a document
CHANGED = 20  # documents changed before a rollback


class Wide(HashingEmbedder):
    """As the default model's dimension."""

    dimension = 384


def run(quick: bool = False) -> dict[str, Any]:
    """All of it; `quick` on a tenth."""
    part = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as name:
        folder = Path(name)
        return {
            **returning(folder, 1_000, 100_000 // part),
            **wear(folder, 2_000 // part),
            **days(folder, 100 // part, 1_000),
        }


def returning(folder: Path, few: int, many: int) -> dict[str, Any]:
    """Rollback and snapshot with as many changed documents in a small and in a large memory; search of both states."""
    found: dict[str, Any] = {}
    for name, chunks in (("few", few), ("many", many)):
        with opened(folder / f"returning-{name}") as memory:
            load(memory, range(chunks // CHUNKS))
            memory.maintain()
            snapshots, rollbacks = [], []
            for round_ in range(7):
                snapshots.append(timed(lambda memory=memory, round_=round_: memory.snapshot(f"s{round_}")))
                load(memory, range(CHANGED), salt=round_ + 1)
                rollbacks.append(timed(lambda memory=memory, round_=round_: memory.roll_back(f"s{round_}")))
            found[f"rollback_seconds_{name}"] = statistics.median(rollbacks)
            found[f"snapshot_seconds_{name}"] = statistics.median(snapshots)
            if name == "many":
                memory.maintain()
                load(memory, range(CHANGED), salt=99)
                found["search_at_snapshot_over_head"] = past_over_head(memory)
    found["rollback_many_over_few"] = found["rollback_seconds_many"] / found["rollback_seconds_few"]
    found["snapshot_many_over_few"] = found["snapshot_seconds_many"] / found["snapshot_seconds_few"]
    return found


def past_over_head(memory: Memory) -> float:
    """Median seconds of a search at the oldest snapshot by those at the head, in turns, handles open."""
    at_head, at_snapshot = [], []
    for query in queries(60):
        at_snapshot.append(timed(lambda query=query: memory.search(query, 10, when="s0")))
        at_head.append(timed(lambda query=query: memory.search(query, 10)))
    return statistics.median(at_snapshot[10:]) / statistics.median(at_head[10:])


def wear(folder: Path, commits: int) -> dict[str, Any]:
    """Disk and search after as many one-document commits with maintenance, against one load of the same documents."""
    with opened(folder / "bulk") as bulk, opened(folder / "worn") as worn:
        load(bulk, range(commits), in_one=commits)
        bulk.maintain()
        for number in range(commits):
            load(worn, [number])
            if worn.upkeep_due():
                worn.maintain()
        worn.maintain()
        after, before = [], []
        for query in queries(60):
            after.append(timed(lambda query=query: worn.search(query, 10)))
            before.append(timed(lambda query=query: bulk.search(query, 10)))
        return {
            "wear_disk_over_bulk": disk(worn) / disk(bulk),
            "wear_search_over_bulk": statistics.median(after[10:]) / statistics.median(before[10:]),
        }


def days(folder: Path, count: int, documents: int) -> dict[str, Any]:
    """Disk of as many daily snapshots, one percent of the documents changed each day, against one copy."""
    with opened(folder / "one") as copy:
        load(copy, range(documents), in_one=documents)
        one = disk(copy)
    with opened(folder / "days") as memory:
        load(memory, range(documents))
        memory.maintain()
        rng = np.random.default_rng(0)
        for day in range(count):
            load(memory, rng.choice(documents, documents // 100, replace=False).tolist(), salt=day + 1)
            memory.snapshot(f"day-{day}")
            memory.maintain()
        assert len(memory.snapshots()) == count
        return {"daily_snapshots_disk_over_one": disk(memory) / one}


def opened(folder: Path) -> Memory:
    return Memory(folder, Wide(), write=True, generation={"bench": 1}, cache_mb=0)


def load(memory: Memory, numbers: Iterable[int], *, salt: int = 0, in_one: int = 64) -> None:
    """Commit the documents of these numbers; another salt gives them other texts and vectors."""
    stock = corpus.paragraphs()
    rest = iter(numbers)
    while some := list(islice(rest, in_one)):
        upserts = []
        for number in some:
            rng = np.random.default_rng((number, salt))
            vectors = rng.normal(size=(CHUNKS, Wide.dimension)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            start = int(rng.integers(len(stock)))
            texts = [f"{stock[(start + n) % len(stock)]} {number} {salt}" for n in range(CHUNKS)]
            upserts.append(
                Upsert(
                    document_id=f"document{number}",
                    place=Place("docs", b"%d" % number, f"/docs/{number}"),
                    stat=Stat(1, salt, number),
                    content=f"{number} {salt}",
                    labels=Labels(),
                    chunks=tuple(Chunk(text, position) for position, text in enumerate(texts)),
                    vectors=vectors,
                    embedded_at=memory.clock(),
                )
            )
        memory.commit(Batch(upserts=tuple(upserts)))


def queries(count: int) -> list[str]:
    return [paragraph[:80] for paragraph in corpus.paragraphs()[:count]]


def disk(memory: Memory) -> int:
    """Bytes of the tables and the catalogue."""
    memory.database.checkpoint()
    files = [*memory.vectors.folder.rglob("*"), memory.database.path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
