"""Earlier states: what they held, their texts, how they differ; and letting go of snapshots."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from store.catalogue import heads, history
from store.chunking import chunk
from store.difference import Difference, movements, settings_difference
from store.embedding import HashingEmbedder
from store.errors import Corrupt, NotFound, UsageError
from store.memory import Memory
from store.retention import Policy
from store.types import Batch, Labels, Rehome, Section, Stat, Upsert
from tests.store.conftest import GENERATION, Clock, place, remember, texts, upsert


def document(memory: Memory, name: str, *sections: Section) -> Upsert:
    """A document cut as ingestion cuts it, into chunks of 24 tokens that overlap by 8."""
    chunks = chunk(sections, HashingEmbedder().spans, 24, 8)
    vectors, _ = memory.embed([one.text for one in chunks])
    content = "hash of " + "|".join(section.text for section in sections)
    at = memory.clock()
    return Upsert(name, place(name), Stat(1, len(content), 1), content, Labels(), chunks, vectors, at)


def prune_version(memory: Memory, version: int) -> None:
    """As maintenance does: the version's manifest goes."""
    versions = memory.state_dir / "generations" / f"{memory.generation}.lance" / "_versions"
    (versions / f"{2**64 - 1 - version:020}.manifest").unlink()
    with memory.database.write() as session:
        heads.keep_only(session, memory.generation, memory.vectors.versions(memory.generation))


def dump(memory: Memory) -> list[str]:
    """Everything that the catalogue holds."""
    with sqlite3.connect(memory.database.path) as connection:
        return list(connection.iterdump())


def listed(memory: Memory, when: str | None) -> dict[str, tuple[str, int]]:
    found = memory.past.documents(memory.state(when))
    return {one.document_id: (one.path, one.chunks) for one in found}


# --- what a state held -----------------------------------------------------------------------------------------


def test_the_documents_of_a_state_are_those_of_then(memory: Memory) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "a", "one", "two"), upsert(memory, "b", "three"))))
    then = memory.past.documents(memory.state())[0]
    memory.snapshot("first")
    moved = Rehome("a", "a", place("elsewhere"), Stat(6, 9**18, 1), "hash of one|two", Labels())
    memory.commit(Batch(rehomed=(moved,), removed=("b",), upserts=(upsert(memory, "c", "four"),)))
    assert listed(memory, "first") == {"a": ("/docs/a", 2), "b": ("/docs/b", 1)}
    assert listed(memory, None) == {"a": ("/docs/elsewhere", 2), "c": ("/docs/c", 1)}
    assert memory.past.documents(memory.state("first"))[0] == then
    now = next(one for one in memory.past.documents(memory.state()) if one.document_id == "a")
    assert now.modified_at > then.modified_at  # type: ignore[operator]


def test_a_document_of_a_state_is_found_by_its_names_of_then_and_of_now(memory: Memory) -> None:
    remember(memory, a="alpha", b="beta")
    memory.snapshot("first")
    moved = Rehome("a", "a", place("new"), Stat(6, 9, 1), "hash of alpha", Labels())
    swapped = Rehome("b", "b", place("a"), Stat(6, 9, 1), "hash of beta", Labels())
    memory.commit(Batch(rehomed=(moved, swapped)))
    first = memory.state("first")
    for name in ("a", "/docs/a", "new", "/docs/new"):
        assert memory.past.find(name, first).path == "/docs/a", name
    assert memory.past.find("/docs/a", memory.state()).document_id == "b"
    remember(memory, c="gamma")
    with pytest.raises(NotFound, match="no document 'c' in version"):
        memory.past.find("c", first)
    memory.commit(Batch(upserts=(upsert(memory, "d/same", "x"), upsert(memory, "e/same", "y"))))
    with pytest.raises(UsageError, match="2 documents"):
        memory.past.find("same", memory.state())


# --- revisions and their texts ---------------------------------------------------------------------------------

