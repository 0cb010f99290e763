"""The frozen dataclasses that pass between layers. All times are UTC, timezone-aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, dimension), rows of unit length


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


@dataclass(frozen=True, slots=True)
class Stat:
    """What the disk says of a file without reading it; decides whether to hash."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Labels:
    """What a source says of its documents."""

    domain: str = ""
    tags: tuple[str, ...] = ()
    boost: float = 1.0


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

    place: Place
    stat: Stat
    content: str  # the content hash
    chunks: tuple[Chunk, ...]
    vectors: Vectors
    labels: Labels = Labels()
    document_id: str | None = None  # None: a document not known before
    embedded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    source: str | None = None
    domain: str | None = None
    tag: str | None = None


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
    score: float  # cosine similarity, -1 to 1
    domain: str
    tags: tuple[str, ...]
    modified_at: datetime
    ingested_at: datetime
    embedded_at: datetime

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


@dataclass(frozen=True, slots=True)
class Example:
    """One training or evaluation item.

    `gold` is the index of the passage that holds the answer, None when it was left out (then `target` says that the
    answer is not there). `answers` are the accepted short forms, for scoring.
    """

    example_id: str
    kind: str  # feedback, heading, cloze, definition
    question: str
    passages: tuple[Passage, ...]
    target: str
    answers: tuple[str, ...]
    gold: int | None
    document_id: str  # the split is by document
    episode: int = 0  # the refresh that first used it
    split: str = ""  # train, fresh, anchor, noise, abstain


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One query with what was found, what was answered, and what the user said of it."""

    retrieval_id: str
    at: datetime
    query: str
    mode: str  # search, base, adapter
    head: Head
    hits: tuple[Mapping[str, Any], ...]  # chunk_id, document_id, score, in order
    answer: str | None = None
    feedback: str | None = None  # good, bad
    correction: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # citations, seconds, tokens
