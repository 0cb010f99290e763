"""A query adapter as files, in the head, in what is searched, and in what is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import query_adapter
from store.embedding import HashingEmbedder
from store.errors import Corrupt
from store.memory import Memory
from store.query_adapter import QueryAdapter
from store.restore import restore
from store.types import Ended, Hit
from tests.store.conftest import query_candidate, query_map, remember

BASE = HashingEmbedder.fingerprint
WORDS = {"one": "alpha beta gamma", "two": "delta epsilon zeta", "three": "alpha delta eta"}


def promote(memory: Memory, seed: int, documents: tuple[str, ...] = (), start: int | None = None) -> int:
    number = query_candidate(memory, seed, documents, start)
    memory.promote_query(number, number, {"decision": "promote", "adapter": number})
    return number


def scores(memory: Memory, when: str | None = None) -> list[tuple[str, float]]:
    return [(hit.document_id, hit.score) for hit in memory.search("alpha", 9, when=when).hits]


@pytest.fixture
def told(memory: Memory) -> Memory:
    remember(memory, **WORDS)
    return memory


def test_what_is_written_is_read_and_moves_a_question_by_the_formula(tmp_path: Path) -> None:
    wanted = query_map(1)
    query_adapter.save(tmp_path / "a", wanted, {"base": BASE, "documents": []})
    found = query_adapter.load(tmp_path / "a", BASE)
    asked = HashingEmbedder().embed(["alpha", "beta gamma"])
    raw = asked + asked @ wanted.down @ wanted.up
    assert np.allclose(found.move(asked), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert np.allclose(found.move(asked[0]), found.move(asked)[0], atol=1e-6)
    still = QueryAdapter(wanted.down, np.zeros_like(wanted.up))
    assert np.allclose(still.move(asked), asked, atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / query_adapter.CARD).unlink(), "not a whole query adapter"),
        (lambda folder: (folder / query_adapter.CARD).write_text("{"), "not a whole query adapter"),
        (lambda folder: (folder / query_adapter.WEIGHTS).unlink(), "not a whole query adapter"),
        (lambda folder: (folder / query_adapter.WEIGHTS).write_bytes(b"other"), "sha256 differs"),
        (lambda folder: (folder / query_adapter.CARD).write_text('{"sha256": "0"}'), "is not a query adapter"),
    ],
)
def test_one_that_is_not_whole_is_refused(tmp_path: Path, spoil: Callable[[Path], object], why: str) -> None:
    query_adapter.save(tmp_path / "a", query_map(1), {"base": BASE})
    spoil(tmp_path / "a")
    with pytest.raises(Corrupt, match=why):
        query_adapter.load(tmp_path / "a", BASE)


def test_one_of_another_embedder_is_refused(tmp_path: Path) -> None:
    query_adapter.save(tmp_path / "a", query_map(1), {"base": "another"})
    with pytest.raises(Corrupt, match=r"made for another embedder \(another, in use is hashing-64\)"):
        query_adapter.load(tmp_path / "a", BASE)


def test_a_promotion_moves_the_head_and_what_is_found_but_no_similarity(told: Memory) -> None:
    def alike(hits: tuple[Hit, ...]) -> dict[str, float]:
        return {hit.document_id: hit.similarity for hit in hits}

    before, plain = scores(told), told.search("alpha", 9)
    embedded = told.embedder.embedded
    number = promote(told, 1)
    head, found = told.head(), told.search("alpha", 9)
    assert (head.query_adapter, head.adapter, head.version) == (number, None, plain.state.head.version)
    assert (plain.query_adapter, found.query_adapter) == (None, number)
    assert scores(told) != before
    assert alike(found.hits) == alike(plain.hits), "the threshold keeps its meaning"
    assert told.embedder.embedded - embedded <= 2, "only the question: no chunk is embedded again"
    assert scores(told, f"before-adapter-{number:04d}") == before
    assert scores(told, f"adapter-{number:04d}") == scores(told)
    run = told.journal.run(number)
    assert run.metrics["query"] == {"decision": "promote", "adapter": number}
    assert run.decision == "reject", "the generator's part had its own decision"


def test_each_state_is_searched_with_its_own_also_from_what_is_kept(open_memory: Callable[..., Memory]) -> None:
    memory = open_memory(recent=20)
    remember(memory, **WORDS)
    plain = scores(memory)
    first, second = promote(memory, 1), promote(memory, 2)
    for _ in range(2):
        assert scores(memory, f"before-adapter-{first:04d}") == plain
        assert scores(memory, f"adapter-{first:04d}") == scores(memory, f"before-adapter-{second:04d}")
        assert scores(memory, f"adapter-{second:04d}") == scores(memory)
    assert len({tuple(scores(memory, f"adapter-{one:04d}")) for one in (first, second)}) == 2


def test_it_stays_through_commits_and_maintenance_and_a_restart(
    told: Memory, open_memory: Callable[..., Memory]
) -> None:
    number = promote(told, 1)
    remember(told, four="alpha theta")
    told.maintain()
    assert told.head().query_adapter == number
    told.close()
    assert open_memory().head().query_adapter == number


@pytest.mark.parametrize(("only", "stays"), [(None, False), ("model", False), ("index", True)])
def test_a_rollback_brings_it_back_with_the_model(told: Memory, only: str | None, stays: bool) -> None:
    first = promote(told, 1)
    told.snapshot("good")
    then = scores(told)
    second = promote(told, 2)
    now = scores(told)
    planned = told.plan_rollback("good", only).difference.query_adapter
    told.roll_back("good", only)
    assert told.head().query_adapter == (second if stays else first)
    assert planned == (second, second if stays else first)
    assert scores(told) == (now if stays else then)


def test_an_aborted_canary_takes_the_generators_adapter_alone(told: Memory) -> None:
    run = told.journal.begin_run(trigger="test", move=1, incumbent=None)
    number = told.journal.add_adapter(run, base="base", sha256="0")
    told.promote(number, Ended(run, "promote", "better", number))
    began = told.past.promotion(told.clock().replace(year=2000))
    later = promote(told, 1)
    assert told.past.promotion(told.clock().replace(year=2000)) == began, "the canary goes on"
    told.roll_back(f"before-adapter-{number:04d}", "model", "too slow")
    assert (told.head().adapter, told.head().query_adapter) == (None, later)


def test_a_rollback_never_leads_to_one_that_is_missing(told: Memory) -> None:
    number = promote(told, 1)
    (told.adapter_folder(number) / query_adapter.CARD).unlink()
    with pytest.raises(Corrupt, match=f"adapter {number} is missing"):
        told.roll_back(f"adapter-{number:04d}")


def test_one_that_cannot_be_used_does_not_serve_and_is_named(told: Memory, open_memory: Callable[..., Memory]) -> None:
    plain = scores(told)
    number = promote(told, 1)
    (told.adapter_folder(number) / query_adapter.WEIGHTS).write_bytes(b"damaged")
    told.close()
    memory = open_memory(recent=5)
    for _ in range(2):  # what is kept of searches does not hide it
        found = memory.search("alpha", 9)
        assert (found.query_adapter, memory.head().query_adapter) == (None, number)
        assert f"searched without query adapter {number}" in found.remarks[0]
    assert scores(memory) == plain


def test_forgetting_retires_those_that_learned_from_it_and_what_went_on_from_them(told: Memory) -> None:
    first = promote(told, 1, ("two",))
    kept = scores(told)
    second = promote(told, 2, ("one", "two"))
    third = promote(told, 3, ("three",), start=second)
    run = told.journal.begin_run(trigger="test", move=1, incumbent=None)
    generator = told.journal.add_adapter(run, base="base", sha256="0")
    told.promote(generator, Ended(run, "promote", "better", generator))
    done = told.forget(["one"])
    assert (done.query_adapters, done.serving_query) == ((second, third), first)
    assert (done.adapters, done.serving) == ((), generator), "another kind of adapter is left alone"
    assert told.head().query_adapter == first
    assert {one.head.query_adapter for one in told.snapshots()} == {None, first}
    assert [told.adapter_folder(one).exists() for one in (first, second, third)] == [True, False, False]
    assert scores(told) == [one for one in kept if one[0] != "one"]
    assert set(told.journal.adapters()) == {first, generator}
    done = told.forget(["two"])
    assert (done.query_adapters, done.serving_query) == ((first,), None)
    assert told.search("alpha", 9).query_adapter is None


def test_a_backup_carries_it(told: Memory, tmp_path: Path) -> None:
    number, asked = promote(told, 1), scores(told)
    told.back_up(tmp_path / "backup", lambda done, total: None, threading.Event())
    told.close()
    put_back = restore(tmp_path / "backup", tmp_path / "other")
    assert put_back.head["query_adapter"] == number
    again = Memory(
        tmp_path / "other", HashingEmbedder(), write=True, generation={"parser": 1, "chunker": 1}, clock=told.clock
    )
    with again:
        assert (again.head().query_adapter, scores(again)) == (number, asked)
