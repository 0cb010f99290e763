"""A real store beside its model: what is compared after each step, what now and then, and how actions are cut off."""

from __future__ import annotations

import pkgutil
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from lance.file import LanceFileReader

from store.embedding import HashingEmbedder
from store.embedding_cache import cache_key
from store.errors import DiskFailed
from store.memory import Found as Answer
from store.memory import Memory
from store.search import Ranking
from store.types import Filters, Head, Hit, Vectors
from store.vectors import Sought, upkeep
from tests.store.conftest import Clock, query_map, scratch_folder
from tests.store.model import FORGOTTEN, MARKER, UNDONE, Found, Live, Model, Past

QUERY = "alpha beta gamma"
ALL = 100  # more chunks than there ever are
SMALL: dict[str, float] = {  # constants at which a few documents meet every path of maintenance
    "store.maintenance.COMMITS": 5,
    "store.maintenance.LATEST_STATES": 4,
    "store.vectors.upkeep.MOST_FRAGMENTS": 2,
    "store.vectors.upkeep.MOST_LATE_FRAGMENTS": 1,
    "store.search.ALIKE": 2.0,  # nothing is folded: all that there is shall be found
    "store.vectors.upkeep.SMALLEST_TIER": 4,
    "store.vectors.upkeep.TIER_FACTOR": 2,
    "store.vectors.upkeep.UNINDEXED_ROWS": 2,
    "store.vectors.upkeep.SEGMENTS": 2,
    "store.vectors.upkeep.VECTOR_INDEX_ROWS": 5,
}
SPIED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "store.vectors.upkeep.tier": ("small fragments merged", lambda _: True),
    "store.vectors.upkeep.rewrite": ("fragments rewritten", lambda _: True),
    "store.vectors.upkeep.alike": (
        "index segments merged",
        lambda count: count >= SMALL["store.vectors.upkeep.SEGMENTS"],
    ),
    "store.vectors.upkeep.clean": ("versions pruned", lambda gone: gone > 0),
    "lance.LanceDataset.create_index": ("vector index made", lambda _: True),
}


class Killed(BaseException):
    """As SIGKILL: nothing catches it, and the process is gone."""


class Broken(OSError):
    """As a disk that is full for a moment: the process outlives it."""


