"""Documents, their revisions, and what a commit does to them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import delete, func, update
from sqlmodel import Session, and_, col, or_, select

from store.catalogue import holds
from store.catalogue.tables import DocumentRow, HoldRow, RevisionRow
from store.types import (
    LONGEST_PAUSE,
    Batch,
    Document,
    Failed,
    Known,
    Labels,
    Place,
    Rehome,
    Revision,
    Seen,
    Stat,
    Upsert,
)

Value = TypeVar("Value")

FIRST_PAUSE = timedelta(minutes=1)  # before a failed file's second try; doubles with each, up to LONGEST_PAUSE


def known(session: Session, source: str | None = None) -> list[Known]:
    """Every document, gone ones too (their path may come back), for the scan."""
    return _known(session) if source is None else _known(session, DocumentRow.source == source)


def known_at(session: Session, source: str, relatives: Iterable[bytes]) -> dict[bytes, Known]:
    """What is known of these places. Where several documents have been at one, the one that is there now."""
    found = [
        one
        for some in portions(relatives)
        for one in _known(session, DocumentRow.source == source, col(DocumentRow.relative).in_(some))
    ]
    found.sort(key=lambda one: (one.content is not None, one.live is not None))
    return {one.place.relative: one for one in found}


def known_with(session: Session, contents: Iterable[str]) -> list[Known]:
    """The documents that are live with, held with, or whose file was last seen with, one of these contents."""
    return [
        one
        for some in portions(contents)
        for one in _known(
            session,
            or_(col(DocumentRow.content).in_(some), col(RevisionRow.content).in_(some), col(HoldRow.content).in_(some)),
        )
    ]


def _known(session: Session, *where: Any) -> list[Known]:
    """Reads columns, not rows: the scan of an unchanged folder is mostly this query."""
    columns: tuple[Any, ...] = (
        DocumentRow.document_id,
        DocumentRow.source,
        DocumentRow.relative,
        DocumentRow.path,
        DocumentRow.size,
        DocumentRow.mtime_ns,
        DocumentRow.inode,
        DocumentRow.content,
        RevisionRow.content,
        RevisionRow.domain,
        RevisionRow.tags,
        RevisionRow.boost,
        RevisionRow.own_domain,
        RevisionRow.own_tags,
        DocumentRow.error,
        DocumentRow.skipped,
        DocumentRow.tries,
        DocumentRow.next_try_at,
        HoldRow.id,
        HoldRow.content,
    )
    query = (
        select(*columns)
        .join(
            RevisionRow,
            (col(RevisionRow.document_id) == col(DocumentRow.document_id)) & col(RevisionRow.until).is_(None),
            isouter=True,
        )
        .join(HoldRow, col(HoldRow.document_id) == col(DocumentRow.document_id), isouter=True)
    )
    return [
        Known(
            document_id=one[0],
            place=Place(one[1], one[2], one[3]),
            stat=Stat(one[4], one[5], one[6]),
            content=one[7],
            live=one[8],
            labels=None if one[8] is None else Labels(one[9], tuple(one[10]), one[11]),
            own=Labels() if one[8] is None else Labels(one[12], tuple(one[13])),
            error=one[14],
            skipped=one[15],
            tries=one[16],
            next_try_at=one[17],
            held=one[18] is not None,
            held_content=one[19],
        )
        for one in session.execute(query.where(*where))
    ]


def apply(session: Session, batch: Batch, *, generation: str, move: int, now: datetime) -> None:
    """Write a batch into the catalogue: revisions dated from `move`, documents as the disk now is."""
    replaced = [*(u.document_id for u in batch.upserts), *(r.document_id for r in batch.rehomed)]
    others = [*(one.document_id for one in batch.seen), *(one.document_id for one in batch.failed)]
    rows = _rows(session, [*replaced, *batch.removed, *others])  # all at once, not one query each
    end_revisions(session, [*replaced, *batch.removed], move)
    holds.drop(session, replaced)
    holds.drop(session, batch.removed, without_content=True)  # what is held stays out if its file comes back
    for upsert in batch.upserts:
        _see(session, rows, upsert)
        session.add(_revision(upsert, generation, move, now, len(upsert.chunks)))
    counts = _chunk_counts(session, [one.origin for one in batch.rehomed], move)
    for one in batch.rehomed:
        _see(session, rows, one)
        session.add(_revision(one, generation, move, now, counts[one.origin]))
    for seen in batch.seen:
        _see(session, rows, seen)
        holds.drop_other(session, seen.document_id, seen.content)
        if seen.held:
            holds.add(session, seen.document_id, seen.content, seen.held, now)
    for document_id in batch.removed:
        if (row := rows.get(document_id)) is not None:
            row.content, row.error, row.skipped, row.tries, row.next_try_at = None, None, False, 0, None
    for failed in batch.failed:
        _fail(session, rows, failed, now)


def end_revisions(session: Session, document_ids: Sequence[str], move: int) -> None:
    for some in portions(document_ids):
        statement = update(RevisionRow).where(col(RevisionRow.document_id).in_(some), col(RevisionRow.until).is_(None))
        session.execute(statement.values(until=move))


def retry_now(session: Session, paths: Sequence[str] | None) -> int:
    """Make failed documents (all, or at and below these paths) due at once; returns how many."""
    statement = update(DocumentRow).where(col(DocumentRow.error).is_not(None))
    if paths is not None:
        below = (col(DocumentRow.path).startswith(path.rstrip("/") + "/", autoescape=True) for path in paths)
        statement = statement.where(or_(col(DocumentRow.path).in_(list(paths)), *below))
    result: Any = session.execute(statement.values(next_try_at=None, tries=0, skipped=False))
    return int(result.rowcount)


def drop_outlived(session: Session, oldest: int) -> None:
    """Remove documents that are gone from disk and from every state since the move `oldest`, with their revisions."""
    lived = or_(col(RevisionRow.until).is_(None), col(RevisionRow.until) > oldest)
    needed = select(RevisionRow.document_id).where(lived)
    gone = select(DocumentRow.document_id).where(
        col(DocumentRow.content).is_(None),
        col(DocumentRow.error).is_(None),
        col(DocumentRow.document_id).not_in(needed),
        col(DocumentRow.document_id).not_in(select(HoldRow.document_id)),
    )
    ids = list(session.exec(gone))
    for some in portions(ids):
        session.execute(delete(RevisionRow).where(col(RevisionRow.document_id).in_(some)))
        session.execute(delete(DocumentRow).where(col(DocumentRow.document_id).in_(some)))


def erase(session: Session, document_ids: Sequence[str]) -> None:
    """Remove documents with all their revisions and holds."""
    for some in portions(document_ids):
        for table in (RevisionRow, HoldRow, DocumentRow):
            session.execute(delete(table).where(col(table.document_id).in_(some)))


def keep_out(session: Session, one: Known, reason: str, now: datetime) -> None:
    """Know a file again, by its place and the hash of its content alone, and hold that content."""
    row = _row(session, {}, one.document_id, one.place)
    row.size, row.mtime_ns, row.inode, row.content = one.stat.size, one.stat.mtime_ns, one.stat.inode, one.content
    session.flush()
    holds.add(session, one.document_id, one.content, reason, now)


def live_at(session: Session, move: int, only: Iterable[str] | None = None) -> dict[str, Revision]:
    """document id -> the revision that was live in that state; of `only` these documents, where given."""
    query = select(RevisionRow).where(_live(move))
    queries = (
        [query] if only is None else [query.where(col(RevisionRow.document_id).in_(some)) for some in portions(only)]
    )
    return {row.document_id: _as_revision(row) for query in queries for row in session.exec(query)}


def touched(session: Session, first: int, second: int) -> set[str]:
    """The documents with a revision that began or ended between two states: no others can differ."""
    low, high = sorted((first, second))
    ends = (col(RevisionRow.since), col(RevisionRow.until))
    queries = (select(RevisionRow.document_id).where(end > low, end <= high) for end in ends)
    return {document_id for query in queries for document_id in session.exec(query)}


def find_at(session: Session, name: str, move: int) -> list[Revision]:
    """The revisions live in that state of the documents that `name` names then: an id, a path, or a path's end."""
    query = select(RevisionRow).where(_live(move), _named(RevisionRow, name))
    found = sorted(map(_as_revision, session.exec(query)), key=lambda one: one.path)
    return [one for one in found if name in (one.document_id, one.path)] or found


