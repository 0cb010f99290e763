"""The frozen dataclasses that pass between layers. All times are UTC, timezone-aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, dimension), rows of unit length
LARGEST = 2**63 - 1
GENERATOR, QUERY = "generator", "query"  # the kinds of adapters: of the language model, of the question's vector
CARD = "card.json"  # of an adapter, of either kind: written last into its folder
LONGEST_PAUSE = timedelta(days=1)  # before a file that failed is tried again


@dataclass(frozen=True, slots=True)
class Section:
    """A run of a document's text that has one place in its structure."""

    text: str
    headings: tuple[str, ...] = ()  # the trail, outermost first
    page: int | None = None  # counted from 1, where the format has pages


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a revision: what is embedded and found. `text` is exactly what the embedder sees."""

    text: str
    position: int  # counted from 0 within the document
    headings: tuple[str, ...] = ()
    page: int | None = None
    fresh_at: int = 0  # where in `text` begins what the chunks before lack; 0 in a section's first, with its heading


@dataclass(frozen=True, slots=True)
class Stat:
    """What the disk says of a file without reading it; decides whether to hash."""

    size: int
    mtime_ns: int
    inode: int

    def __post_init__(self) -> None:
        # A time past the year 2262, or an inode of an overlay file system: more than SQLite's integers hold.
        if not (-LARGEST <= self.mtime_ns <= LARGEST and self.inode <= LARGEST):
            object.__setattr__(self, "mtime_ns", max(-LARGEST, min(self.mtime_ns, LARGEST)))
            object.__setattr__(self, "inode", self.inode % (LARGEST + 1))

    @property
    def modified_at(self) -> datetime:
        return datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a source says of its documents."""

    domain: str = ""
    tags: tuple[str, ...] = ()
    boost: float = 1.0

    def with_own(self, own: Labels) -> Labels:
        """These, which the settings say, together with what the document says of itself."""
        tags = (*self.tags, *(tag for tag in own.tags if tag not in self.tags))
        return Labels(own.domain or self.domain, tags, self.boost)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies: the source's name and the path's bytes below the source's folder.

    Bytes, because file names need not be UTF-8; `path` is the printable form.
    """

    source: str
    relative: bytes
    path: str  # absolute, printable


@dataclass(frozen=True, slots=True)
class Upsert:
    """A document's new revision, ready to commit. `vectors[i]` belongs to `chunks[i]`."""

    document_id: str
    place: Place
    stat: Stat
    content: str  # the content hash
    labels: Labels
    chunks: tuple[Chunk, ...]
    vectors: Vectors
    embedded_at: datetime
    own: Labels = Labels()  # those of `labels` that the document says of itself


