"""A memory in plain Python: what the store must say, whatever is done to it (pure)."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from store.types import Labels

FORGOTTEN, UNDONE = "forgotten", "undone"  # why something is held
OUTLIVED = "gone"  # stands for documents that nothing is known of any more, and that can no more be forgotten
MARKER = re.compile(rb"zq(?:d\d)n\d+qz")


@dataclass(frozen=True)
class Live:
    """A document in a state."""

    path: str
    texts: tuple[str, ...]
    labels: Labels

    @property
    def content(self) -> str:
        """Its hash, by which what is forgotten may still be known."""
        return hashlib.blake2b("|".join(self.texts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Found:
    """What a search found of one chunk."""

    document_id: str
    chunk_id: str
    score: float


@dataclass(frozen=True)
class Past:
    """A state, and all that a search found in it while it was the head."""

    move: int
    at: datetime
    version: int
    adapter: int | None
    query_adapter: int | None
    live: Mapping[str, Live]
    hits: tuple[Found, ...]


@dataclass
class Model:
    """`disk` and `holds` are by document id: the content of its file (None once that is gone), and what is held of it
    with the reason. `kept` are the moves of `pasts` that can be asked for. `carriers` are the documents that ever had
    a text with that marker; when all of them are forgotten, no byte of it may be left.
    """

    live: dict[str, Live] = field(default_factory=dict)
    adapter: int | None = None
    query_adapter: int | None = None
    disk: dict[str, str | None] = field(default_factory=dict)
    holds: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    pasts: dict[int, Past] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    snapshots: dict[str, int] = field(default_factory=dict)  # name -> move
    promoted: dict[int, frozenset[str]] = field(default_factory=dict)  # adapter -> the documents it learned from
    query_maps: dict[int, int] = field(default_factory=dict)  # query adapter -> the seed of its weights
    examples: dict[str, str] = field(default_factory=dict)  # example id -> document id
    retrievals: dict[str, tuple[int, tuple[Found, ...]]] = field(default_factory=dict)  # id -> move, hits
    cached: set[str] = field(default_factory=set)  # texts whose embedding is known
    had: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # document id -> all its texts
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # content -> what it is the hash of
    carriers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    epochs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))  # document id -> times forgotten

    @property
    def head(self) -> Past:
        return self.pasts[max(self.pasts)]

    def past(self, name: str) -> Past:
        return self.pasts[self.snapshots[name]]

    def marked(self, document_id: str, words: Iterable[str]) -> tuple[str, ...]:
        """Texts with a word that no other document has, nor this one again once it is forgotten."""
        return tuple(f"{some} {self.marker(document_id)}" for some in words)

    def marker(self, document_id: str) -> str:
        return f"zq{document_id}n{self.epochs[document_id]}qz"

    def write(self, document_id: str, texts: tuple[str, ...]) -> None:
        """The texts reach the store's files for this document, whether they are acknowledged or not."""
        for text in texts:
            self.carriers[text.split()[-1]].add(document_id)

    # --- what is done ------------------------------------------------------------------------------------------

    def has(self, document_id: str, live: Live) -> None:
        self.live[document_id], self.disk[document_id] = live, live.content
        self.texts[live.content] = live.texts
        self.had[document_id] |= set(live.texts)
        self.holds.pop(document_id, None)

    def loses(self, document_id: str) -> None:
        self.live.pop(document_id, None)
        self.disk[document_id] = None
        if document_id in self.holds and self.holds[document_id][0] is None:
            del self.holds[document_id]

    def is_back(self, document_id: str) -> None:
        """The file of a document that a rollback put back without one."""
        self.disk[document_id] = self.live[document_id].content
        self.holds.pop(document_id, None)

    def to_scan(self) -> tuple[list[str], list[str]]:
        """The documents that a scan would ingest as their files are, and those that it would remove."""
        ingest, remove = [], []
        for document_id, content in self.disk.items():
            live = self.live[document_id].content if document_id in self.live else None
            if content == live or (document_id in self.holds and self.holds[document_id][0] == content):
                continue
            (remove if content is None else ingest).append(document_id)
        return ingest, remove

    def observe(self, past: Past) -> None:
        self.pasts[past.move] = past
        self.kept.add(past.move)

    def roll_back(self, name: str, only: str | None) -> None:
        target = self.past(name)
        if only != "index":
            self.adapter, self.query_adapter = target.adapter, target.query_adapter
        if only == "model":
            return
        for document_id in self.live.keys() | target.live.keys():
            self._take_back(document_id, self.live.get(document_id), target.live.get(document_id))
        self.live = dict(target.live)

    def _take_back(self, document_id: str, now: Live | None, then: Live | None) -> None:
        if now == then:
            return
        file, held = self.disk[document_id], self.holds.get(document_id, (None, ""))[0]
        undone = {now.content if now else None, held}
        wanted = then.content if then else None
        if file is None and wanted is not None:
            self.holds[document_id] = (None if held == wanted else held, UNDONE)
        elif file != wanted and file in undone:
            self.holds[document_id] = (file, UNDONE)
        else:
            self.holds.pop(document_id, None)

    def prune(self, latest: int) -> None:
        """Versions stay while a snapshot, the head or one of the latest states needs them."""
        needed = {*self.snapshots.values(), max(self.pasts), *sorted(self.kept)[-latest:]}
        versions = {self.pasts[move].version for move in needed}
        self.kept = {move for move in self.kept if self.pasts[move].version in versions}

    def drop_outlived(self) -> None:
        """Of a document that is gone from disk and from every state since the oldest that is kept nothing is known."""
        oldest = min(self.kept)
        remembered = {one for past in self.pasts.values() if past.move >= oldest for one in past.live}
        for document_id in [one for one, content in self.disk.items() if content is None]:
            if document_id not in remembered and document_id not in self.holds:
                del self.disk[document_id]
                self._ends(document_id, OUTLIVED)

    def forget(self, document_ids: Collection[str], versions: Mapping[int, int]) -> None:
        """`versions` says which version took the place of which; all others are gone."""
        ids = set(document_ids)
        self.promoted, retired = (
            {one: shown for one, shown in self.promoted.items() if bool(shown & ids) == gone} for gone in (False, True)
        )
        instead = max(self.promoted, default=None)

        def adapter(one: int | None) -> int | None:
            return instead if one in retired else one

        self.kept = {move for move in self.kept if self.pasts[move].version in versions}
        self.pasts = {
            move: replace(
                past,
                version=versions.get(past.version, past.version),
                adapter=adapter(past.adapter),
                live=_without(past.live, ids),
                hits=tuple(hit for hit in past.hits if hit.document_id not in ids),
            )
            for move, past in self.pasts.items()
        }
        self.live, self.adapter = _without(self.live, ids), adapter(self.adapter)
        self.examples = {one: document_id for one, document_id in self.examples.items() if document_id not in ids}
        self.retrievals = {
            one: found for one, found in self.retrievals.items() if ids.isdisjoint(hit.document_id for hit in found[1])
        }
        for document_id in ids:
            self._leaves(document_id)

    def _leaves(self, document_id: str) -> None:
        """What is left of a forgotten document: its file's hash, if it still has one."""
        self.holds.pop(document_id, None)
        content = self.disk.pop(document_id, None)
        if content is not None:
            self.disk[document_id] = content
            self.holds[document_id] = (content, FORGOTTEN)
        self._ends(document_id)

    def _ends(self, document_id: str, *instead: str) -> None:
        """One that gets this id again is another document."""
        for documents in self.carriers.values():
            if document_id in documents:
                documents.discard(document_id)
                documents.update(instead)
        self.epochs[document_id] += 1
        self.had.pop(document_id, None)

    # --- what is asked -----------------------------------------------------------------------------------------

    def at_version(self, version: int) -> Past | None:
        """The last state that served it, if it is kept."""
        return max((one for one in self._kept() if one.version == version), key=lambda one: one.move, default=None)

    def at_time(self, when: datetime) -> Past | None:
        """The newest kept state at or before then."""
        return max((one for one in self._kept() if one.at <= when), key=lambda one: one.move, default=None)

    def _kept(self) -> list[Past]:
        return [self.pasts[move] for move in self.kept]


def _without(live: Mapping[str, Live], ids: Collection[str]) -> dict[str, Live]:
    return {document_id: one for document_id, one in live.items() if document_id not in ids}