def history(session: Session, document_id: str) -> list[Revision]:
    query = select(RevisionRow).where(RevisionRow.document_id == document_id).order_by(col(RevisionRow.since))
    return [_as_revision(row) for row in session.exec(query)]


def counts_at(session: Session, move: int) -> tuple[int, int]:
    """(documents, chunks) of a state."""
    query = select(func.count(), func.coalesce(func.sum(RevisionRow.chunks), 0)).where(_live(move))
    documents, chunks = session.execute(query).one()
    return int(documents), int(chunks)


def listing(session: Session) -> list[Document]:
    """Every document that is live, failed or held, by path."""
    held = set(session.exec(select(HoldRow.document_id)))
    query = select(DocumentRow, RevisionRow).join(
        RevisionRow,
        (col(RevisionRow.document_id) == col(DocumentRow.document_id)) & col(RevisionRow.until).is_(None),
        isouter=True,
    )
    listed = []
    for row, live in session.exec(query.order_by(col(DocumentRow.path))):
        if row.error is None and live is None and row.document_id not in held:
            continue
        state = _state(row, live, held)
        listed.append(_as_document(row, live, state))
    return listed


def sources(session: Session) -> dict[str, int]:
    """source -> how many documents it has, live or failed."""
    live = select(RevisionRow.document_id).where(col(RevisionRow.until).is_(None))
    query = select(DocumentRow.source, func.count()).where(
        or_(col(DocumentRow.document_id).in_(live), col(DocumentRow.error).is_not(None))
    )
    return {name: int(count) for name, count in session.execute(query.group_by(DocumentRow.source))}


