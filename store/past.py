"""What earlier states of the memory held, and how they differ."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from store import snapshots
from store.catalogue import documents, heads, history
from store.catalogue.database import Database
from store.chunking import text_of
from store.difference import Difference, difference
from store.errors import NotFound, UsageError
from store.retention import Judged, Policy
from store.snapshots import Promotion
from store.types import Chunk, Document, Head, Revision, State
from store.vectors import Generations


@dataclass(frozen=True, slots=True)
class Served:
    """A revision in its document's history."""

    number: int  # counted from 1, oldest first
    revision: Revision
    since_at: datetime
    until_at: datetime | None
    reason: str  # of the move of the head that began it
    version: int | None  # the newest on disk that has its chunks; None when all were pruned


@dataclass(frozen=True, slots=True)
class TextDiff:
    """A unified diff of two revisions' texts, line by line; empty where they are equal."""

    first: Served
    second: Served
    lines: tuple[str, ...]


class Past:
    """Reached as `memory.past`. Changes nothing, and is safe from any thread.

    `state` finds what a WHEN means; None is the head.
    """

    def __init__(self, database: Database, vectors: Generations, state: Callable[[str | None], State]) -> None:
        self._database = database
        self._vectors = vectors
        self._state = state

    def documents(self, state: State) -> list[Document]:
        """What a state held, by path, with places, chunks and times as of then."""
        with self._database.read() as session:
            found = documents.live_at(session, state.head.move).values()
        return sorted(map(_as_document, found), key=lambda one: one.path)

    def find(self, name: str, state: State) -> Document:
        """The document of a state that `name` names: an id, a path or a path's end, as of then or as of now.

        Raises NotFound, and UsageError when it names several.
        """
        with self._database.read() as session:
            found = documents.find_at(session, name, state.head.move)
            if not found:
                ids = [one.document_id for one in documents.find(session, name)]
                found = [one for known in ids for one in documents.find_at(session, known, state.head.move)]
        if not found:
            moment = f"version {state.head.version} of {state.head.at:%Y-%m-%d %H:%M:%S} UTC"
            raise NotFound(f"no document {name!r} in {moment}; `memex documents --at` lists what a state held")
        if len(found) > 1:
            raise UsageError(f"{name!r} names {len(found)} documents; say more of the path, as in {found[0].path}")
        return _as_document(found[0])

    def at_move(self, move: int) -> State:
        """The state that a move of the head made. Raises NotFound when its version was pruned."""
        with self._database.read() as session:
            made, kept = heads.moves(session, [move]).get(move), heads.is_kept(session, move)
        if made is None or not kept:
            which = "its version" if made is None else f"version {made.version} of {made.at:%Y-%m-%d %H:%M:%S} UTC"
            raise NotFound(f"{which} was pruned; a snapshot keeps the version that it names")
        return State(made)

    def history(self, document_id: str) -> list[Served]:
        """The document's revisions, oldest first. The same content at a new place is a revision too."""
        with self._database.read() as session:
            found = documents.history(session, document_id)
            ends = (move for one in found for move in (one.since, one.until) if move is not None)
            moves = heads.moves(session, ends)
            on_disk = {generation: self._vectors.versions(generation) for generation in {r.generation for r in found}}
            versions = []
            for one in found:
                served = heads.versions_between(session, one.generation, one.since, one.until)
                versions.append(next((version for version in served if version in on_disk[one.generation]), None))
        return [
            Served(
                number=number,
                revision=one,
                since_at=moves[one.since].at,
                until_at=None if one.until is None else moves[one.until].at,
                reason=moves[one.since].reason,
                version=version,
            )
            for number, (one, version) in enumerate(zip(found, versions, strict=True), start=1)
        ]

    def text(self, document_id: str, served: Served) -> str:
        """A revision's text as it was parsed, put together from its chunks (see `chunking.text_of`).

        Raises NotFound when the versions that held it were pruned.
        """
        if served.version is None:
            raise NotFound(
                f"revision {served.number} of {served.revision.path}: its text is gone, as the versions that held it "
                "were pruned; a snapshot keeps what it names"
            )
        hits = self._vectors.chunks(served.revision.generation, served.version, [document_id])
        return text_of(Chunk(hit.text, hit.position, hit.headings, hit.page, hit.fresh_at) for hit in hits)

    def diff(self, document_id: str, first: str, second: str | None = None) -> TextDiff:
        """What changed from one revision of a document to another.

        Each is a number of its history, or a WHEN: what was live then; None is what is live now. Raises NotFound.
        """
        revisions = self.history(document_id)
        one, other = self._pick(revisions, first), self._pick(revisions, second)
        lines = difflib.unified_diff(
            self.text(document_id, one).split("\n"),
            self.text(document_id, other).split("\n"),
            f"{one.revision.path} (revision {one.number})",
            f"{other.revision.path} (revision {other.number})",
            one.since_at.isoformat(),
            other.since_at.isoformat(),
            lineterm="",
        )
        return TextDiff(one, other, tuple(lines))

    def difference(self, first: State, second: State) -> Difference:
        """What differs from one state to another: documents, what serves, settings."""
        with self._database.read() as session:
            changes = history.changes(session, first.head.move, second.head.move)
            settings = [
                heads.settings_at(session, state.head.move)
                if (named := history.snapshot(session, state.snapshot or "")) is None
                else heads.settings_of(session, named.config)
                for state in (first, second)
            ]
        return difference(first.head, second.head, changes, (settings[0], settings[1]))

    def promotion(self, since: datetime) -> Promotion | None:
        """The promotion by which the head's adapter serves (see `snapshots.promotion`)."""
        return snapshots.promotion(self._database, since)

    def judged(self, policy: Policy) -> Judged:
        """What pruning the snapshots would keep and remove."""
        return snapshots.judged(self._database, policy)

    def _pick(self, revisions: list[Served], which: str | None) -> Served:
        if which is not None and which.isdecimal() and len(which) < 19:
            if not 1 <= int(which) <= len(revisions):
                raise NotFound(f"no revision {which}; there are 1 to {len(revisions)} (`memex show --history`)")
            return revisions[int(which) - 1]
        head: Head = self._state(which).head
        for one in revisions:
            if one.revision.since <= head.move and (one.revision.until is None or head.move < one.revision.until):
                return one
        then = "now; name a second revision" if which is None else f"at {which!r}"
        raise NotFound(f"the document is not in memory {then} (`memex show --history` lists its revisions)")


def _as_document(one: Revision) -> Document:
    return Document(
        document_id=one.document_id,
        source=one.source,
        path=one.path,
        state="live",
        chunks=one.chunks,
        modified_at=one.modified_at,
        ingested_at=one.ingested_at,
        error=None,
    )
