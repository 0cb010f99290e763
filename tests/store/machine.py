"""The state machine that does to a real store what people, files and kills do, and compares it with its model.

What is checked, by number of the design: search at head returns exactly the live revisions (1, 2); a kill or an error
at any step leaves the state before or the one after, and nothing is embedded twice (3); a snapshot never changes (4);
after a rollback the head equals the snapshot, vector for vector (5); what a rollback took out stays on hold (6); a
recorded answer can be replayed (8); of what is forgotten no byte is left (9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from store import maintenance
from store.errors import NotFound
from store.retention import Policy
from store.types import Batch, Chunk, Ended, Example, Labels, Passage, Place, Rehome, Retrieval, Seen, Stat, Upsert
from tests.store.conftest import query_candidate
from tests.store.model import Live, Past
from tests.store.witness import QUERY, Witness, found

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
IDS = ("d1", "d2", "d3", "d4", "d5")
THOROUGH = 10  # every how many steps what is dear to check is checked
SNAPSHOTS = 6  # older ones are deleted

# Where an action can be cut off: by a kill, which ends the process, or by an error, which it outlives.
COMMIT = (
    "lancedb.table.LanceTable.add",
    "store.memory.sync_filesystem",
    "store.memory.heads.move_head",
    "store.memory.documents.apply",
)
SNAPSHOT = ("store.vectors.Generations.tag", "store.snapshots.history.add_snapshot")
DELETE = ("store.vectors.Generations.untag",)
PRUNE = ("store.snapshots.sweep_tags",)
ROLLBACK = (
    "store.snapshots.sync_filesystem",
    "store.snapshots.history.add_snapshot",
    "store.snapshots.history.write_intent",  # from here on a kill is completed by the next start
    "store.vectors.Generations.restore",
    "store.snapshots.history.reconcile",
)
MAINTAIN = (
    "store.vectors.upkeep.rewrite",
    "store.vectors.upkeep.update_indices",
    "store.maintenance.sync_filesystem",
    "store.maintenance.heads.move_head",
    "store.maintenance.heads.keep_only",
    "store.vectors.Generations.prune",  # from here on the catalogue offers the pruned states no more
    "store.maintenance.documents.drop_outlived",
    "store.catalogue.database.Database.vacuum",
)
FORGET = (
    "store.forgetting.forgetting.begin",
    "store.forgetting._forget_vectors",
    "store.vectors.Generations.purge",
    "store.vectors.upkeep.rewrite",
    "store.vectors.upkeep.create_text_index",
    "store.vectors.Generations.tag",
    "store.forgetting.sync_filesystem",
    "store.forgetting.forgetting.drop_retrievals",
    "store.forgetting.heads.move_head",
    "store.forgetting.heads.keep_only",
    "store.vectors.Generations.prune",
    "store.catalogue.database.Database.checkpoint",
    "store.forgetting.forgetting.end",
)

ids = st.sampled_from(IDS)
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), max_size=3).map(tuple)
often, rarely = st.sampled_from([False, False, True]), st.sampled_from([*[False] * 5, True])


class StoreMachine(Witness):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.steps = -1

    @invariant()
    def what_must_hold(self) -> None:
        if not self.model.pasts:  # not begun
            return
        self.steps += 1
        self.met["steps"] += self.steps > 0
        if self.memory.head().move not in self.model.pasts:
            self.look()
        self.check_catalogue()
        if self.steps % THOROUGH == 0:
            self.check_rest(list(self.model.snapshots)[self.steps // THOROUGH % SNAPSHOTS :][:1])

    @initialize()
    def begin(self) -> None:
        self.look()
        self.memory.snapshot("begin")
        self.model.snapshots["begin"] = self.model.head.move

    def fresh(self) -> int:
        self.number += 1
        return self.number

    # --- commits -----------------------------------------------------------------------------------------------

    def stat(self) -> Stat:
        return Stat(1, self.fresh(), 1)

    def place(self, name: str) -> Place:
        return Place("docs", name.encode(), f"/docs/{name}")

    def upsert(self, document_id: str, texts: tuple[str, ...]) -> Upsert:
        vectors, computed = self.memory.embed(texts)
        assert computed == len(set(texts) - self.model.cached)  # invariant 3: nothing is embedded twice
        self.model.cached |= set(texts)
        self.model.write(document_id, texts)
        one = Live(f"/docs/{document_id}", texts, Labels("domain", ("tag",)))
        return Upsert(
            document_id=document_id,
            place=self.place(document_id),
            stat=self.stat(),
            content=one.content,
            labels=one.labels,
            chunks=tuple(Chunk(text, position) for position, text in enumerate(texts)),
            vectors=vectors,
            embedded_at=self.clock(),
        )

    def commit(self, documents: dict[str, tuple[str, ...]], removed: Sequence[str] = ()) -> None:
        upserts = tuple(self.upsert(one, texts) for one, texts in documents.items())
        self.memory.commit(Batch(upserts=upserts, removed=tuple(removed)))
        for one in upserts:
            self.model.has(one.document_id, Live(one.place.path, documents[one.document_id], one.labels))
        for document_id in removed:
            self.model.loses(document_id)
        self.upkeep()

    @rule(documents=st.dictionaries(ids, texts, min_size=1, max_size=4), removed=st.sets(ids, max_size=2))
    def edit_and_delete(self, documents: dict[str, tuple[str, ...]], removed: set[str]) -> None:
        gone = sorted(one for one in removed - documents.keys() if one in self.model.disk)
        self.commit({one: self.model.marked(one, words) for one, words in documents.items()}, gone)

    @rule(document_id=ids, words=texts)
    def edit(self, document_id: str, words: tuple[str, ...]) -> None:
        self.commit({document_id: self.model.marked(document_id, words)})

    @precondition(lambda self: any(self.model.to_scan()))
    @rule()
    def scan(self) -> None:
        """What was released is ingested as its file is; what is there without a file goes."""
        found, gone = self.model.to_scan()
        self.commit({one: self.model.texts[self.model.disk[one] or ""] for one in found}, gone)

    @precondition(lambda self: self.model.live)
    @rule(data=st.data(), domain=st.sampled_from(["domain", "other"]), to=ids)
    def move_or_copy(self, data: st.DataObject, domain: str, to: str) -> None:
        """Moved when `to` is the origin itself; the new place is made up."""
        origin = data.draw(st.sampled_from(sorted(self.model.live)))
        self.rehome({to: (origin, f"moved/{self.fresh()}", Labels(domain))})

    @precondition(lambda self: len(self.model.live) > 1)
    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        """Two documents take each other's content, in one batch."""
        one, other = data.draw(st.permutations(sorted(self.model.live)))[:2]
        live = self.model.live
        self.rehome({to: (origin, f"swapped/{to}", live[origin].labels) for to, origin in ((one, other), (other, one))})

    def rehome(self, moves: dict[str, tuple[str, str, Labels]]) -> None:
        """document id -> (whose chunks it takes, its new place, its labels)."""
        before = dict(self.model.live)
        batch = tuple(
            Rehome(to, origin, self.place(name), self.stat(), before[origin].content, labels)
            for to, (origin, name, labels) in moves.items()
        )
        self.memory.commit(Batch(rehomed=batch))
        for one in batch:
            self.model.write(one.document_id, before[one.origin].texts)
            self.model.has(one.document_id, Live(one.place.path, before[one.origin].texts, one.labels))
        self.upkeep()

    @precondition(lambda self: any(self.model.disk.values()))
    @rule(data=st.data(), back=st.booleans())
    def see(self, data: st.DataObject, back: bool) -> None:
        """A file is seen as it was, held or live; or all those are back that a rollback put back without their file."""
        disk = self.model.disk
        if back:
            chosen = [one for one, content in disk.items() if content is None and one in self.model.live]
            contents = {one: self.model.live[one].content for one in chosen}
        else:
            one = data.draw(st.sampled_from(sorted(one for one, content in disk.items() if content)))
            contents = {one: disk[one] or ""}
        head = self.memory.head()
        seen = tuple(Seen(one, self.place(one), self.stat(), content) for one, content in contents.items())
        self.memory.commit(Batch(seen=seen))
        assert self.memory.head() == head
        for one in contents if back else ():
            self.model.is_back(one)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.model.holds)), min_size=1))
        self.memory.release(sorted(chosen))
        for document_id in chosen:
            del self.model.holds[document_id]

    # --- answers, adapters, snapshots, rollbacks ---------------------------------------------------------------

    @rule(data=st.data(), past=st.booleans())
    def ask(self, data: st.DataObject, past: bool) -> None:
        """A question to the head or to a snapshot, recorded with what it found."""
        name = data.draw(st.sampled_from(sorted(self.model.snapshots))) if past and self.model.snapshots else None
        answer = self.memory.search(QUERY, 3, when=name)
        hits = tuple({"document_id": hit.document_id, "chunk_id": hit.chunk_id} for hit in answer.hits)
        number, move = f"r{self.fresh()}", answer.state.head.move
        words = " ".join(hit.text for hit in answer.hits)
        kept = Retrieval(number, self.clock(), QUERY, "base", move, hits, words)
        assert self.memory.journal.record(answer.state.head, kept)
        self.memory.journal.feedback(number, "good")
        self.model.retrievals[number] = (move, found(answer.hits))

    @rule(shown=st.sets(ids, max_size=2))
    def promote(self, shown: set[str]) -> None:
        """An adapter that learned from some documents passed its gate."""
        journal, live = self.memory.journal, self.model.live
        run = journal.begin_run(trigger="test", move=self.memory.head().move, incumbent=self.model.adapter)
        learned = {one: " ".join(live[one].texts) for one in sorted(shown & live.keys())}
        examples = [
            Example(f"e{run}-{one}", "cloze", "?", (Passage("c", one, text),), text, (text,), 0, one, run, "train")
            for one, text in learned.items()
        ]
        journal.add_examples(run, examples)
        number = journal.add_adapter(run, base="base", sha256="0")
        for folder in (self.memory.state_dir / "refresh" / f"{run:04d}", self.memory.adapter_folder(number)):
            folder.mkdir(parents=True)
            (folder / "card.json").write_text(" ".join(learned.values()))
        before = self.memory.head().move
        after = self.memory.promote(number, Ended(run, "promote", "", number)).move
        self.model.promoted[number] = frozenset(learned)
        self.model.examples |= {example.example_id: example.document_id for example in examples}
        self.model.adapter = number
        self.model.snapshots |= {f"before-adapter-{number:04d}": before, f"adapter-{number:04d}": after}
        self.retain()

    @rule()
    def promote_query(self) -> None:
        """A query adapter passed its gate: from now on the question finds in another order, but not in the past."""
        seed, before = self.fresh(), self.memory.head().move
        number = query_candidate(self.memory, seed)
        after = self.memory.promote_query(number, number, {}).move
        self.model.query_maps[number] = seed
        self.model.query_adapter = number
        self.model.snapshots |= {f"before-adapter-{number:04d}": before, f"adapter-{number:04d}": after}
        self.retain()

    @rule(data=st.data(), cut=rarely)
    def snapshot(self, data: st.DataObject, cut: bool) -> None:
        name, move = f"s{self.fresh()}", self.model.head.move
        if self.act(data if cut else None, SNAPSHOT, lambda: self.memory.snapshot(name)) is None:
            self.model.snapshots[name] = move
        self.retain()

    def retain(self) -> None:
        for name in list(self.model.snapshots)[:-SNAPSHOTS]:
            self.memory.delete_snapshot(name)
            del self.model.snapshots[name]

    @precondition(lambda self: self.model.snapshots)
    @rule(data=st.data(), cut=rarely)
    def delete_snapshot(self, data: st.DataObject, cut: bool) -> None:
        """With the name gone, and perhaps the tag still there."""
        name = data.draw(st.sampled_from(sorted(self.model.snapshots)))
        self.act(data if cut else None, DELETE, lambda: self.memory.delete_snapshot(name))
        del self.model.snapshots[name]

    @rule(data=st.data(), last=st.integers(2, 4), cut=rarely)
    def prune_snapshots(self, data: st.DataObject, last: int, cut: bool) -> None:
        """With the rows gone, and perhaps the tags still there; the newest stay."""
        policy = Policy(last=last)
        removed = {one.name for one in self.memory.past.judged(policy).removed}
        self.act(data if cut else None, PRUNE, lambda: self.memory.prune_snapshots(policy))
        moves = sorted(self.model.snapshots.values())
        assert all(self.model.snapshots.pop(name) <= moves[-last] for name in removed)

    @precondition(lambda self: self.model.snapshots)
    @rule(data=st.data())
    def return_to_a_snapshot(self, data: st.DataObject) -> None:
        self.roll_back(data.draw(st.sampled_from(sorted(self.model.snapshots))), None, None)

    @precondition(lambda self: self.model.snapshots)
    @rule(data=st.data(), only=st.sampled_from([None, "index", "model"]), cut=often)
    def return_in_part_or_interrupted(self, data: st.DataObject, only: str | None, cut: bool) -> None:
        self.roll_back(data.draw(st.sampled_from(sorted(self.model.snapshots))), only, data if cut else None)

    def roll_back(self, name: str, only: str | None, cut: st.DataObject | None) -> None:
        """Whole or one half. Cut off before the intent is written it did not happen; a kill after that is completed."""
        before, target = self.model.head, self.model.past(name)
        known = {one.name for one in self.memory.snapshots()}
        planned = self.memory.plan_rollback(name, only)
        where = self.act(cut, ROLLBACK, lambda: self.memory.roll_back(name, only))
        for safety in {one.name for one in self.memory.snapshots()} - known:
            self.model.snapshots[safety] = before.move
        if where and (where[0] in ROLLBACK[:3] or not where[1]):
            return
        self.model.roll_back(name, only)
        self.look()
        assert planned.difference.adapter == (before.adapter, self.model.adapter)
        assert planned.difference.query_adapter == (before.query_adapter, self.model.query_adapter)
        held = {one.document_id: one.content for one in self.memory.holds()}
        assert {one.document_id: one.content for one in planned.held}.items() <= held.items()
        assert not set(planned.freed) & {one.path for one in self.memory.holds()}
        if only != "model":
            same = only is None or before.query_adapter == target.query_adapter
            assert not same or self.model.head.hits == target.hits  # invariant 5
            self.check_past(None, self.model.head)
        self.retain()

    # --- maintenance, forgetting, interruptions ----------------------------------------------------------------

    @rule(data=st.data(), cut=often)
    def maintain(self, data: st.DataObject, cut: bool) -> None:
        where = self.act(data if cut else None, MAINTAIN, self.memory.maintain)
        self.is_maintained(MAINTAIN.index(where[0]) if where else len(MAINTAIN))

    def upkeep(self) -> None:
        """As the daemon does it, after a commit."""
        if self.memory.upkeep_due():
            self.look()
            self.memory.maintain()
            self.is_maintained(len(MAINTAIN))

    def is_maintained(self, done: int) -> None:
        """Up to that point."""
        self.look()
        if done >= MAINTAIN.index("store.vectors.Generations.prune"):
            self.model.prune(maintenance.LATEST_STATES)
        if done > MAINTAIN.index("store.maintenance.documents.drop_outlived"):
            self.model.drop_outlived()
        if done == len(MAINTAIN):
            vectors, generation = self.memory.vectors, self.memory.generation
            kept = {self.model.pasts[move].version for move in self.model.kept}
            unnamed = vectors.versions(generation) - kept - set(vectors.tags(generation).values())
            assert unnamed <= {vectors.latest(generation)}

    @rule(data=st.data(), chosen=st.sets(ids, min_size=1, max_size=2), cut=often)
    def forget(self, data: st.DataObject, chosen: set[str], cut: bool) -> None:
        """Killed, it is completed by the next start; after an error by a second try or the next start."""
        where = self.act(data if cut else None, FORGET, lambda: self.memory.forget(sorted(chosen)))
        if where and where[0] == FORGET[0]:
            return
        if where and not where[1]:
            self.reopen() if data.draw(st.booleans()) else self.memory.forget(sorted(chosen))
        versions = {self.model.head.version: self.memory.head().version}
        versions |= {self.model.past(one.name).version: one.head.version for one in self.memory.snapshots()}
        texts = {text for one in chosen for text in self.model.had[one]}
        self.model.forget(chosen, versions)
        left = self.model.head.hits
        self.look()
        assert self.model.head.hits == left
        self.check_embeddings(texts)
        self.check_index_after_forgetting()
        self.check_rest(list(self.model.snapshots)[self.steps % 2 :: 2])
        self.met["forgotten"] += 1

    @rule(data=st.data(), document_id=ids, words=texts, cut=st.booleans())
    def reopen_or_crash(self, data: st.DataObject, document_id: str, words: tuple[str, ...], cut: bool) -> None:
        if not cut:
            self.reopen()
            return
        texts = self.model.marked(document_id, words)
        batch = Batch(upserts=(self.upsert(document_id, texts),))
        if self.act(data, COMMIT, lambda: self.memory.commit(batch)) is None:
            self.model.has(document_id, Live(batch.upserts[0].place.path, texts, batch.upserts[0].labels))

    def act(self, cut: st.DataObject | None, points: Sequence[str], action: Any) -> tuple[str, bool] | None:
        if cut is not None:
            return self.cut(cut, points, action)
        action()
        return None

    # --- the past ----------------------------------------------------------------------------------------------

    @rule(data=st.data(), by_time=st.booleans())
    def recall(self, data: st.DataObject, by_time: bool) -> None:
        """A version means the last state that served it, a time the newest kept at or before it."""
        meant: dict[str, Past] = {}
        for past in self.model.pasts.values():
            when = past.at.isoformat() if by_time else str(past.version)
            found = self.model.at_time(past.at) if by_time else self.model.at_version(past.version)
            if found is None:
                with pytest.raises(NotFound):
                    self.memory.state(when)
            else:
                assert self.memory.state(when).head.move == found.move
                meant[when] = found
        when = data.draw(st.sampled_from(sorted(meant)))
        self.check_past(when, meant[when])

    @precondition(lambda self: self.model.retrievals)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A recorded answer's state, if it is kept, still gives what it gave."""
        move, hits = self.model.retrievals[data.draw(st.sampled_from(sorted(self.model.retrievals)))]
        if move in self.model.kept:
            answer = self.memory.search(QUERY, 3, when=self.memory.past.at_move(move))
            assert found(answer.hits) == hits