def find(session: Session, name: str) -> list[Document]:
    """The documents that `name` names: an id, a path, or the last part of a path. Gone ones are found too, last."""
    query = select(DocumentRow, RevisionRow).join(
        RevisionRow,
        (col(RevisionRow.document_id) == col(DocumentRow.document_id)) & col(RevisionRow.until).is_(None),
        isouter=True,
    )
    held = set(session.exec(select(HoldRow.document_id)))
    found = []
    for row, live in session.exec(query.where(_named(DocumentRow, name))):
        state = _state(row, live, held)
        found.append(_as_document(row, live, state))
    exact = [one for one in found if name in (one.document_id, one.path)]
    return sorted(exact or found, key=lambda one: (one.state == "gone", one.path))


def _live(move: int) -> Any:
    return and_(col(RevisionRow.since) <= move, or_(col(RevisionRow.until).is_(None), col(RevisionRow.until) > move))


def _named(table: type[DocumentRow] | type[RevisionRow], name: str) -> Any:
    return or_(
        col(table.document_id) == name,
        col(table.path) == name,
        col(table.path).endswith("/" + name.lstrip("/"), autoescape=True),
    )


def _state(row: DocumentRow, live: RevisionRow | None, held: set[str]) -> str:
    if row.error is not None:
        return "skipped" if row.skipped else "failed"
    if row.document_id in held:
        return "held"
    return "gone" if live is None else "live"


def _rows(session: Session, document_ids: Iterable[str]) -> dict[str, DocumentRow]:
    return {
        row.document_id: row
        for some in portions(document_ids)
        for row in session.exec(select(DocumentRow).where(col(DocumentRow.document_id).in_(some)))
    }