class Witness(RuleBasedStateMachine):
    met: ClassVar[Counter[str]] = Counter()  # what happened how often, over all examples

    def __init__(self) -> None:
        super().__init__()
        self.folder = scratch_folder()
        self.clock = Clock()
        self.model = Model()
        self.memory = self.open()

    def open(self) -> Memory:
        return Memory(
            *(self.folder / "state", HashingEmbedder()),
            write=True,
            generation={"parser": 1},
            clock=self.clock,
            ranking=Ranking("vector"),  # a rank changes with what else is there, a similarity does not
        )

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.check_rest(self.model.snapshots)
        finally:
            self.memory.close()
            shutil.rmtree(self.folder)

    # --- cutting off -------------------------------------------------------------------------------------------

    def cut(self, data: st.DataObject, points: Sequence[str], action: Callable[[], object]) -> tuple[str, bool] | None:
        """Run the action and cut it off at one of the points, by a kill or by an error.

        Returns the point and whether it was a kill, after which the memory is open anew. None when the action never
        came to that point and is done.
        """
        at, kill = data.draw(st.sampled_from(points)), data.draw(st.booleans())
        try:
            with _failing(at, Killed() if kill else Broken("No space left on device")):
                action()
        except (Killed, Broken, DiskFailed):
            self.met[f"{'killed' if kill else 'failed'} at {at}"] += 1
        else:
            return None
        if kill:
            self.reopen(data.draw(st.sampled_from((*points, *[None] * len(points)))))
        return at, kill

    def reopen(self, killed_at: str | None = None) -> None:
        """A new start, after one that is perhaps killed as well."""
        self.memory.close()
        if killed_at:
            with suppress(Killed), _failing(killed_at, Killed()):
                self.open().close()
        self.memory = self.open()

    # --- after each step ---------------------------------------------------------------------------------------

    def look(self) -> None:
        """The head is what is live (1, 2), and the same state always answers the same (4)."""
        answer = self.memory.search(QUERY, ALL)
        head, hits = answer.state.head, found(answer.hits)
        assert self.told(answer) == self.model.live
        assert self.memory.counts() == _counts(self.model.live)
        serving = self.model.adapter, self.model.query_adapter
        past = Past(head.move, head.at, head.version, *serving, dict(self.model.live), hits)
        assert (head.adapter, head.query_adapter) == serving
        assert answer.query_adapter == self.model.query_adapter
        if past.move not in self.model.pasts:
            if self.model.pasts and past.move == self.model.head.move + 2:
                # A start completed a rollback of the model's half, and put aside a write from before it.
                self.model.observe(replace(past, move=past.move - 1, version=self.model.head.version))
            self.model.observe(past)
        assert past == self.model.head

    def check_catalogue(self) -> None:
        """What is held is held (6); snapshots, and what is known of files, are as they should be."""
        held = {one.document_id: (one.content, one.reason) for one in self.memory.holds()}
        assert {
            one: (content, FORGOTTEN if reason == "forgotten" else UNDONE) for one, (content, reason) in held.items()
        } == self.model.holds
        assert {one.document_id: one.content for one in self.memory.known()} == self.model.disk
        assert {
            one.name: (one.head.move, one.head.version, *_serving(one.head), one.documents, one.chunks)
            for one in self.memory.snapshots()
        } == {
            name: (past.move, past.version, *_serving(past), *_counts(past.live))
            for name, past in ((name, self.model.past(name)) for name in self.model.snapshots)
        }

    def told(self, answer: Answer) -> dict[str, Live]:
        """What a search found, put together to documents; the catalogue must tell the same of that state."""
        head = answer.state.head
        chunks: dict[str, list[Hit]] = {}
        for hit in sorted(answer.hits, key=lambda hit: hit.position):
            chunks.setdefault(hit.document_id, []).append(hit)
        revisions = self.memory.live_at(head)
        assert chunks.keys() <= revisions.keys()
        assert self.memory.vectors.count(head.generation, head.version) == len(answer.hits)
        documents: dict[str, Live] = {}
        for document_id, revision in revisions.items():
            own = chunks.get(document_id, [])
            assert [hit.position for hit in own] == list(range(revision.chunks))
            assert {(hit.path, hit.revision, hit.domain, hit.tags) for hit in own} <= {
                (revision.path, revision.content, revision.labels.domain, revision.labels.tags)
            }
            documents[document_id] = Live(revision.path, tuple(hit.text for hit in own), revision.labels)
            assert documents[document_id].content == revision.content
        scores = [hit.score for hit in answer.hits]
        assert scores == sorted(scores, reverse=True)
        seed = self.model.query_maps.get(answer.query_adapter or 0)
        assert np.allclose(scores, [_similarity(hit.text, seed) for hit in answer.hits], atol=1e-5)
        assert np.allclose(
            [hit.similarity for hit in answer.hits], [_similarity(hit.text, None) for hit in answer.hits], atol=1e-5
        )
        return documents

    # --- now and then ------------------------------------------------------------------------------------------

    def check_rest(self, names: Iterable[str]) -> None:
        """What is dear to check: these snapshots (4), all vectors (5), words, what is recorded (8), bytes (9)."""
        for name in names:
            self.check_past(name, self.model.past(name))
        self.check_past(None, self.model.head)
        assert found(self.memory.search(QUERY, 2).hits) == self.model.head.hits[:2]
        self.check_words()
        tags = self.memory.vectors.tags(self.memory.generation)  # an error may leave others
        assert {name: self.model.past(name).version for name in self.model.snapshots}.items() <= tags.items()
        journal = self.memory.journal
        recorded = {number: journal.retrieval(number) for number in self.model.retrievals}
        assert self.model.retrievals.keys() == {one.retrieval_id for one in journal.judged(ALL)}
        for number, (move, hits) in self.model.retrievals.items():
            assert recorded[number].move == move
            assert [one["chunk_id"] for one in recorded[number].hits] == [hit.chunk_id for hit in hits]
        assert {one.example_id for one in journal.examples()} == self.model.examples.keys()
        adapters = {int(folder.name) for folder in self.memory.adapter_folder(1).parent.glob("*")}
        assert adapters == self.model.promoted.keys() | self.model.query_maps.keys()
        carried = {marker for marker, documents in self.model.carriers.items() if documents}
        left = {marker: files for marker, files in self.markers().items() if marker not in carried}
        assert left == {}

    def check_past(self, when: str | None, past: Past) -> None:
        """Chunk for chunk, score for score and vector for vector."""
        answer = self.memory.search(QUERY, ALL, when=when)
        head = answer.state.head
        assert (head.move, _serving(head)) == (past.move, _serving(past))
        assert self.told(answer) == past.live
        ours = found(answer.hits)
        assert ours == past.hits, [pair for pair in zip(ours, past.hits, strict=False) if pair[0] != pair[1]]
        vectors = self.memory.vectors.vectors(head.generation, head.version)
        assert vectors.keys() == {hit.chunk_id for hit in answer.hits}
        assert all(np.array_equal(vectors[hit.chunk_id], _embedded(hit.text)) for hit in answer.hits)

    def check_words(self) -> None:
        """The head's full-text index finds a word exactly where it stands."""
        head, none = self.memory.head(), np.zeros(HashingEmbedder.dimension, np.float32)
        sought = Sought(none, near=False, words="alpha")
        candidates = self.memory.vectors.candidates(head.generation, head.version, ALL, Filters(), sought)
        scored = [(0.0, one) for one in candidates]
        hits = self.memory.vectors.read(head.generation, head.version, scored) if scored else []
        texts = [text for one in self.model.live.values() for text in one.texts]
        assert sorted(hit.text for hit in hits) == sorted(text for text in texts if "alpha" in text)

    def check_index_after_forgetting(self) -> None:
        """The full-text index has the words of what is live and no others. They are packed, so that their bytes cannot
        be searched for: it is their number and their length in all that tell."""
        head = self.memory.head()
        table = upkeep.open_table(self.memory.vectors.folder, head.generation).checkout_version(head.version)
        (index,) = [one for one in table.describe_indices() if one.name == upkeep.TEXT_INDEX]
        folders = [
            self.memory.vectors.folder / f"{head.generation}.lance/_indices/{one.uuid}" for one in index.segments
        ]
        files = [file for folder in folders for file in folder.glob("*_tokens.lance")]
        told = [LanceFileReader(str(file)).read_all().to_table().to_pydict() for file in files]
        words = {word for live in self.model.live.values() for text in live.texts for word in text.split()}
        assert sum(one["_token_next_id"][0] for one in told) == len(words)
        assert sum(one["_token_total_length"][0] for one in told) == sum(map(len, words))

    def check_embeddings(self, forgotten: set[str]) -> None:
        """Those of forgotten texts are gone; those of the others are all there, or none of all is."""
        keys = {cache_key(text, self.memory.generation): text for text in self.model.cached}
        known = {keys[key] for key in self.memory.cache.get_many(list(keys))}
        assert known in (self.model.cached - forgotten, set())
        self.model.cached = known

    def markers(self) -> dict[str, list[str]]:
        """The documents' markers in all bytes below the state directory -> the files that hold them."""
        found: dict[str, list[str]] = {}
        for path in (self.folder / "state").rglob("*"):
            for marker in set(MARKER.findall(path.read_bytes().lower())) if path.is_file() else ():
                found.setdefault(marker.decode(), []).append(str(path.relative_to(self.folder)))
        return found


