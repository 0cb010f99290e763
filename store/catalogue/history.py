"""Snapshots, and the catalogue's half of a rollback."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from store.catalogue import documents, heads, holds
from store.catalogue.tables import DocumentRow, IntentRow, MoveRow, RevisionRow, SnapshotRow
from store.types import Head, Hold, Revision, Snapshot


@dataclass(frozen=True, slots=True)
class Intent:
    """A rollback that has begun: to which snapshot, which half of it, and the snapshot of the state before.

    `why` is there when the adapter that serves is what must go: see `snapshots.roll_back`.
    """

    snapshot: str
    only: str | None
    safety: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What returning to a state does to one document. `document` and `then` as of now and as of that state."""

    document_id: str
    now: Revision | None
    then: Revision | None


def add_snapshot(session: Session, snapshot: Snapshot) -> None:
    head = snapshot.head
    session.add(
        SnapshotRow(
            name=snapshot.name,
            move=head.move,
            generation=head.generation,
            version=head.version,
            adapter=head.adapter,
            query_adapter=head.query_adapter,
            created_at=snapshot.created_at,
            documents=snapshot.documents,
            chunks=snapshot.chunks,
            config=snapshot.config,
            reason=snapshot.reason,
            pinned=snapshot.pinned,
            undoes=snapshot.undoes,
        )
    )


def snapshots(session: Session) -> list[Snapshot]:
    """Oldest first."""
    query = select(SnapshotRow, MoveRow).join(MoveRow, col(MoveRow.move) == col(SnapshotRow.move))
    rows = session.exec(query.order_by(col(SnapshotRow.created_at), col(SnapshotRow.name)))
    return [_as_snapshot(row, move) for row, move in rows]


def snapshot(session: Session, name: str) -> Snapshot | None:
    row = session.get(SnapshotRow, name)
    if row is None:
        return None
    move = session.get(MoveRow, row.move)
    assert move is not None
    return _as_snapshot(row, move)


def delete_snapshot(session: Session, name: str) -> None:
    row = session.get(SnapshotRow, name)
    if row is not None:
        session.delete(row)


def pin(session: Session, name: str, pinned: bool) -> None:
    row = session.get(SnapshotRow, name)
    if row is not None:
        row.pinned = pinned


def recount(session: Session) -> None:
    """Count the snapshots' documents and chunks anew, after some were forgotten."""
    for row in session.exec(select(SnapshotRow)):
        row.documents, row.chunks = documents.counts_at(session, row.move)


def intent(session: Session) -> Intent | None:
    row = session.get(IntentRow, 1)
    return None if row is None else Intent(row.snapshot, row.only, row.safety, row.why)


def write_intent(session: Session, intent: Intent) -> None:
    """In place of one that a rollback which failed could not take back."""
    session.merge(IntentRow(id=1, snapshot=intent.snapshot, only=intent.only, safety=intent.safety, why=intent.why))


def clear_intent(session: Session) -> None:
    row = session.get(IntentRow, 1)
    if row is not None:
        session.delete(row)


def changes(session: Session, now: int, then: int) -> list[Change]:
    """The documents whose live revision differs between two states, by id."""
    touched = documents.touched(session, now, then)
    before, after = documents.live_at(session, now, touched), documents.live_at(session, then, touched)
    differing = [
        Change(document_id, before.get(document_id), after.get(document_id))
        for document_id in before.keys() | after.keys()
        if _essence(before.get(document_id)) != _essence(after.get(document_id))
    ]
    return sorted(differing, key=lambda change: change.document_id)


def to_hold(session: Session, changed: list[Change], snapshot: str, at: datetime) -> list[Hold]:
    """What a rollback to `snapshot` must hold of the documents that it changes, for the next scan not to undo it.

    That is one whose file still has what memory no longer has, or whose file is gone while memory has it again.
    """
    found = []
    held_before = {hold.document_id: hold.content for hold in holds.listing(session)}
    for change in changed:
        row = session.get(DocumentRow, change.document_id)
        live = change.then.content if change.then else None
        on_disk = row.content if row else None
        held = held_before.get(change.document_id)
        undone = (None, change.now.content if change.now else None, held)
        if row is not None and on_disk != live and on_disk in undone:
            kept_out = on_disk or held  # a file that is gone may come back
            content = None if kept_out == live else kept_out
            why = "taken out by the rollback to" if on_disk else "without its file since the rollback to"
            found.append(Hold(change.document_id, row.path, content, f"{why} {snapshot}", at))
    return found


def reconcile(session: Session, changed: list[Change], *, head: Head, snapshot: str) -> int:
    """Make the revisions those of `snapshot`, put what was undone on hold, and return how many documents are held.

    `head` is the state that the rollback makes.
    """
    held = to_hold(session, changed, snapshot, head.at)
    documents.end_revisions(session, [change.document_id for change in changed if change.now], head.move)
    session.add_all(_reopened(change.then, head) for change in changed if change.then is not None)
    holds.drop(session, [change.document_id for change in changed])
    for one in held:
        holds.add(session, one.document_id, one.content, one.reason, one.at)
    return len(holds.listing(session))


def _essence(revision: Revision | None) -> tuple[str, str, str, str, tuple[object, ...]] | None:
    if revision is None:
        return None
    labels = (revision.labels.domain, revision.labels.tags, revision.labels.boost)
    return revision.generation, revision.source, revision.path, revision.content, labels


def _reopened(revision: Revision, head: Head) -> RevisionRow:
    return RevisionRow(
        document_id=revision.document_id,
        source=revision.source,
        path=revision.path,
        content=revision.content,
        generation=revision.generation,
        since=head.move,
        modified_at=revision.modified_at,
        ingested_at=revision.ingested_at,
        chunks=revision.chunks,
        domain=revision.labels.domain,
        tags=list(revision.labels.tags),
        boost=revision.labels.boost,
        own_domain=revision.own.domain,
        own_tags=list(revision.own.tags),
    )


def _as_snapshot(row: SnapshotRow, move: MoveRow) -> Snapshot:
    return Snapshot(
        name=row.name,
        head=heads.as_head(move),
        created_at=row.created_at,
        documents=row.documents,
        chunks=row.chunks,
        config=row.config,
        reason=row.reason,
        pinned=row.pinned,
        undoes=row.undoes,
    )
