"""What memory does in several steps, as data: a kill, a fault or a power cut is tried at each step of each.

To add one: how to make ready (what embeds, and is not counted), and the act itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from daemon.runtime import generation
from daemon.settings import Embedding, Settings
from store import query_adapter
from store.embedding import HashingEmbedder
from store.memory import Memory
from store.query_adapter import QueryAdapter
from store.retention import Policy
from store.types import Batch, Chunk, Ended, Failed, Labels, Place, Rehome, Seen, Stat, Upsert, Vectors
from trainers.lora import CARD, WEIGHTS


@dataclass(frozen=True)
class Action:
    """`act` is given what `ready` returned. `before` makes of the common state the one that the action starts from."""

    act: Callable[[Memory, Any], object]
    ready: Callable[[Memory], Any] = lambda memory: None
    before: Callable[[Memory], object] = lambda memory: None


class Clock:
    """A clock that moves a second each time it is asked, from the first day of a month of 2026."""

    def __init__(self, month: int) -> None:
        self.now = datetime(2026, month, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


class LoggedEmbedder(HashingEmbedder):
    """Notes what it embeds in a file, which outlives the process."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def embed(self, texts: Any) -> Vectors:
        with self._log.open("a") as log:
            log.writelines(f"{text}\n" for text in texts)
        return super().embed(texts)


def settings(state: Path) -> Settings:
    return Settings(state_dir=state, embedding=Embedding(model="hashing"))


def log_of(state: Path) -> Path:
    return state.with_name(state.name + ".embedded")


def open_memory(state: Path, *, month: int = 3, write: bool = True) -> Memory:
    embedder = LoggedEmbedder(log_of(state))
    made_by = generation(settings(state), embedder)
    return Memory(state, embedder, write=write, generation=made_by, clock=Clock(month))


def prepare(memory: Memory) -> None:
    """The common state: documents of several chunks, a snapshot, what came after it, an adapter that is a candidate."""
    lines = {name: tuple(f"{name} paragraph {n}" for n in range(4)) for name in ("kept", "edited", "moved", "removed")}
    memory.commit(Batch(upserts=tuple(upsert(memory, name, *texts) for name, texts in lines.items())))
    memory.snapshot("good")
    memory.commit(
        Batch(
            upserts=(upsert(memory, "edited", "edited poison"), upsert(memory, "added", "added one", "added two")),
            removed=("removed",),
        )
    )
    memory.snapshot("bad")
    weights = b"weights"
    digest = hashlib.sha256(weights).hexdigest()
    run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=None)
    folder = memory.adapter_folder(memory.journal.add_adapter(run, base="base", sha256=digest))
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CARD).write_text(json.dumps({"sha256": digest, "base": {"sha256": "0"}}))
    memory.journal.end_run(Ended(run, "inconclusive", "too few items"))


def upsert(memory: Memory, name: str, *texts: str) -> Upsert:
    vectors, _ = memory.embed(texts)
    chunks = tuple(Chunk(text, position) for position, text in enumerate(texts))
    stat = Stat(sum(map(len, texts)), 10**18, 1)
    return Upsert(name, place(name), stat, content(*texts), LABELS, chunks, vectors, memory.clock())


def content(*texts: str) -> str:
    return "hash of " + "|".join(texts)


def place(name: str) -> Place:
    return Place("docs", name.encode(), f"/docs/{name}")


LABELS = Labels("domain", ("tag",))


def _batch(memory: Memory) -> Batch:
    """All that a batch may hold, in one."""
    moved = content(*(f"moved paragraph {n}" for n in range(4)))
    kept = content(*(f"kept paragraph {n}" for n in range(4)))
    stat = Stat(1, 10**18, 2)
    return Batch(
        upserts=(upsert(memory, "edited", "edited again", "in two chunks"), upsert(memory, "new", "new text")),
        rehomed=(Rehome("moved", "moved", place("elsewhere"), stat, moved, LABELS),),
        removed=("added",),
        seen=(Seen("kept", place("kept"), stat, kept),),
        failed=(Failed("broken", place("broken"), stat, "bad", "cannot be read"),),
    )


def _promote(memory: Memory) -> None:
    memory.promote(1, Ended(1, "promote", "better", 1))


def _query_candidate(memory: Memory) -> None:
    """Adapter 2."""
    weights = QueryAdapter(np.ones((64, 2), np.float32), np.ones((2, 64), np.float32))
    base = memory.embedder.fingerprint
    sha256 = query_adapter.save(memory.adapter_folder(2), weights, {"base": base, "documents": ["kept"]})
    memory.journal.add_query_adapter(1, base=base, sha256=sha256, documents=["kept"])


def _hold(memory: Memory) -> None:
    memory.roll_back("good")


ACTIONS: dict[str, Action] = {
    "commit": Action(lambda memory, batch: memory.commit(batch), ready=_batch),
    "removal": Action(lambda memory, _: memory.commit(Batch(removed=("kept", "added")))),
    "rollback": Action(lambda memory, _: memory.roll_back("good")),
    "rollback of the index": Action(lambda memory, _: memory.roll_back("good", only="index")),
    "rollback of the model": Action(lambda memory, _: memory.roll_back("good", only="model"), before=_promote),
    "promotion": Action(lambda memory, _: _promote(memory)),
    "promotion of a query adapter": Action(
        lambda memory, _: memory.promote_query(2, 1, {"decision": "promote"}), before=_query_candidate
    ),
    "snapshot": Action(lambda memory, _: memory.snapshot("new")),
    "deletion of a snapshot": Action(lambda memory, _: memory.delete_snapshot("good")),
    "pruning of snapshots": Action(lambda memory, _: memory.prune_snapshots(Policy(last=1))),
    "maintenance": Action(lambda memory, _: memory.maintain()),
    "forgetting": Action(lambda memory, _: memory.forget(["edited", "moved"])),
    "release": Action(lambda memory, _: memory.release(["edited", "added"]), before=_hold),
}