PROSE = " ".join(f"Sentence number {i} says this and that, and a little more." for i in range(12))
CODE = "\n".join(f"    step {i}\n    step {i}" for i in range(20))  # repeats itself: no overlap can be guessed
SECTIONS = (
    Section("Before any heading."),
    Section(PROSE, ("Manual",)),
    Section(CODE, ("Manual", "Install")),
    Section("The same line.\n" * 30 + "The end.", ("Manual", "Use", "Daily"), 4),
)
TEXT = (
    f"Before any heading.\n\nManual\n\n{PROSE}\n\nInstall\n\n{CODE}\n\nUse\n\nDaily\n\n"
    + "The same line.\n" * 30
    + "The end."
)


def test_the_text_of_a_revision_is_what_was_parsed(memory: Memory) -> None:
    memory.commit(Batch(upserts=(document(memory, "a", *SECTIONS),)))
    (served,) = memory.past.history("a")
    assert served.revision.chunks > 20
    assert memory.past.text("a", served) == TEXT
    empty = replace(upsert(memory, "empty"), content="nothing")
    memory.commit(Batch(upserts=(empty,)))
    assert memory.past.text("empty", memory.past.history("empty")[0]) == ""


def test_history_numbers_the_revisions_and_says_when_and_why(memory: Memory) -> None:
    remember(memory, a="one")
    memory.snapshot("first")
    remember(memory, a="two")
    memory.commit(Batch(removed=("a",)))
    memory.roll_back("first")
    found = memory.past.history("a")
    assert [(one.number, one.revision.content) for one in found] == [
        (1, "hash of one"),
        (2, "hash of two"),
        (3, "hash of one"),
    ]
    assert [one.reason for one in found] == ["ingest", "ingest", "rollback to first"]
    assert found[0].until_at == found[1].since_at
    assert found[1].until_at is not None
    assert found[1].until_at < found[2].since_at
    assert found[2].until_at is None
    assert [memory.past.text("a", one) for one in found] == ["one", "two", "one"]


def test_a_diff_is_between_numbers_states_and_now(memory: Memory, clock: Clock) -> None:
    remember(memory, a="one\nsame")
    then = clock.now
    remember(memory, b="another")
    memory.snapshot("first")
    remember(memory, a="two\nsame")
    expected = ("@@ -1,2 +1,2 @@", "-one", "+two", " same")
    for pair in (("1",), ("1", "2"), ("first",), (then.isoformat(), "2")):
        found = memory.past.diff("a", *pair)
        assert found.lines[2:] == expected, pair
        assert found.lines[0].startswith("--- /docs/a (revision 1)\t2026-01-01T")
    assert memory.past.diff("a", "2", "1").lines[3:5] == ("-two", "+one")
    assert memory.past.diff("a", "2").lines == ()
    for wrong in ("0", "3"):
        with pytest.raises(NotFound, match=f"no revision {wrong}; there are 1 to 2"):
            memory.past.diff("a", wrong)
    memory.commit(Batch(removed=("a",)))
    with pytest.raises(NotFound, match="name a second revision"):
        memory.past.diff("a", "1")
    assert memory.past.diff("a", "1", "2").lines[2:] == expected


# --- what was pruned -------------------------------------------------------------------------------------------


def test_a_revision_is_read_from_any_version_that_is_left_of_it(memory: Memory) -> None:
    remember(memory, a="one")
    began = memory.head().version
    remember(memory, b="two")
    memory.snapshot("kept")
    remember(memory, c="three")
    last = memory.head().version
    remember(memory, a="four")
    prune_version(memory, began)
    prune_version(memory, last)
    first, second = memory.past.history("a")
    assert first.version == memory.state("kept").head.version
    assert memory.past.text("a", first) == "one"
    assert memory.past.text("a", second) == "four"


def test_a_revision_whose_versions_were_pruned_says_so(memory: Memory) -> None:
    remember(memory, a="one")
    pruned = memory.head().version
    remember(memory, a="two")
    prune_version(memory, pruned)
    first, second = memory.past.history("a")
    assert (first.version, second.version) == (None, memory.head().version)
    with pytest.raises(NotFound, match="revision 1 of /docs/a: its text is gone"):
        memory.past.diff("a", "1")
    with pytest.raises(NotFound, match=f"version {pruned} never served or is pruned"):
        memory.search("one", 1, when=str(pruned))