@dataclass(frozen=True, slots=True)
class Rehome:
    """A live document's chunks at another place: moved (the same id) or copied (a new id). Nothing is parsed again."""

    document_id: str
    origin: str  # the document whose live chunks are taken
    place: Place
    stat: Stat
    content: str
    labels: Labels
    own: Labels = Labels()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the disk now says of a document, where memory does not change: touched, renamed while held, or held."""

    document_id: str
    place: Place
    stat: Stat
    content: str
    held: str | None = None  # the reason to put this content on hold: it equals content that a rollback took out


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be read; `content` is its hash where it was read at all."""

    document_id: str
    place: Place
    stat: Stat
    content: str | None
    error: str
    skipped: bool = False  # on purpose: it is listed, and not tried again


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit does. A document appears at most once."""

    upserts: tuple[Upsert, ...] = ()
    rehomed: tuple[Rehome, ...] = ()
    removed: tuple[str, ...] = ()  # document ids whose files are gone
    seen: tuple[Seen, ...] = ()
    failed: tuple[Failed, ...] = ()

    @property
    def changes_memory(self) -> bool:
        return bool(self.upserts or self.rehomed or self.removed)


@dataclass(frozen=True, slots=True)
class Known:
    """A document as the scan compares it with the disk."""

    document_id: str
    place: Place
    stat: Stat
    content: str | None  # the hash last seen on disk; None once the file is gone
    live: str | None  # the hash of the live revision
    labels: Labels | None  # of the live revision
    own: Labels  # those of them that the document says of itself
    error: str | None
    skipped: bool
    tries: int
    next_try_at: datetime | None
    held: bool
    held_content: str | None  # what is held; a held document with `content` None stays without its file


@dataclass(frozen=True, slots=True)
class Document:
    """A document for a list. `state`: live, failed, skipped, held or gone; one that failed or is held may still
    be live in an older revision, then `chunks` is not 0."""

    document_id: str
    source: str
    path: str
    state: str
    chunks: int
    modified_at: datetime | None
    ingested_at: datetime | None
    error: str | None
    tries: int = 0
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One content of a document; `until` None while it is live. Numbers are moves of the head."""

    document_id: str
    source: str
    path: str
    content: str
    generation: str
    since: int
    until: int | None
    modified_at: datetime
    ingested_at: datetime
    chunks: int
    labels: Labels
    own: Labels


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named, immutable head."""

    name: str
    head: Head
    created_at: datetime
    documents: int
    chunks: int
    config: str  # fingerprint of the settings that were in force
    reason: str
    pinned: bool = False  # retention leaves it alone
    undoes: str = ""  # what returning to it takes back: "rollback", "promotion", "query promotion"; "" for others


@dataclass(frozen=True, slots=True)
class Hold:
    """Content that a rollback took out (or, with `content` None, a document that it put back without a file)."""

    document_id: str
    path: str
    content: str | None
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Filters:
    """What narrows a search before it begins. `path` is a glob: `*` stays within a folder, `**` does not."""

    source: str | None = None
    domain: str | None = None
    tag: str | None = None
    path: str | None = None
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    ingested_after: datetime | None = None
    ingested_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that a search found."""

    chunk_id: str
    document_id: str
    source: str
    path: str
    revision: str
    position: int
    headings: tuple[str, ...]
    page: int | None
    text: str
    score: float  # what results are ordered by; greater is better
    domain: str
    tags: tuple[str, ...]
    modified_at: datetime
    ingested_at: datetime
    embedded_at: datetime
    fresh_at: int = 0  # as in Chunk
    boost: float = 1.0
    similarity: float = 0.0  # cosine of query and chunk, -1 to 1; a query adapter does not change it
    places: tuple[str, ...] = ()  # where else the same text stands

    @property
    def location(self) -> str:
        """The passage's place for a person: path, then page or heading trail."""
        place = f"page {self.page}" if self.page else " > ".join(self.headings)
        return f"{self.path}, {place}" if place else self.path


@dataclass(frozen=True, slots=True)
class Head:
    """What serves now, or served at a move of the head."""

    move: int  # number of the move that made it; grows by one
    at: datetime
    generation: str
    version: int
    adapter: int | None
    reason: str
    query_adapter: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A head that can be searched, and what it was asked for by."""

    head: Head
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk's text as a language model sees it, with where it came from."""

    chunk_id: str
    document_id: str
    text: str
    location: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One training or evaluation item.

    `gold` is the index of the passage that holds the answer, None when it was left out (then `target` says that the
    answer is not there). `answers` are the accepted short forms, for scoring.
    """

    example_id: str
    kind: str  # feedback, given, denied, heading, cloze, definition, entry
    question: str
    passages: tuple[Passage, ...]
    target: str
    answers: tuple[str, ...]
    gold: int | None
    document_id: str  # the split is by document
    episode: int = 0  # the refresh that first used it
    split: str = ""  # train, fresh, anchor, noise, abstain
    weight: float = 1.0  # how much it counts in training


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One query with what was found, what was answered, and what the user said of it."""

    retrieval_id: str
    at: datetime
    query: str
    mode: str  # search, base, adapter
    move: int  # the state that was searched
    hits: tuple[Mapping[str, Any], ...]  # chunk_id, document_id, score, in order
    answer: str | None = None
    feedback: str | None = None  # good, bad
    fault: str | None = None  # what is bad, where that is known: unsupported, wrong, citation (the answer is right)
    correction: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # k, filters, citations, seconds, tokens


@dataclass(frozen=True, slots=True)
class Ended:
    """How a refresh cycle ended, and what it made."""

    run: int
    decision: str
    reason: str
    adapter: int | None = None
    examples: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """One refresh cycle, as the catalogue keeps it.

    `decision`: running, promote, reject, inconclusive, failed, or control.
    """

    run: int
    started_at: datetime
    finished_at: datetime | None
    trigger: str
    move: int
    decision: str
    reason: str
    adapter: int | None  # the candidate's number
    incumbent: int | None
    examples: int
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation, as the catalogue keeps it."""

    evaluation: int
    at: datetime
    state: Mapping[str, Any]  # what was searched: version, generation, adapters, snapshot, as_of; {} for a collection
    config: str  # fingerprint of the settings in force
    kind: str  # file, logged, made, beir
    name: str  # of the file or folder, "" where there is none
    questions: int
    asked: str  # fingerprint of the questions: figures of the same ones compare
    metrics: Mapping[str, Any]
