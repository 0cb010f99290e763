"""The store against a plain model of it: whatever is done in whatever order, the invariants of the design hold.

1: search at head returns exactly the live revisions. 4: a snapshot never changes. 5: after a rollback the head equals
the snapshot, vector for vector. 6: what a rollback took out is on hold. 3: a kill between the write of the vectors and
the move of the head leaves the state before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store.embedding import HashingEmbedder
from store.memory import Memory
from store.retention import Policy
from store.types import Batch, Chunk, Labels, Place, Rehome, Seen, Stat, Upsert
from tests.store.conftest import Clock

QUERY = "alpha beta gamma"
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
IDS = ("d1", "d2", "d3", "d4", "d5")

ids = st.sampled_from(IDS)
texts = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), max_size=3
).map(tuple)  # fmt: skip


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


@dataclass(frozen=True)
class Live:
    """A document as the model remembers it."""

    path: str
    texts: tuple[str, ...]
    labels: Labels

    @property
    def content(self) -> str:
        return "hash of " + "|".join(self.texts)


@dataclass(frozen=True)
class Past:
    """A snapshot as the model remembers it, and what the store said of it when it was made."""

    live: dict[str, Live]
    adapter: int | None
    vectors: dict[str, bytes]
    hits: list[tuple[str, float]]


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # Thousands of commits, and what they sync is not what is tested here.
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.clock = Clock()
        self.live: dict[str, Live] = {}
        self.disk: dict[str, str | None] = {}  # document id -> content of its file, None once that is gone
        self.holds: dict[str, str | None] = {}
        self.snapshots: dict[str, Past] = {}
        self.adapter: int | None = None
        self.steps = 0
        self.ever_embedded: set[str] = set()
        self.memory = self.open()

    def open(self) -> Memory:
        return Memory(self.folder / "state", HashingEmbedder(), write=True, generation={"parser": 1}, clock=self.clock)

    def teardown(self) -> None:
        self.memory.close()
        shutil.rmtree(self.folder)

    # --- what is done ------------------------------------------------------------------------------------------

    def stat(self) -> Stat:
        self.steps += 1
        return Stat(1, self.steps, 1)

    def place(self, name: str) -> Place:
        return Place("docs", name.encode(), f"/docs/{name}")

    def upsert(self, document_id: str, words: tuple[str, ...], labels: Labels | None = None) -> Upsert:
        before = self.memory.embedder.embedded
        vectors, computed = self.memory.embed(words)
        assert computed == len(set(words) - self.ever_embedded) == self.memory.embedder.embedded - before
        self.ever_embedded |= set(words)
        one = Live(f"/docs/{document_id}", words, labels or Labels("domain", ("tag",)))
        return Upsert(
            document_id=document_id,
            place=self.place(document_id),
            stat=self.stat(),
            content=one.content,
            labels=one.labels,
            chunks=tuple(Chunk(text, position) for position, text in enumerate(words)),
            vectors=vectors,
            embedded_at=self.clock(),
        )

    def has(self, document_id: str, live: Live) -> None:
        self.live[document_id], self.disk[document_id] = live, live.content
        self.holds.pop(document_id, None)

    def loses(self, document_id: str) -> None:
        self.live.pop(document_id, None)
        self.disk[document_id] = None
        if self.holds.get(document_id, "") is None:
            del self.holds[document_id]

    @rule(documents=st.dictionaries(ids, texts, min_size=1, max_size=4), removed=st.sets(ids, max_size=2))
    def edit_and_delete(self, documents: dict[str, tuple[str, ...]], removed: set[str]) -> None:
        self.commit(documents, removed)

    def commit(self, documents: dict[str, tuple[str, ...]], removed: set[str]) -> None:
        removed = {one for one in removed - documents.keys() if one in self.disk}
        upserts = tuple(self.upsert(one, words) for one, words in documents.items())
        self.memory.commit(Batch(upserts=upserts, removed=tuple(removed)))
        for one in upserts:
            self.has(one.document_id, Live(one.place.path, documents[one.document_id], one.labels))
        for document_id in removed:
            self.loses(document_id)

    @rule(document_id=ids, words=texts)
    def edit(self, document_id: str, words: tuple[str, ...]) -> None:
        self.commit({document_id: words}, set())

    @precondition(lambda self: self.live)
    @rule(data=st.data(), domain=st.sampled_from(["domain", "other"]), to=ids)
    def move_or_copy(self, data: st.DataObject, domain: str, to: str) -> None:
        """Moved when `to` is the origin itself; the new place is made up."""
        origin = data.draw(st.sampled_from(sorted(self.live)))
        place, labels = self.place(f"moved/{self.steps}"), Labels(domain)
        live = self.live[origin]
        self.memory.commit(Batch(rehomed=(Rehome(to, origin, place, self.stat(), live.content, labels),)))
        self.has(to, replace(live, path=place.path, labels=labels))

    @precondition(lambda self: len(self.live) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two documents take each other's content, in one batch."""
        one, other = data.draw(st.permutations(sorted(self.live)))[:2]
        places = {document_id: self.place(f"swapped/{document_id}") for document_id in (one, other)}
        lives = {one: self.live[other], other: self.live[one]}
        batch = tuple(
            Rehome(to, origin, places[to], self.stat(), lives[to].content, lives[to].labels)
            for to, origin in ((one, other), (other, one))
        )
        self.memory.commit(Batch(rehomed=batch))
        for to, live in lives.items():
            self.has(to, replace(live, path=places[to].path))

    @precondition(lambda self: any(self.disk.values()))
    @rule(data=st.data(), back=st.booleans())
    def see(self, data: st.DataObject, back: bool) -> None:
        if back:
            self.put_back()
        else:
            self.touch(data)

    def touch(self, data: st.DataObject) -> None:
        """Held or live, it is seen again as it was."""
        document_id = data.draw(st.sampled_from(sorted(one for one, content in self.disk.items() if content)))
        content = self.disk[document_id]
        assert content is not None
        head = self.memory.head()
        self.memory.commit(Batch(seen=(Seen(document_id, self.place(document_id), self.stat(), content),)))
        assert self.memory.head() == head

    def put_back(self) -> None:
        """The files of all documents that a rollback put back without one are there again."""
        back = [one for one, content in self.disk.items() if content is None and one in self.live]
        seen = tuple(Seen(one, self.place(one), self.stat(), self.live[one].content) for one in back)
        self.memory.commit(Batch(seen=seen))
        for one in back:
            self.disk[one] = self.live[one].content
            self.holds.pop(one, None)

    def promote(self) -> None:
        from store.catalogue import learning

        with self.memory.database.write() as session:
            run = learning.begin_run(session, at=self.clock(), trigger="test", move=1, incumbent=None)
            number = learning.add_adapter(session, run=run, at=self.clock(), base="base", sha256="0")
        folder = self.memory.adapter_folder(number)
        folder.mkdir(parents=True)
        (folder / "card.json").write_text("{}")
        before = self.adapter
        self.memory.promote(number)
        self.adapter = number
        self.snapshots[f"before-adapter-{number:04d}"] = replace(self.past(), adapter=before)
        self.snapshots[f"adapter-{number:04d}"] = self.past()

    @rule(data=st.data(), kind=st.sampled_from(["snapshot", "snapshot", "promote", "delete", "prune"]))
    def name(self, data: st.DataObject, kind: str) -> None:
        if kind == "promote":
            self.promote()
        elif kind == "prune":
            self.prune(data)
        elif kind == "delete" and self.snapshots:
            self.delete_snapshot(data)
        else:
            self.snapshot()

    def snapshot(self) -> None:
        self.snapshots[self.memory.snapshot(f"s{self.steps}-{len(self.snapshots)}").name] = self.past()
        self.steps += 1

    def delete_snapshot(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        self.memory.delete_snapshot(name)
        del self.snapshots[name]

    def prune(self, data: st.DataObject) -> None:
        """Killed with the rows gone and the tags still there, or not; the newest snapshot stays."""
        policy = Policy(last=data.draw(st.integers(1, 4)))
        newest = max(self.memory.snapshots(), key=lambda one: (one.head.move, one.created_at), default=None)
        removed = {one.name for one in self.memory.past.judged(policy).removed}
        if removed and data.draw(st.booleans()):
            self.kill("store.snapshots.sweep_tags", lambda: self.memory.prune_snapshots(policy))
        else:
            self.memory.prune_snapshots(policy)
        assert newest is None or newest.name not in removed
        self.snapshots = {name: past for name, past in self.snapshots.items() if name not in removed}

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def return_to_a_snapshot(self, data: st.DataObject) -> None:
        self.roll_back(data, None, False)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), only=st.sampled_from([None, "index", "model"]), cut=st.booleans())
    def return_in_part_or_interrupted(self, data: st.DataObject, only: str | None, cut: bool) -> None:
        self.roll_back(data, only, cut)

    def roll_back(self, data: st.DataObject, only: str | None, cut: bool) -> None:
        """Whole or one half; with `cut` killed before the catalogue takes it in, and completed by the next start."""
        name = data.draw(st.sampled_from(sorted(self.snapshots)))
        before, target = self.past(), self.snapshots[name]
        known = {one.name for one in self.memory.snapshots()}
        planned = self.memory.plan_rollback(name, only)
        if cut:
            self.kill("store.snapshots.history.reconcile", lambda: self.memory.roll_back(name, only))
        else:
            self.memory.roll_back(name, only)
        (safety,) = {one.name for one in self.memory.snapshots()} - known
        self.snapshots[safety] = before
        if only != "index":
            self.adapter = target.adapter
        assert planned.difference.adapter == (before.adapter, self.adapter)
        kept = {one.document_id: one.content for one in self.memory.holds()}
        assert {one.document_id: one.content for one in planned.held}.items() <= kept.items()
        assert not set(planned.freed) & {one.path for one in self.memory.holds()}
        if only == "model":
            return
        for document_id in self.live.keys() | target.live.keys():
            self.take_back(document_id, self.live.get(document_id), target.live.get(document_id))
        self.live = dict(target.live)
        assert self.past().vectors == target.vectors  # invariant 5
        assert self.past().hits == target.hits

    def take_back(self, document_id: str, now: Live | None, then: Live | None) -> None:
        if now == then:
            return
        file, held = self.disk[document_id], self.holds.get(document_id)
        undone = {now.content if now else None, held}
        wanted = then.content if then else None
        if file is None and wanted is not None:
            self.holds[document_id] = None if held == wanted else held
        elif file != wanted and file in undone:
            self.holds[document_id] = file
        else:
            self.holds.pop(document_id, None)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.holds)), min_size=1))
        self.memory.release(sorted(chosen))
        for document_id in chosen:
            del self.holds[document_id]

    @rule(kind=st.sampled_from(["reopen", "crash", "fail"]), document_id=ids, words=texts)
    def interrupt(self, kind: str, document_id: str, words: tuple[str, ...]) -> None:
        if kind == "reopen":
            self.reopen()
        else:
            (self.crash if kind == "crash" else self.fail)(document_id, words)

    def reopen(self) -> None:
        self.memory.close()
        self.memory = self.open()

    def crash(self, document_id: str, words: tuple[str, ...]) -> None:
        """Killed after Lance has the batch and before the catalogue does."""
        batch = Batch(upserts=(self.upsert(document_id, words),))
        self.kill("store.memory.heads.move_head", lambda: self.memory.commit(batch))

    def fail(self, document_id: str, words: tuple[str, ...]) -> None:
        """As a crash, by an error that the process outlives."""
        batch = Batch(upserts=(self.upsert(document_id, words),))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("store.memory.heads.move_head", _raise(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                self.memory.commit(batch)

    def kill(self, at: str, action: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(at, _raise(Killed()))
            with pytest.raises(Killed):
                action()
        self.memory.close()
        self.memory = self.open()

    # --- what must hold ----------------------------------------------------------------------------------------

    def past(self, name: str | None = None) -> Past:
        head = self.memory.state(name).head
        vectors = self.memory.vectors.vectors(head.generation, head.version)
        hits = self.memory.search(QUERY, 100, when=name).hits
        return Past(
            live=self.told(name),
            adapter=head.adapter,
            vectors={one: vector.tobytes() for one, vector in vectors.items()},
            hits=[(hit.chunk_id, hit.score) for hit in hits],
        )

    def told(self, name: str | None = None) -> dict[str, Live]:
        """What the store remembers in a state, by the catalogue; Lance must hold exactly its chunks."""
        head = self.memory.state(name).head
        revisions = self.memory.live_at(head)
        chunks = self.memory.vectors.chunks(head.generation, head.version, IDS)
        assert self.memory.vectors.count(head.generation, head.version) == len(chunks)
        found: dict[str, Live] = {}
        for document_id, revision in revisions.items():
            own = [hit for hit in chunks if hit.document_id == document_id]
            assert [hit.position for hit in own] == list(range(revision.chunks))
            assert {(h.path, h.revision, h.domain, h.tags) for h in own} <= {
                (revision.path, revision.content, revision.labels.domain, revision.labels.tags)
            }
            found[document_id] = Live(revision.path, tuple(hit.text for hit in own), revision.labels)
            assert found[document_id].content == revision.content
        assert {hit.document_id for hit in chunks} <= found.keys()
        return found

    @initialize()
    def begin(self) -> None:
        self.snapshot()

    @invariant()
    def head_is_what_is_live(self) -> None:
        """Invariant 1."""
        assert self.told() == self.live
        assert self.memory.counts() == (len(self.live), sum(len(one.texts) for one in self.live.values()))
        found = {hit.chunk_id for hit in self.memory.search(QUERY, 100).hits}
        head = self.memory.head()
        assert found == self.memory.vectors.vectors(head.generation, head.version).keys()
        assert head.adapter == self.adapter

    @invariant()
    def what_was_embedded_is_right(self) -> None:
        head = self.memory.head()
        vectors = self.memory.vectors.vectors(head.generation, head.version)
        hits = self.memory.vectors.by_id(head.generation, head.version, list(vectors))
        expected = HashingEmbedder().embed([hit.text for hit in hits])
        assert len(hits) == len(vectors)
        assert all(np.array_equal(vectors[hit.chunk_id], one) for hit, one in zip(hits, expected, strict=True))

    @invariant()
    def snapshots_never_change(self) -> None:
        """Invariant 4."""
        assert {one.name for one in self.memory.snapshots()} == self.snapshots.keys()
        tags = self.memory.vectors.tags(self.memory.generation)
        assert tags == {one.name: one.head.version for one in self.memory.snapshots()}
        for name in list(self.snapshots)[:1] + list(self.snapshots)[-1:]:
            assert self.past(name) == self.snapshots[name]

    @invariant()
    def holds_are_kept(self) -> None:
        """Invariant 6."""
        assert {hold.document_id: hold.content for hold in self.memory.holds()} == self.holds
        known = {one.document_id: one for one in self.memory.known()}
        assert {one: known[one].content for one in self.disk} == self.disk


def _raise(error: BaseException) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


SLOW_ENOUGH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check(examples: int, steps: int, phases: tuple[Phase, ...]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=SLOW_ENOUGH,
    )
    run_state_machine_as_test(StoreMachine, settings=chosen)


def test_the_store_is_its_model() -> None:
    """What fails is printed as found; shrinking it takes minutes and is left to the longer test."""
    check(examples=8, steps=25, phases=(Phase.generate,))


@pytest.mark.slow
def test_the_store_is_its_model_at_length() -> None:
    check(examples=60, steps=50, phases=(Phase.generate, Phase.shrink))