def test_a_time_means_the_newest_state_before_it_that_is_left(memory: Memory, clock: Clock) -> None:
    remember(memory, a="one")
    kept = memory.head()
    remember(memory, a="two")
    pruned, then = memory.head().version, clock.now
    remember(memory, a="three")
    assert memory.state(then.isoformat()).head.version == pruned
    prune_version(memory, pruned)
    assert memory.state(then.isoformat()).head == kept
    assert texts(memory, then.isoformat()) == {"a": ["one"]}
    for version in memory.vectors.versions(memory.generation) - {memory.head().version}:
        prune_version(memory, version)
    with pytest.raises(NotFound, match="nothing is kept"):
        memory.state(then.isoformat())
    assert memory.state(clock.now.isoformat()).head == memory.head()
    with pytest.raises(NotFound, match="neither a version nor a time"):
        memory.state("99999999999 weeks ago")


# --- differences -----------------------------------------------------------------------------------------------


def documents(found: Difference) -> dict[str, list[Any]]:
    """group -> paths, or pairs of them, of the groups that are not empty."""
    named = {
        "added": [one.path for one in found.added],
        "removed": [one.path for one in found.removed],
        **{
            group: [(before.path, after.path) for before, after in getattr(found, group)]
            for group in ("changed", "moved", "relabelled")
        },
    }
    return {group: paths for group, paths in named.items() if paths}


def test_states_differ_in_documents_by_kind(memory: Memory) -> None:
    remember(memory, same="same", edited="old", gone="gone", moved="moved", tagged="tagged", both="old both")
    memory.snapshot("before")
    elsewhere = Rehome("moved", "moved", place("to/moved"), Stat(1, 1, 1), "hash of moved", Labels("domain", ("tag",)))
    tagged = Rehome("tagged", "tagged", place("tagged"), Stat(1, 1, 1), "hash of tagged", Labels("other"))
    both = replace(upsert(memory, "both", "new both"), place=place("to/both"))
    edits = (both, upsert(memory, "edited", "new"), upsert(memory, "fresh", "fresh"))
    memory.commit(Batch(upserts=edits, rehomed=(elsewhere, tagged), removed=("gone",)))
    found = memory.past.difference(memory.state("before"), memory.state())
    assert documents(found) == {
        "added": ["/docs/fresh"],
        "removed": ["/docs/gone"],
        "changed": [("/docs/edited", "/docs/edited"), ("/docs/both", "/docs/to/both")],
        "moved": [("/docs/moved", "/docs/to/moved")],
        "relabelled": [("/docs/tagged", "/docs/tagged")],
    }
    back = memory.past.difference(memory.state(), memory.state("before"))
    assert ([one.path for one in back.added], [one.path for one in back.removed]) == (["/docs/gone"], ["/docs/fresh"])
    nothing = memory.past.difference(memory.state(), memory.state())
    assert documents(nothing) == {}


def test_states_differ_in_settings(memory: Memory, open_memory: Callable[..., Memory]) -> None:
    def again(**changed: Any) -> Memory:
        memory.close()
        opened = Memory(
            memory.state_dir,
            HashingEmbedder(),
            write=True,
            generation=GENERATION,
            settings={"retrieval": {"k": 5}, "sources": [{"name": "docs", "tags": []}], **changed},
            clock=memory.clock,
        )
        remember(opened, a="alpha " + str(changed))
        return opened

    one = again()
    one.snapshot("first")
    plain = one.clock()
    one.close()
    two = again(retrieval={"k": 7}, sources=[{"name": "docs", "tags": ["v2"]}, {"name": "more", "tags": []}])
    try:
        expected = {
            "retrieval.k": (5, 7),
            "sources.docs.tags": ([], ["v2"]),
            "sources.more.name": (None, "more"),
            "sources.more.tags": (None, []),
        }
        for when in ("first", plain.isoformat()):
            assert two.past.difference(two.state(when), two.state()).settings == expected, when
        # a snapshot's settings are those it was taken under, not those of the next start from the same state
        assert two.past.difference(two.state("first"), two.state("first")).settings == {}
    finally:
        two.close()


