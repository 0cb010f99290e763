"""Commits, states and recovery, on real Lance and SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from store.catalogue import forgetting
from store.catalogue.database import CATALOGUE, SCHEMA, Database
from store.errors import ConfigError, Corrupt, Locked, NotFound, UsageError
from store.memory import Memory
from store.types import GENERATOR, Batch, Ended, Failed, Filters, Labels, Rehome, Seen, Stat
from tests.store.conftest import Clock, place, remember, texts, upsert


def test_a_commit_replaces_a_document_wholly(memory: Memory) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "a", "one", "two", "three"),)))
    memory.commit(Batch(upserts=(upsert(memory, "a", "four"),)))
    assert texts(memory) == {"a": ["four"]}
    assert memory.counts() == (1, 1)


def test_a_chunk_carries_what_the_design_lists(memory: Memory) -> None:
    remember(memory, a="alpha")
    (hit,) = memory.search("alpha", 5).hits
    assert (hit.document_id, hit.source, hit.path, hit.position) == ("a", "docs", "/docs/a", 0)
    assert (hit.domain, hit.tags) == ("domain", ("tag",))
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    assert hit.ingested_at.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert hit.embedded_at <= hit.ingested_at


def test_nothing_is_embedded_twice(memory: Memory) -> None:
    remember(memory, a="alpha", b="beta")
    before = memory.embedder.embedded
    remember(memory, a="beta", b="alpha", c="alpha")
    assert memory.embedder.embedded == before


def test_a_move_keeps_id_text_and_vector(memory: Memory) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "a", "one", "two"),)))
    before, embedded = memory.vectors.vectors(memory.generation, memory.head().version), memory.embedder.embedded
    move = Rehome("a", "a", place("elsewhere"), Stat(6, 9, 1), "hash of one|two", Labels("other"))
    copy = Rehome("b", "a", place("copy"), Stat(6, 9, 2), "hash of one|two", Labels("domain", ("tag",)))
    memory.commit(Batch(rehomed=(move, copy)))
    assert texts(memory) == {"a": ["one", "two"], "b": ["one", "two"]}
    assert {hit.path for hit in memory.chunks(["a"])} == {"/docs/elsewhere"}
    assert {hit.domain for hit in memory.chunks(["a"])} == {"other"}
    assert memory.embedder.embedded == embedded
    after = memory.vectors.vectors(memory.generation, memory.head().version)
    assert all(np.array_equal(after[one], before[one]) for one in before)
    assert memory.counts() == (2, 4)
    revisions = [served.revision for served in memory.past.history("a")]
    assert [(one.path, one.chunks) for one in revisions] == [("/docs/a", 2), ("/docs/elsewhere", 2)]


def test_filters_narrow_the_search(memory: Memory) -> None:
    remember(memory, a="alpha", b="alpha too")
    assert not memory.search("alpha", 5, filters=Filters(domain="no such")).hits
    assert not memory.search("alpha", 5, filters=Filters(tag="it's")).hits
    assert len(memory.search("alpha", 5, filters=Filters("docs", "domain", "tag")).hits) == 2


def test_failures_pause_longer_each_time_and_heal(memory: Memory) -> None:
    failed = Failed("a", place("a"), Stat(1, 1, 1), "bad", "broken")
    pauses = []
    for _ in range(3):
        memory.commit(Batch(failed=(failed,)))
        (known,) = memory.known()
        assert known.next_try_at is not None
        pauses.append(known.next_try_at - memory.documents()[0].last_failed_at)  # type: ignore[operator]
    assert pauses[0] < pauses[1] < pauses[2]
    (listed,) = memory.documents()
    assert (listed.state, listed.error, listed.tries) == ("failed", "broken", 3)
    remember(memory, a="alpha")
    assert memory.documents()[0].state == "live"


def test_a_failing_edit_leaves_the_old_revision_serving(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.commit(Batch(failed=(Failed("a", place("a"), Stat(2, 2, 1), "bad", "broken"),)))
    assert texts(memory) == {"a": ["alpha"]}
    assert (memory.documents()[0].state, memory.documents()[0].chunks) == ("failed", 1)


def test_the_past_answers_by_name_version_and_time(memory: Memory, clock: Clock) -> None:
    remember(memory, a="alpha")
    version, then = memory.head().version, clock.now
    memory.snapshot("first")
    remember(memory, a="beta")
    for when in ("first", str(version), then.isoformat()):
        assert texts(memory, when) == {"a": ["alpha"]}, when
    assert memory.search("alpha", 1, when="first").state.snapshot == "first"
    with pytest.raises(NotFound, match="no snapshot 'nope'"):
        memory.state("nope")
    with pytest.raises(NotFound, match="memory begins after"):
        memory.state("2020-01-01")
    with pytest.raises(NotFound, match="version 999"):
        memory.state("999")


@pytest.mark.parametrize("name", ["", " ", "../up", "a/b", "2026-01-01", "12", "x" * 101])
def test_a_bad_snapshot_name_is_refused(memory: Memory, name: str) -> None:
    if name == "":
        assert memory.snapshot(name).name  # no name: one is made from the time
        return
    with pytest.raises(UsageError):
        memory.snapshot(name)


def test_a_snapshot_name_is_given_once(memory: Memory) -> None:
    memory.snapshot("one")
    with pytest.raises(UsageError, match="there already"):
        memory.snapshot("one")
    memory.delete_snapshot("one")
    assert memory.vectors.tags(memory.generation) == {}
    memory.snapshot("one")


def test_rollback_and_back_again(memory: Memory) -> None:
    remember(memory, a="alpha", b="beta")
    memory.snapshot("good")
    vectors_then = memory.vectors.vectors(memory.generation, memory.head().version)
    remember(memory, a="poison", c="gamma")
    memory.commit(Batch(removed=("b",)))
    done = memory.roll_back("good")
    assert texts(memory) == {"a": ["alpha"], "b": ["beta"]}
    assert {hold.document_id: hold.content for hold in memory.holds()} == {
        "a": "hash of poison",
        "b": None,
        "c": "hash of gamma",
    }
    after = memory.vectors.vectors(memory.generation, memory.head().version)
    assert after.keys() == vectors_then.keys()
    assert all(np.array_equal(after[one], vectors_then[one]) for one in after)
    memory.roll_back(done.safety)
    assert texts(memory) == {"a": ["poison"], "c": ["gamma"]}
    assert memory.holds() == []


def test_rollback_of_one_half(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, a="beta")
    memory.roll_back("good", only="model")
    assert texts(memory) == {"a": ["beta"]}
    memory.roll_back("good", only="index")
    assert texts(memory) == {"a": ["alpha"]}
    with pytest.raises(UsageError, match="--only"):
        memory.roll_back("good", only="half")
    with pytest.raises(NotFound, match="no snapshot 'nope'"):
        memory.roll_back("nope")


def test_a_rollback_never_leads_to_an_adapter_that_is_missing(memory: Memory) -> None:
    remember(memory, a="alpha")
    _promote(memory, 1)
    memory.snapshot("with-adapter")
    (memory.adapter_folder(1) / "card.json").unlink()
    before = memory.head()
    with pytest.raises(Corrupt, match="adapter 1 is missing"):
        memory.roll_back("with-adapter")
    assert memory.head() == before


def test_promotion_moves_the_head_and_can_be_rolled_back_alone(memory: Memory) -> None:
    remember(memory, a="alpha")
    _promote(memory, 1)
    assert memory.head().adapter == 1
    remember(memory, b="beta")
    memory.roll_back("before-adapter-0001", only="model")
    assert memory.head().adapter is None
    assert set(texts(memory)) == {"a", "b"}


def test_a_promotion_counts_until_somebody_chooses_a_model_again(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.snapshot("bare")
    start = memory.clock()
    assert memory.past.promotion(start) is None
    _promote(memory, 1)
    _promote(memory, 2)
    promoted = memory.head()
    remember(memory, b="beta")
    memory.roll_back("bare", only="index")
    found = memory.past.promotion(start)
    assert found is not None
    assert (found.head, found.before.name, found.before.head.adapter) == (promoted, "before-adapter-0002", 1)
    assert memory.past.promotion(memory.clock()) is None, "it was before"
    memory.roll_back("adapter-0002")
    assert memory.head().adapter == 2
    assert memory.past.promotion(start) is None


def test_a_promotion_that_cannot_be_undone_counts_no_more(memory: Memory) -> None:
    start = memory.clock()
    _promote(memory, 1)
    assert memory.past.promotion(start) is not None
    memory.delete_snapshot("before-adapter-0001")
    assert memory.past.promotion(start) is None


def test_why_an_adapter_was_rolled_back_is_kept_even_if_it_was_cut_off(
    memory: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    _promote(memory, 1)
    _promote(memory, 2)
    monkeypatch.setattr("store.snapshots.history.reconcile", die)
    with pytest.raises(Killed):
        memory.roll_back("before-adapter-0002", "model", "too slow")
    monkeypatch.undo()
    memory.close()
    again = open_memory()
    assert (again.head().adapter, again.head().reason) == (1, "rollback to before-adapter-0002 (model only): too slow")
    assert [one.reason for one in again.journal.runs()] == ["test; too slow", "test"]
    with again.database.read() as session:
        assert forgetting.newest_promoted(session, GENERATOR) == 1, (
            "what was rolled back so does not come back by forgetting"
        )


def test_an_edit_ends_a_hold_and_a_touch_does_not(memory: Memory) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, a="poison")
    memory.roll_back("good")
    memory.commit(Batch(seen=(Seen("a", place("a"), Stat(6, 99, 1), "hash of poison"),)))
    assert [hold.content for hold in memory.holds()] == ["hash of poison"]
    remember(memory, a="cured")
    assert memory.holds() == []
    assert texts(memory) == {"a": ["cured"]}


def test_one_writer(memory: Memory, open_memory: Callable[..., Memory]) -> None:
    with pytest.raises(Locked, match="another memex writes"):
        open_memory()
    assert open_memory(write=False).head() == memory.head()


def test_other_settings_are_another_generation(memory: Memory, open_memory: Callable[..., Memory]) -> None:
    memory.close()
    with pytest.raises(ConfigError, match="chunker: 1, now 2"):
        open_memory(chunker=2)


def test_reading_where_nothing_is(open_memory: Callable[..., Memory]) -> None:
    with pytest.raises(NotFound, match="no memory in"):
        open_memory(write=False)


def test_an_unfinished_write_is_put_aside(memory: Memory, open_memory: Callable[..., Memory]) -> None:
    remember(memory, a="alpha")
    head = memory.head()
    memory.vectors.write(  # what a kill leaves between Lance's commit and the head's move
        head.generation,
        base=head.version,
        upserts=[upsert(memory, "b", "never acknowledged")],
        rehomed=[],
        removed=["a"],
        ingested_at=memory.clock(),
    )
    assert texts(memory) == {"a": ["alpha"]}
    memory.close()
    again = open_memory()
    assert texts(again) == {"a": ["alpha"]}
    assert again.vectors.latest(again.generation) == again.head().version
    remember(again, b="beta")
    assert texts(again) == {"a": ["alpha"], "b": ["beta"]}


def test_a_rollback_cut_off_is_completed(
    memory: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, a="poison", b="beta")

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr("store.snapshots.history.reconcile", die)
    with pytest.raises(Killed):
        memory.roll_back("good")
    monkeypatch.undo()
    memory.close()
    again = open_memory()
    assert texts(again) == {"a": ["alpha"]}
    assert {hold.document_id for hold in again.holds()} == {"a", "b"}
    again.close()
    assert texts(open_memory()) == {"a": ["alpha"]}


def test_a_rollback_that_failed_is_not_made_up_for_by_a_later_start(
    memory: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(memory, a="alpha")
    memory.snapshot("good")
    remember(memory, b="beta")

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    def fail(memory: Memory) -> None:
        monkeypatch.setattr("store.snapshots.history.reconcile", full)
        monkeypatch.setattr("store.snapshots.history.clear_intent", full)
        with pytest.raises(OSError, match="disk full"):
            memory.roll_back("good")
        monkeypatch.undo()

    fail(memory)
    remember(memory, c="gamma")
    memory.close()
    again = open_memory()
    assert texts(again).keys() == {"a", "b", "c"}
    fail(again)
    again.roll_back("good")
    assert texts(again).keys() == {"a"}


def test_a_head_that_is_gone_from_the_disk_stops_the_start(
    memory: Memory, open_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    remember(memory, a="alpha")
    memory.close()
    manifests = sorted((tmp_path / "state" / "generations").glob("*.lance/_versions/*.manifest"))
    for manifest in manifests:
        manifest.unlink()
    with pytest.raises(Corrupt):
        open_memory()


def test_a_catalogue_that_is_no_catalogue(tmp_path: Path, open_memory: Callable[..., Memory]) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "catalogue.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt, match=r"catalogue\.sqlite"):
        open_memory()


def _promote(memory: Memory, number: int) -> None:
    from store.catalogue import learning

    folder = memory.adapter_folder(number)
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    with memory.database.write() as session:
        run = learning.begin_run(session, at=memory.clock(), trigger="test", move=1, incumbent=None)
        assert learning.add_adapter(session, run=run, at=memory.clock(), base="base", sha256="0", start=None) == number
    memory.promote(number, Ended(run, "promote", "test", number))


def test_a_memory_of_another_schema_is_refused_and_left_as_it_is(memory: Memory) -> None:
    path = memory.state_dir / CATALOGUE
    memory.close()
    with closing(sqlite3.connect(path)) as catalogue:
        catalogue.execute("DROP TABLE evaluations")
        catalogue.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        catalogue.commit()
    with pytest.raises(Corrupt, match=f"catalogue schema {SCHEMA + 1}.*use the memex that wrote it"):
        Database(path, create=True)
    with closing(sqlite3.connect(path)) as catalogue:
        left = {name for (name,) in catalogue.execute("SELECT name FROM sqlite_master")}
    assert "evaluations" not in left
    assert "documents" in left