@contextmanager
def small() -> Iterator[Counter[str]]:
    """With constants for few documents; gives the count of what happened."""
    met = Witness.met = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(name, value)
        for name, (happened, when) in SPIED.items():
            patch.setattr(name, _counted(met, happened, when, pkgutil.resolve_name(name)))
        yield met


def _counted(met: Counter[str], happened: str, when: Callable[[Any], bool], original: Callable[..., Any]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        met[happened] += when(result)
        return result

    return call


@contextmanager
def _failing(at: str, error: BaseException) -> Iterator[None]:
    """What first comes to that point meets the error."""
    original, errors = pkgutil.resolve_name(at), [error]

    def call(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at, call)
        yield


@cache
def _embedded(text: str) -> Vectors:
    return HashingEmbedder().embed([text])[0]


@cache
def _similarity(text: str, seed: int | None) -> float:
    """With the question, as the query adapter of this seed moves it."""
    asked = _embedded(QUERY) if seed is None else query_map(seed).move(_embedded(QUERY))
    return float(_embedded(text) @ asked)


def _serving(state: Head | Past) -> tuple[int | None, int | None]:
    return state.adapter, state.query_adapter


def found(hits: Iterable[Hit]) -> tuple[Found, ...]:
    return tuple(Found(hit.document_id, hit.chunk_id, hit.score) for hit in hits)


def _counts(live: Mapping[str, Live]) -> tuple[int, int]:
    return len(live), sum(len(one.texts) for one in live.values())
