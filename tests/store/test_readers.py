"""Invariant 2: while memory is written and rolled back, every reader sees one state, and nothing between two."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from store.memory import Memory
from store.types import Batch
from tests.store.conftest import upsert

DOCUMENTS, CHUNKS = ("a", "b", "c"), 3
WRITES = 30


def test_readers_see_whole_states(memory: Memory, open_memory: Callable[..., Memory]) -> None:
    write(memory, 0)
    memory.snapshot("first")
    elsewhere = open_memory(write=False)  # as another process would
    with reading(memory, elsewhere, memory) as readers:
        for number in range(1, WRITES):
            write(memory, number)
            if number % 5 == 0:
                memory.roll_back(memory.roll_back("first").safety)
    seen = [reader.result() for reader in readers]
    assert all(len(states) > 3 for states in seen), f"a reader hardly read: {seen}"
    assert set.union(*seen) >= {0, WRITES - 1}


def write(memory: Memory, number: int) -> None:
    """Replace all documents; each chunk says the number of the write."""
    texts = {one: [f"write {number} chunk {chunk} of {one}" for chunk in range(CHUNKS)] for one in DOCUMENTS}
    memory.commit(Batch(upserts=tuple(upsert(memory, name, *texts[name]) for name in DOCUMENTS)))


def read(memory: Memory) -> int:
    """The number that all documents are at; all of a state is there, and the catalogue says the same of it."""
    found = memory.search("write chunk", 100)
    numbers = {int(hit.text.split()[1]) for hit in found.hits}
    expected = set(itertools.product(DOCUMENTS, range(CHUNKS)))
    assert {(hit.document_id, hit.position) for hit in found.hits} == expected
    assert len(found.hits) == len(expected)
    assert len(numbers) == 1, f"one search saw several states: {numbers}"
    live = memory.live_at(found.state.head)
    assert {(hit.document_id, hit.revision) for hit in found.hits} == {(one, live[one].content) for one in live}
    return numbers.pop()


@contextmanager
def reading(*memories: Memory) -> Iterator[list[Future[set[int]]]]:
    """A thread for each that reads until the block ends, and once after; the numbers that each of them saw."""
    done = threading.Event()

    def read_on(memory: Memory) -> set[int]:
        numbers = {read(memory)}
        while not done.is_set():
            numbers.add(read(memory))
        return numbers | {read(memory)}

    with ThreadPoolExecutor(len(memories)) as pool:
        try:
            yield [pool.submit(read_on, memory) for memory in memories]
        finally:
            done.set()