def _see(session: Session, rows: dict[str, DocumentRow], one: Upsert | Rehome | Seen) -> None:
    """The document's file is there and was read without error."""
    row = _row(session, rows, one.document_id, one.place)
    row.size, row.mtime_ns, row.inode = one.stat.size, one.stat.mtime_ns, one.stat.inode
    row.content = one.content
    row.error, row.skipped, row.tries = None, False, 0
    row.first_failed_at = row.last_failed_at = row.next_try_at = None


def _fail(session: Session, rows: dict[str, DocumentRow], failed: Failed, now: datetime) -> None:
    row = _row(session, rows, failed.document_id, failed.place)
    row.size, row.mtime_ns, row.inode = failed.stat.size, failed.stat.mtime_ns, failed.stat.inode
    row.content = failed.content or row.content
    row.error, row.skipped, row.tries = failed.error, failed.skipped, row.tries + 1
    row.first_failed_at, row.last_failed_at = row.first_failed_at or now, now
    if failed.skipped:
        return
    pause = min(FIRST_PAUSE * 2 ** min(row.tries - 1, 20), LONGEST_PAUSE)
    row.next_try_at = now + pause * random.uniform(1.0, 1.1)  # so that a thousand do not come back together


def _row(session: Session, rows: dict[str, DocumentRow], document_id: str, place: Place) -> DocumentRow:
    row = rows.get(document_id)
    if row is None:
        row = DocumentRow(
            document_id=document_id, source=place.source, relative=place.relative, path=place.path,
            size=0, mtime_ns=0, inode=0,
        )  # fmt: skip
        session.add(row)
        rows[document_id] = row
    row.source, row.relative, row.path = place.source, place.relative, place.path
    return row


def _revision(one: Upsert | Rehome, generation: str, move: int, now: datetime, chunks: int) -> RevisionRow:
    return RevisionRow(
        document_id=one.document_id,
        source=one.place.source,
        path=one.place.path,
        content=one.content,
        generation=generation,
        since=move,
        modified_at=one.stat.modified_at,
        ingested_at=now,
        chunks=chunks,
        domain=one.labels.domain,
        tags=list(one.labels.tags),
        boost=one.labels.boost,
        own_domain=one.own.domain,
        own_tags=list(one.own.tags),
    )


def _chunk_counts(session: Session, origins: Sequence[str], move: int) -> dict[str, int]:
    """The origins' chunks just before `move`; one that moves has ended its revision in this very session."""
    counts: dict[str, int] = {}
    for some in portions(origins):
        query = select(RevisionRow.document_id, RevisionRow.chunks).where(
            col(RevisionRow.document_id).in_(some),
            or_(col(RevisionRow.until).is_(None), RevisionRow.until == move),
            RevisionRow.since < move,
        )
        counts.update((document_id, chunks) for document_id, chunks in session.execute(query))
    return counts


def portions(values: Iterable[Value], size: int = 500) -> Iterable[list[Value]]:
    """SQLite binds a limited number of variables to one statement."""
    rest = list(values)
    return (rest[start : start + size] for start in range(0, len(rest), size))


def _as_revision(row: RevisionRow) -> Revision:
    return Revision(
        document_id=row.document_id,
        source=row.source,
        path=row.path,
        content=row.content,
        generation=row.generation,
        since=row.since,
        until=row.until,
        modified_at=row.modified_at,
        ingested_at=row.ingested_at,
        chunks=row.chunks,
        labels=Labels(row.domain, tuple(row.tags), row.boost),
        own=Labels(row.own_domain, tuple(row.own_tags)),
    )


def _as_document(row: DocumentRow, live: RevisionRow | None, state: str) -> Document:
    return Document(
        document_id=row.document_id,
        source=row.source,
        path=row.path,
        state=state,
        chunks=live.chunks if live else 0,
        modified_at=live.modified_at if live else Stat(row.size, row.mtime_ns, row.inode).modified_at,
        ingested_at=live.ingested_at if live else None,
        error=row.error,
        tries=row.tries,
        first_failed_at=row.first_failed_at,
        last_failed_at=row.last_failed_at,
        next_try_at=row.next_try_at,
    )
