"""Hybrid search: names are found by their letters, meaning by vectors, and what narrows does so first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from store.errors import NotFound
from store.globs import glob_pattern
from store.memory import Memory
from store.recent import Recent
from store.search import Ranking, fold, scored
from store.types import Batch, Filters, Hit, Labels, Place, Retrieval
from store.vectors import Candidate
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
    query = "the man and the dog"
    vector = manual.embedder.embed([query])[0]
    vectors = manual.vectors.vectors(manual.generation, manual.head().version)
    similarity = {chunk: float(held @ vector) for chunk, held in vectors.items()}
    manual.ranking = Ranking("vector")
    near = manual.search(query, 6).hits
    exact = sorted(similarity.values(), reverse=True)[:6]
    assert [one.score for one in near] == pytest.approx(exact, abs=1e-5)
    manual.ranking = Ranking("text")
    matching = manual.search(query, 6).hits
    assert {one.document_id for one in matching} >= {"phrase", "other"}
    assert [one.score for one in matching] == sorted((one.score for one in matching), reverse=True)
    for one in (*near, *matching):
        assert one.similarity == pytest.approx(similarity[one.chunk_id], abs=1e-5)


def test_a_hybrid_score_is_a_weighted_mean() -> None:
    found = [Candidate(1, 0.0, 0.9, None, 1.0), Candidate(2, 0.0, 0.5, 8.0, 1.0), Candidate(3, 0.0, 0.5, 4.0, 1.0)]
    assert [(one.row, score) for score, one in scored(found, Ranking(text_weight=0.4))] == [
        (2, pytest.approx(0.6 * 0.5 + 0.4)),
        (1, pytest.approx(0.6 * 0.9)),
        (3, pytest.approx(0.6 * 0.5 + 0.4 * 0.5)),
    ]
    assert next(one.row for _, one in scored(found, Ranking(text_weight=0))) == 1
    assert [score for score, _ in scored([Candidate(1, 0.0, 0.7, None, 2.0)], Ranking(text_weight=0.5))] == [0.7]


def test_words_that_any_question_has_do_not_count(memory: Memory) -> None:
    remember(memory, how="how do I do what I do and why", drop="a sequence is dropped from the database")
    memory.ranking = Ranking("text")
    assert names(memory, "How do I drop a sequence?") == ["drop"]
    assert names(memory, "what do I do") == ["how"], "where a question has no others they are all there is"
    assert names(memory, '"what I do"') == ["how"]


def test_of_many_alike_enough_others_are_read(memory: Memory) -> None:
    crowd = {f"same{n:02}": "one two three four five six seven eight nine ten" for n in range(40)}
    remember(memory, **crowd, other="one two and nothing else at all", last="one thing that is quite different")
    found = memory.search("one two three four five six seven eight nine ten", 3).hits
    assert [one.document_id for one in found] == ["same00", "other", "last"] or len(found) == 3
    assert len(found[0].places) == 39


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


def test_a_search_seen_before_is_not_made_again_and_never_stale(
    open_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory(recent=8)
    remember(memory, old="the boat needs ropes")
    first = memory.search("the boat needs ropes", 3)
    made = []
    find = type(memory.vectors).candidates
    monkeypatch.setattr(type(memory.vectors), "candidates", lambda *a, **b: made.append(1) or find(*a, **b))
    embedded = memory.embedder.embedded
    assert memory.search("the boat needs ropes", 3) == first
    assert (made, memory.embedder.embedded) == ([], embedded)
    for different in (
        lambda: memory.search("the boat needs ropes", 4),
        lambda: memory.search("the boat needs ropes", 3, filters=Filters(source="docs")),
    ):
        made.clear()
        different()
        assert made, "k and filters are part of what is asked"
    memory.snapshot("before")
    remember(memory, new="the boat needs ropes and a mast")
    assert names(memory, "the boat needs ropes and a mast") == ["new", "old"]
    assert [hit.document_id for hit in memory.search("the boat needs ropes", 3).hits] == ["old", "new"]
    then = memory.search("the boat needs ropes", 3, when="before")
    assert then.hits == first.hits
    assert then.state.snapshot == "before"
    memory.forget(["old"])
    for when in (None, "before"):
        assert "old" not in {hit.document_id for hit in memory.search("the boat needs ropes", 3, when=when).hits}


def test_in_a_hybrid_too_a_phrase_must_stand(manual: Memory) -> None:
    assert names(manual, '"man bites the dog" bites', 6) == ["other"]
    assert names(manual, '"dog bites cats"', 6) == []


def test_what_was_found_before_something_was_forgotten_is_not_recorded(manual: Memory) -> None:
    found = manual.search("the dog bites the man", 3)
    manual.forget(["phrase"])
    kept = Retrieval("one", manual.clock(), "the dog", "search", found.state.head.move, ())
    assert not manual.journal.record(found.state.head, kept)
    with pytest.raises(NotFound):
        manual.journal.retrieval("one")
    head = manual.search("the dog", 3).state.head
    assert manual.journal.record(head, replace(kept, move=head.move))


def test_only_the_latest_are_kept() -> None:
    kept: Recent[str, int] = Recent(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(key) for key in "abc"] == [1, None, 3]
    kept.drop(lambda key: key == "c")
    assert [kept.get(key) for key in "abc"] == [1, None, None]
    kept.drop()
    assert kept.get("a") is None
    nothing: Recent[str, int] = Recent(0)
    nothing.put("a", 1)
    assert nothing.get("a") is None


def test_neighbours_of_a_chunk_are_those_of_its_revision(memory: Memory) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "book", *(f"part {name}" for name in "abcdef")),)))
    memory.commit(Batch(upserts=(upsert(memory, "other", "part a of another"),)))
    third = memory.chunks(["book"])[2]
    assert [hit.text for hit in memory.around([third], 1)] == ["part b", "part c", "part d"]
    assert [hit.position for hit in memory.around([third], 9)] == [0, 1, 2, 3, 4, 5]
    assert memory.around([], 3) == []