def test_settings_without_names_are_compared_as_they_are() -> None:
    assert settings_difference({"a": [1, 2], "b": {}}, {"a": [1], "c": None}) == {"a": ([1, 2], [1])}


def test_results_move_by_document_and_text(memory: Memory) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "a", "alpha", "beta gamma"), upsert(memory, "b", "alpha beta"))))
    memory.snapshot("before")
    # beside an edited chunk, an unchanged one is the same result although its chunk id is another
    memory.commit(Batch(upserts=(upsert(memory, "a", "alpha", "delta"), upsert(memory, "c", "alpha beta gamma"))))
    before, after = (memory.search("alpha beta gamma", 3, when=when).hits for when in ("before", None))
    found = [((one.second or one.first).text, one.rank) for one in movements(before, after)]  # type: ignore[union-attr]
    assert found[0] == ("alpha beta gamma", (None, 1))
    assert dict(found)["alpha"] == (3, 3)
    assert dict(found)["alpha beta"][1] == 2
    assert dict(found)["beta gamma"][1] is None
    assert len(found) == 4
    memory.commit(Batch(upserts=(upsert(memory, "b", "twice", "twice"),)))
    twice = memory.search("twice", 2).hits
    assert [one.rank for one in movements(twice, twice[:1])] == [(1, 1), (2, None)]


# --- what a rollback would do ----------------------------------------------------------------------------------


def test_a_plan_says_what_the_rollback_then_does_and_changes_nothing(memory: Memory) -> None:
    remember(memory, edited="old", gone="gone", moved="moved", same="same")
    memory.snapshot("good")
    moved = Rehome("moved", "moved", place("to/moved"), Stat(1, 1, 1), "hash of moved", Labels("domain", ("tag",)))
    edits = (upsert(memory, "edited", "poison"), upsert(memory, "fresh", "more poison"))
    memory.commit(Batch(upserts=edits, rehomed=(moved,), removed=("gone",)))
    before, versions = dump(memory), memory.vectors.versions(memory.generation)
    planned = memory.plan_rollback("good")
    assert (dump(memory), memory.vectors.versions(memory.generation)) == (before, versions)
    start = memory.state()
    done = memory.roll_back("good")
    assert documents(memory.past.difference(start, memory.state())) == documents(planned.difference)
    assert documents(planned.difference) == {
        "removed": ["/docs/fresh"],
        "added": ["/docs/gone"],
        "changed": [("/docs/edited", "/docs/edited")],
        "moved": [("/docs/to/moved", "/docs/moved")],
    }
    held = {(one.path, one.content, one.reason) for one in memory.holds()}
    assert held == {(one.path, one.content, one.reason) for one in planned.held}
    assert held == {
        ("/docs/edited", "hash of poison", "taken out by the rollback to good"),
        ("/docs/fresh", "hash of more poison", "taken out by the rollback to good"),
        ("/docs/gone", None, "without its file since the rollback to good"),
    }
    back = memory.plan_rollback(done.safety)
    assert sorted(back.freed) == ["/docs/edited", "/docs/fresh", "/docs/gone"]
    assert back.held == ()
    memory.roll_back(done.safety)
    assert memory.holds() == []


