"""Maintenance changes no answer and takes away nothing that has a name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from store import maintenance
from store.errors import NotFound
from store.memory import Memory
from store.types import Batch
from store.vectors import upkeep
from tests.store.conftest import remember, texts, upsert


def add(memory: Memory, count: int) -> None:
    """Documents in commits of their own, so that the table has as many fragments."""
    for number in range(count):
        remember(memory, **{f"added{number}": f"text number {number}"})


def edit(memory: Memory, times: int, name: str = "edited", words: str = "text") -> None:
    for number in range(times):
        remember(memory, **{name: f"{words} number {number}"})


def found(memory: Memory, when: str | None = None) -> list[tuple[str, float]]:
    return [(hit.chunk_id, hit.score) for hit in memory.search("text number", 50, when=when).hits]


def test_the_same_is_found_before_and_after(memory: Memory) -> None:
    add(memory, 60)
    before = found(memory), texts(memory)
    done = memory.maintain()
    assert (found(memory), texts(memory)) == before
    assert done.shape.fragments == 1
    assert done.pruned > 0


def test_what_has_a_name_stays_and_the_rest_goes(memory: Memory) -> None:
    remember(memory, one="the first text")
    memory.snapshot("first")
    early = memory.head()
    then = found(memory, "first"), texts(memory, "first")
    edit(memory, maintenance.LATEST_STATES + 10, "one")
    latest = memory.head()
    memory.maintain()
    assert (found(memory, "first"), texts(memory, "first")) == then
    assert texts(memory, str(latest.version)) == {"one": [f"text number {maintenance.LATEST_STATES + 9}"]}
    with pytest.raises(NotFound, match="never served or is pruned"):
        memory.state(str(early.version + 3))
    # a time whose own state is pruned means the newest one before it that is there
    between = memory.past.history("one")[3].since_at.isoformat()
    assert memory.state(between).head.version == early.version
    kept = memory.vectors.versions(latest.generation)
    assert early.version in kept
    assert len(kept) < 2 * maintenance.LATEST_STATES
    memory.roll_back("first")
    assert texts(memory) == {"one": ["the first text"]}


def test_documents_that_are_gone_from_every_state_leave_the_catalogue(memory: Memory) -> None:
    remember(memory, gone="soon gone", pinned="gone but pinned")
    memory.commit(Batch(removed=("gone",)))
    memory.snapshot("pins")
    memory.commit(Batch(removed=("pinned",)))
    edit(memory, maintenance.LATEST_STATES + 5)
    memory.maintain()
    assert {one.document_id for one in memory.known()} == {"pinned", "edited"}
    assert texts(memory, "pins") == {"pinned": ["gone but pinned"]}


@pytest.mark.parametrize("cut", [KeyboardInterrupt, OSError])
def test_a_cut_between_the_new_shape_and_the_head(
    memory: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch, cut: type[BaseException]
) -> None:
    add(memory, 60)
    before, head = found(memory), memory.head()

    def cut_off(*_: object, **__: object) -> None:
        raise cut

    monkeypatch.setattr("store.maintenance.heads.move_head", cut_off)
    with pytest.raises(cut):
        memory.maintain()
    monkeypatch.undo()
    assert (memory.head(), found(memory)) == (head, before)
    memory.close()
    again = open_memory()
    assert found(again) == before
    edit(again, 1)
    assert again.maintain().shape.fragments == 1
    assert len(found(again)) == 50
    assert again.counts() == (61, 61)


def test_readers_see_no_error(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.maintenance.LATEST_STATES", 16)
    remember(memory, stays="text number one")
    errors: list[BaseException] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                assert any(hit.document_id == "stays" for hit in memory.search("text number one", 5).hits)
            except BaseException as error:  # noqa: BLE001 - it is what the test is about
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(6):
        edit(memory, 20)
        memory.maintain()
    ended.set()
    for reader in readers:
        reader.join()
    assert errors == []


def test_a_large_table_gets_a_vector_index_that_finds_what_a_scan_finds(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["alpha", "beta", "gamma", "delta", "memory", "snapshot", "rollback", "vector"]
    lines = [f"{words[n % 8]} {words[n // 8 % 8]} {words[n // 64 % 8]} item{n}" for n in range(1200)]
    memory.commit(Batch(upserts=tuple(upsert(memory, f"d{n}", *lines[n : n + 40]) for n in range(0, 1200, 40))))
    exact = found(memory)
    memory.snapshot("unindexed")
    monkeypatch.setattr(upkeep, "VECTOR_INDEX_ROWS", 1000)
    shape = memory.maintain().shape
    assert shape.unindexed == 0
    table = upkeep.open_table(memory.vectors.folder, memory.head().generation)
    assert upkeep.VECTOR_INDEX in {index.name for index in table.describe_indices()}
    assert [round(score, 3) for _, score in found(memory)] == [round(score, 3) for _, score in exact]
    assert found(memory, "unindexed") == exact


@pytest.mark.parametrize(
    ("sizes", "count"), [([], 0), ([100], 1), ([100, 10, 10], 2), ([100, 30, 10, 10], 3), ([500, 100, 100], 2)]
)
def test_segments_of_about_one_size_are_counted_from_the_newest(sizes: list[int], count: int) -> None:
    assert upkeep.alike(sizes) == count


@pytest.mark.parametrize(
    "sizes", [[4] * 60, [20_000, *[300] * 30, *[4] * 40], [20_000, 5, 20_000, 5] * 20, [1000] * 60]
)
def test_the_tier_leaves_few_fragments_and_is_the_smallest_that_does(sizes: list[int]) -> None:
    chosen = upkeep.tier(sizes, 48)
    most = upkeep.ROOMY * 48
    assert upkeep._left_after(sizes, chosen) <= most or chosen > max(sizes)
    assert chosen == upkeep.SMALLEST_TIER or upkeep._left_after(sizes, chosen // upkeep.TIER_FACTOR) > most


def test_the_catalogue_gives_back_what_it_does_not_use(memory: Memory, tmp_path: Path) -> None:
    from store.types import Retrieval

    for number in range(40):
        memory.journal.record(
            memory.head(),
            Retrieval(f"r{number}", memory.clock(), "q" * 200_000, "search", 1, ({"document_id": "none"},)),
        )
    memory.database.checkpoint()
    large = memory.database.path.stat().st_size
    with memory.database.write() as session:
        from store.catalogue import forgetting

        assert forgetting.drop_retrievals(session, ["none"]) == 40
    memory.maintain()
    memory.database.checkpoint()
    assert memory.database.path.stat().st_size < large / 4
