"""Hybrid search: names are found by their letters, meaning by vectors, and what narrows does so first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from store.memory import Memory
from store.search import Ranking, fold, fuse
from store.types import Batch, Filters, Hit, Labels, Place
from store.vectors.rows import glob_pattern
from tests.store.conftest import place, remember, upsert

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def hit(name: str, text: str = "", **changed: Any) -> Hit:
    empty = Hit(name, name, "docs", f"/docs/{name}", "r", 0, (), None, text, 0.0, "", (), MOMENT, MOMENT, MOMENT)
    return replace(empty, **changed)


def names(memory: Memory, query: str, k: int = 3, **filters: Any) -> list[str]:
    return [one.document_id for one in memory.search(query, k, filters=Filters(**filters)).hits]


@pytest.fixture
def manual(memory: Memory) -> Memory:
    remember(
        memory,
        changes="call sqlite3_changes to count the rows that a statement modified",
        again="EAGAIN (11): the resource is temporarily unavailable, try again",
        access="error 0x80070005 means that access was denied",
        sequence="the command drops a sequence from the database",
        phrase="the dog bites the man",
        other="the man bites the dog",
    )
    return memory


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("sqlite3_changes", "changes"),
        ("EAGAIN", "again"),
        ("temporarily 11", "again"),
        ("0x80070005", "access"),
        ("sequences", "sequence"),
        ('"man bites the dog"', "other"),
        ('"dog bites the man"', "phrase"),
        ("AND OR NOT (sqlite3_changes) [x] + *", "changes"),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "text"])
def test_exact_names_numbers_and_phrases_are_found(manual: Memory, mode: Any, query: str, first: str) -> None:
    manual.ranking = Ranking(mode)
    assert names(manual, query)[0] == first


def test_text_that_no_index_covers_yet_is_found(manual: Memory) -> None:
    manual.maintain()
    remember(manual, fresh="a brand new word: frobnicate")
    assert names(manual, "frobnicate")[0] == "fresh"
    manual.maintain()
    assert names(manual, "frobnicate")[0] == "fresh"


def test_one_half_alone_gives_its_own_order(manual: Memory) -> None:
    head = manual.head()
    query = "the man and the dog"
    vector = manual.embedder.embed([query])[0]
    manual.ranking = Ranking("vector")
    near = manual.vectors.nearest(head.generation, head.version, vector, 6, Filters())
    assert [(one.chunk_id, one.score) for one in manual.search(query, 6).hits] == [(n.chunk_id, n.score) for n in near]
    manual.ranking = Ranking("text")
    matching = manual.vectors.matching(head.generation, head.version, query, vector, 6, Filters())
    assert [one.chunk_id for one in manual.search(query, 6).hits] == [one.chunk_id for one in matching]
    similarity = {one.chunk_id: one.similarity for one in near}
    assert all(one.similarity == pytest.approx(similarity[one.chunk_id], abs=1e-5) for one in matching)


def test_both_halves_count_by_rank() -> None:
    a, b, c = hit("a"), hit("b"), hit("c")
    scores = {one.chunk_id: one.score for one in fuse([a, b], [b, c], 0.5)}
    assert scores["b"] == pytest.approx(0.5 * 61 / 62 + 0.5)
    assert scores["a"] == pytest.approx(0.5)
    assert scores["c"] == pytest.approx(0.5 * 61 / 62)
    assert fuse([a], [a], 0.3)[0].score == pytest.approx(1.0)


def test_a_boost_moves_results(memory: Memory) -> None:
    plain = upsert(memory, "plain", "the answer is in here")
    boosted = replace(upsert(memory, "boosted", "the answer is in there"), labels=Labels(boost=2.0))
    memory.commit(Batch(upserts=(plain, boosted)))
    assert names(memory, "the answer is in here") == ["boosted", "plain"]


def test_the_same_text_is_one_result_with_all_its_places() -> None:
    long = "one two three four five six seven eight nine ten"
    hits = [hit("a", long), hit("b", long.upper() + "!"), hit("c", long + " 11"), hit("d", "else"), hit("e", long)]
    found = fold(hits, 2)
    assert [(one.chunk_id, one.places) for one in found] == [("a", ("/docs/b",)), ("c", ())]
    assert [one.chunk_id for one in fold(hits, 5)] == ["a", "c", "d"]
    assert fold(hits, 5)[0].places == ("/docs/b", "/docs/e")


def test_filters_narrow_before_the_search(memory: Memory) -> None:
    crowd = tuple(upsert(memory, f"crowd{n}", f"the very same answer number {n}") for n in range(80))
    lone = replace(
        upsert(memory, "lone", "something quite different"), place=Place("other", b"lone", "/other/deep/lone.md")
    )
    memory.commit(Batch(upserts=(*crowd, lone)))
    now = memory.clock()
    remember(memory, late="the very same answer comes late")
    assert names(memory, "the very same answer", source="other") == ["lone"]
    assert names(memory, "the very same answer", path="/other/**") == ["lone"]
    assert names(memory, "the very same answer", path="*.md") == ["lone"]
    assert names(memory, "the very same answer", path="/other/*") == []
    assert names(memory, "the very same answer", ingested_after=now) == ["late"]
    assert "late" not in names(memory, "the very same answer comes late", 90, ingested_before=now)
    assert names(memory, "the very same answer", modified_after=now) == []
    assert place("x").path == "/docs/x"


@pytest.mark.parametrize(
    ("glob", "pattern"),
    [
        ("*.md", r"^(.*/)?[^/]*\.md$"),
        ("/a/**", "^/a/.*$"),
        ("/a/**/b?.txt", r"^/a/(.*/)?b[^/]\.txt$"),
        ("it's (x)", r"^(.*/)?it's\ \(x\)$"),
    ],
)
def test_globs(glob: str, pattern: str) -> None:
    assert glob_pattern(glob) == pattern