def test_a_plan_names_the_half_that_changes(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    with memory.database.write() as session:
        heads.move_head(session, replace(memory.head(), at=memory.clock(), adapter=3, reason="promoted"))
    remember(memory, a="beta")
    whole, index, model = (memory.plan_rollback("good", only) for only in (None, "index", "model"))
    assert [len(one.difference.changed) for one in (whole, index, model)] == [1, 1, 0]
    assert [one.difference.adapter for one in (whole, index, model)] == [(3, None), (3, 3), (3, None)]
    assert [len(one.held) for one in (whole, index, model)] == [1, 1, 0]


def test_a_plan_is_refused_where_the_rollback_would_be(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, a="beta")
    prune_version(memory, memory.state("good").head.version)
    for attempt in (memory.plan_rollback, memory.roll_back):
        with pytest.raises(Corrupt, match="cannot be read"):
            attempt("good")
    with pytest.raises(NotFound, match="no snapshot 'nope'"):
        memory.plan_rollback("nope")


# --- letting go ------------------------------------------------------------------------------------------------


def named(memory: Memory) -> list[str]:
    return [one.name for one in memory.snapshots()]


def hourly(memory: Memory, clock: Clock, count: int) -> list[str]:
    names = []
    for number in range(count):
        remember(memory, a=f"text {number}")
        names.append(memory.snapshot(f"h{number}").name)
        clock.now += timedelta(hours=1)
    return names


def tags_are_snapshots(memory: Memory) -> bool:
    return memory.vectors.tags(memory.generation) == {one.name: one.head.version for one in memory.snapshots()}


def test_pruning_removes_rows_and_tags_and_what_stays_answers_as_before(memory: Memory, clock: Clock) -> None:
    names = hourly(memory, clock, 8)
    memory.pin_snapshot("h2", True)
    before = dump(memory)
    planned = memory.past.judged(Policy(last=3))
    assert dump(memory) == before
    found = memory.search("text 2", 1, when="h2")
    done = memory.prune_snapshots(Policy(last=3))
    assert (done.kept, done.removed) == (planned.kept, planned.removed)
    assert named(memory) == ["h2", *names[-3:]]
    assert tags_are_snapshots(memory)
    assert memory.search("text 2", 1, when="h2") == found
    memory.pin_snapshot("h2", False)
    memory.prune_snapshots(Policy(last=3))
    assert named(memory) == names[-3:]
    with pytest.raises(UsageError, match="keep_"):
        memory.prune_snapshots(Policy())
    assert named(memory) == names[-3:]


def test_the_last_rollback_can_be_undone_after_pruning(memory: Memory, clock: Clock) -> None:
    hourly(memory, clock, 3)
    first = memory.roll_back("h0").safety
    last = memory.roll_back("h1").safety
    hourly_after = [memory.snapshot(f"later{number}").name for number in range(3)]
    memory.prune_snapshots(Policy(last=1))
    assert first not in named(memory)
    assert named(memory) == [last, hourly_after[-1]]
    memory.roll_back(last)
    assert texts(memory) == {"a": ["text 0"]}


def test_a_clock_that_jumps_takes_no_new_snapshot_away(memory: Memory, clock: Clock) -> None:
    hourly(memory, clock, 2)
    right, clock.now = clock.now, datetime(2099, 1, 1, tzinfo=UTC)
    remember(memory, a="in the future")
    memory.snapshot("future")
    clock.now = right - timedelta(days=30)
    remember(memory, a="back again")
    memory.snapshot("newest")
    memory.prune_snapshots(Policy(last=1))
    assert named(memory) == ["newest"]
    assert texts(memory, "newest") == {"a": ["back again"]}


def test_pruning_cut_off_between_row_and_tag_is_mended(
    memory: Memory, open_memory: Callable[..., Memory], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    hourly(memory, clock, 5)
    untag, calls = memory.vectors.untag, []

    def die(generation: str, name: str) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise Killed
        untag(generation, name)

    monkeypatch.setattr(memory.vectors, "untag", die)
    with pytest.raises(Killed):
        memory.prune_snapshots(Policy(last=1))
    assert named(memory) == ["h4"]
    assert len(memory.vectors.tags(memory.generation)) == 4
    memory.close()
    again = open_memory()
    assert named(again) == ["h4"]
    assert tags_are_snapshots(again)


def test_what_a_rollback_under_way_needs_is_not_let_go(memory: Memory, clock: Clock) -> None:
    hourly(memory, clock, 4)
    with memory.database.write() as session:
        history.write_intent(session, history.Intent("h0", None, "h1"))
    memory.prune_snapshots(Policy(last=1))
    assert named(memory) == ["h0", "h1", "h3"]
    for name in ("h0", "h1"):
        with pytest.raises(UsageError, match="rollback that is not complete"):
            memory.delete_snapshot(name)
    with pytest.raises(NotFound, match="no snapshot 'h2'"):
        memory.pin_snapshot("h2", True)
