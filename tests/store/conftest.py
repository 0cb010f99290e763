"""A memory with a fake embedder, and documents for it without files."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from store import query_adapter
from store.embedding import HashingEmbedder
from store.memory import Memory
from store.query_adapter import QueryAdapter
from store.types import Batch, Chunk, Ended, Labels, Place, Stat, Upsert

GENERATION = {"parser": 1, "chunker": 1}


def scratch_folder() -> Path:
    """For thousands of commits, where what they sync is not what is tested: in memory, if the system has that."""
    return Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


@pytest.fixture
def scratch() -> Iterator[Path]:
    folder = scratch_folder()
    yield folder
    shutil.rmtree(folder)


class Clock:
    """A clock that moves a second each time it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_memory(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Memory]]:
    opened: list[Memory] = []

    def opener(write: bool = True, recent: int = 0, **changed: object) -> Memory:
        made_as = {**GENERATION, **changed}
        memory = Memory(
            tmp_path / "state", HashingEmbedder(), write=write, generation=made_as, recent=recent, clock=clock
        )
        opened.append(memory)
        return memory

    yield opener
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_memory: Callable[..., Memory]) -> Memory:
    return open_memory()


_times = itertools.count(1)


def place(name: str) -> Place:
    return Place("docs", name.encode(), f"/docs/{name}")


def upsert(memory: Memory, name: str, *texts: str, content: str | None = None) -> Upsert:
    """A document named `name` whose chunks are `texts`; its id is its name."""
    vectors, _ = memory.embed(list(texts))
    return Upsert(
        document_id=name,
        place=place(name),
        stat=Stat(sum(map(len, texts)), next(_times), 1),
        content=content or "hash of " + "|".join(texts),
        labels=Labels("domain", ("tag",)),
        chunks=tuple(Chunk(text, position) for position, text in enumerate(texts)),
        vectors=vectors,
        embedded_at=memory.clock(),
    )


def remember(memory: Memory, **documents: str) -> None:
    """Commit documents of one chunk each, in one batch."""
    memory.commit(Batch(upserts=tuple(upsert(memory, name, text) for name, text in documents.items())))


def texts(memory: Memory, when: str | None = None) -> dict[str, list[str]]:
    """document id -> its chunks' texts, of everything in a state, as Lance has it."""
    head = memory.state(when).head
    contents = memory.vectors.table_of_contents(head.generation, head.version)
    found: dict[str, list[str]] = {}
    for hit in memory.chunks(list(contents), head):
        found.setdefault(hit.document_id, []).append(hit.text)
    return found


def query_map(seed: int) -> QueryAdapter:
    """One that turns questions far, and each seed in another direction."""
    rng = np.random.default_rng(seed)
    shapes = (HashingEmbedder.dimension, 4), (4, HashingEmbedder.dimension)
    down, up = (np.asarray(rng.normal(size=shape), np.float32) for shape in shapes)
    return QueryAdapter(down, up)


def query_candidate(memory: Memory, seed: int, documents: tuple[str, ...] = (), start: int | None = None) -> int:
    """A query adapter that does not serve yet, with its files; returns its number."""
    run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=None)
    made = memory.state_dir / "made"
    sha256 = query_adapter.save(
        made, query_map(seed), {"base": HashingEmbedder.fingerprint, "documents": list(documents)}
    )
    number = memory.journal.add_query_adapter(
        run, base=HashingEmbedder.fingerprint, sha256=sha256, documents=documents, start=start
    )
    memory.adapter_folder(number).parent.mkdir(exist_ok=True)
    made.rename(memory.adapter_folder(number))
    memory.journal.end_run(Ended(run, "reject", "no better"))
    return number
