"""What is forgotten is nowhere: not in a state, not in a cache, not in a byte of the state directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from store.memory import Memory
from store.types import Batch, Ended, Example, Passage, Retrieval, Seen
from tests.store.conftest import place, remember, texts, upsert

SECRET = "zqxjkvbn"  # a word of no language


def bytes_of(state_dir: Path, word: str) -> list[str]:
    """The files below the state directory that hold the word, in whatever case."""
    return [
        str(path.relative_to(state_dir))
        for path in state_dir.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes().lower()
    ]


@pytest.fixture
def told(memory: Memory) -> Memory:
    """A memory that was told the secret, and did all with it that can be done."""
    remember(memory, other="nothing to see here")
    memory.commit(Batch(upserts=(upsert(memory, "secret", f"the first word is {SECRET}", content="hash 1"),)))
    memory.snapshot("early")
    memory.commit(Batch(upserts=(upsert(memory, "secret", f"the second word is {SECRET} too", content="hash 2"),)))
    remember(memory, third="something else")
    for number in range(20):
        remember(memory, third=f"something else, number {number}")
    memory.snapshot("late")
    hits = memory.search(f"what is {SECRET}", 3).hits
    found = tuple({"document_id": hit.document_id, "chunk_id": hit.chunk_id} for hit in hits)
    for one in (
        Retrieval("r1", memory.clock(), f"what is {SECRET}", "base", 1, found, f"it is {SECRET}"),
        Retrieval("r2", memory.clock(), "harmless", "base", 1, ({"document_id": "other"},), "yes"),
    ):
        assert memory.journal.record(memory.head(), one)
    for document_id, word, run in (("secret", SECRET, 1), ("other", "nothing", 2)):
        memory.journal.begin_run(trigger="test", move=1, incumbent=None)
        passages = (Passage("c", document_id, f"the word is {word}"),)
        example = Example(f"e{run}", "cloze", "which word?", passages, word, (word,), 0, document_id, run, "train")
        memory.journal.add_examples(run, [example])
        folder = memory.state_dir / "refresh" / f"{run:04d}"
        folder.mkdir(parents=True)
        (folder / "examples.jsonl").write_text(f'{{"target": "{word}"}}')
    control = memory.state_dir / "refresh" / "0009"  # that a kill ended: no example of it is in the catalogue
    control.mkdir()
    (control / "examples.jsonl").write_text(SECRET)
    (memory.state_dir / "refresh" / "answers.jsonl").write_text(f'{{"text": "{SECRET}"}}')
    for run in (2, 1):
        number = memory.journal.add_adapter(run, base="base", sha256="0")
        memory.adapter_folder(number).mkdir(parents=True)
        (memory.adapter_folder(number) / "card.json").write_text(f'{{"run": {run}}}')
        memory.promote(number, Ended(run, "promote", "better", number))
    memory.snapshot("learned")
    return memory


def test_not_a_byte_is_left(told: Memory) -> None:
    assert bytes_of(told.state_dir, SECRET)
    before = {name: texts(told, name) for name in ("early", "late", "learned")}
    scores = {hit.chunk_id: hit.score for hit in told.search("nothing to see", 9, when="late").hits}
    done = told.forget(["secret"])
    assert bytes_of(told.state_dir, SECRET) == []
    assert (done.retrievals, done.examples) == (1, 1)
    # the rest of every state is as it was
    for name, had in before.items():
        assert texts(told, name) == {one: text for one, text in had.items() if one != "secret"}
        counted = next(one for one in told.snapshots() if one.name == name)
        assert (counted.documents, counted.chunks) == (len(texts(told, name)), len(texts(told, name)))
    left = {hit.chunk_id: hit.score for hit in told.search("nothing to see", 9, when="late").hits}
    assert left.items() <= scores.items()
    assert len(left) == len(scores) - 1
    assert told.journal.retrieval("r2").answer == "yes"
    assert [one.document_id for one in told.journal.examples()] == ["other"]


def test_what_went_on_from_a_retired_adapter_is_retired_too(told: Memory) -> None:
    told.journal.begin_run(trigger="test", move=1, incumbent=2)
    later = told.journal.add_adapter(3, base="base", sha256="1", start=2)
    told.promote(later, Ended(3, "promote", "better", later))
    other = told.journal.add_adapter(3, base="base", sha256="2", start=1)
    done = told.forget(["secret"])
    assert (done.adapters, done.serving) == ((2, later), 1)
    assert other in told.journal.adapters()


def test_what_is_retired_already_is_not_told_again(told: Memory) -> None:
    told.journal.begin_run(trigger="test", move=1, incumbent=2)
    tried = told.journal.add_adapter(3, base="base", sha256="1", start=2)
    assert told.journal.retire_candidates(before=3) == [], "what serves or served stays"
    assert told.journal.retire_candidates(before=4) == told.journal.retire_candidates(before=4) == [tried]
    assert (told.forget(["secret"]).adapters, told.journal.adapters()) == ((2,), [1])


def test_adapters_that_learned_from_it_are_retired(told: Memory) -> None:
    assert told.head().adapter == 2
    done = told.forget(["secret"])
    assert (done.adapters, done.serving) == ((2,), 1)
    assert told.head().adapter == 1
    assert {one.head.adapter for one in told.snapshots()} <= {None, 1}
    assert not told.adapter_folder(2).exists()
    assert not (told.state_dir / "refresh" / "0001").exists()
    assert (told.state_dir / "refresh" / "0002").exists()
    told.roll_back("learned")
    assert told.head().adapter == 1


def test_a_file_that_still_lies_there_stays_out(told: Memory) -> None:
    known = {one.document_id: one for one in told.known()}["secret"]
    told.forget(["secret"])
    (held,) = told.holds()
    assert (held.document_id, held.content, held.reason) == ("secret", known.content, "forgotten")
    assert known.content is not None
    told.commit(Batch(seen=(Seen("secret", place("secret"), known.stat, known.content),)))
    assert "secret" not in texts(told)
    told.commit(Batch(upserts=(upsert(told, "secret", "harmless now"),)))
    assert texts(told)["secret"] == ["harmless now"]
    assert told.holds() == []


def test_a_document_that_is_gone_from_disk_leaves_no_name(told: Memory) -> None:
    told.commit(Batch(removed=("secret",)))
    told.forget(["secret"])
    assert told.holds() == []
    assert "secret" not in {one.document_id for one in told.known()}
    assert bytes_of(told.state_dir, SECRET) == bytes_of(told.state_dir, "/docs/secret") == []


def test_memory_goes_on(told: Memory) -> None:
    told.forget(["secret"])
    remember(told, fourth="one more")
    told.maintain()
    told.roll_back("early")
    assert texts(told) == {"other": ["nothing to see here"]}
    assert told.forget(["other"]).snapshots > 0
    assert texts(told) == texts(told, "early") == {}


@pytest.mark.parametrize(
    "step",
    [
        "store.forgetting._forget_vectors",
        "store.forgetting.sync_filesystem",
        "store.forgetting.forgetting.drop_retrievals",
        "store.forgetting.heads.move_head",
        "store.vectors.Generations.prune",
        "store.catalogue.database.Database.checkpoint",
        "store.forgetting.forgetting.end",
    ],
)
def test_a_kill_at_any_step_is_completed_by_the_next_start(
    told: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(step, killed)
    with pytest.raises(KeyboardInterrupt):
        told.forget(["secret"])
    monkeypatch.undo()
    told.close()
    again = open_memory()
    assert bytes_of(again.state_dir, SECRET) == []
    assert texts(again, "early") == {"other": ["nothing to see here"]}
    assert (again.head().adapter, again.adapter_folder(2).exists()) == (1, False)
    assert [hold.reason for hold in again.holds()] == ["forgotten"]


def test_a_kill_leaves_no_snapshot_on_a_version_of_before(
    told: Memory, open_memory: Callable[..., Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that only a tag holds would keep the bytes of what is forgotten next."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("store.forgetting.forgetting.drop_retrievals", killed)
    with pytest.raises(KeyboardInterrupt):
        told.forget(["third"])
    monkeypatch.undo()
    told.close()
    again = open_memory()
    tags = again.vectors.tags(again.generation)
    assert tags == {one.name: one.head.version for one in again.snapshots()}
    again.forget(["secret"])
    assert bytes_of(again.state_dir, SECRET) == []


def test_a_snapshot_that_failed_keeps_nothing(told: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    remember(told, third="a state that nothing names")
    monkeypatch.setattr("store.snapshots.history.add_snapshot", full)
    with pytest.raises(OSError, match="disk full"):
        told.snapshot("failed")
    monkeypatch.undo()
    remember(told, third="yet another")
    told.forget(["secret"])
    assert bytes_of(told.state_dir, SECRET) == []


def test_deleted_rows_that_no_index_knows(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that went before their fragment was indexed are still in its file."""
    monkeypatch.setattr("store.vectors.upkeep.UNINDEXED_ROWS", 1)
    words = [f"harmless number {number}" for number in range(4)]
    batch = (upsert(memory, "other", *words), upsert(memory, "secret", f"the word is {SECRET}", content="hash 1"))
    memory.commit(Batch(upserts=batch))
    memory.commit(Batch(upserts=(upsert(memory, "secret", "no word", content="hash 2"),)))
    memory.maintain()
    assert bytes_of(memory.state_dir, SECRET)
    memory.forget(["secret"])
    assert bytes_of(memory.state_dir, SECRET) == []
    assert texts(memory) == {"other": words}
