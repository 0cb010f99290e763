"""Holds: what a rollback took out and keeps out, or put back and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, or_, select

from store.catalogue.tables import DocumentRow, HoldRow
from store.types import Hold


def listing(session: Session) -> list[Hold]:
    query = select(HoldRow, DocumentRow.path).join(
        DocumentRow, col(DocumentRow.document_id) == col(HoldRow.document_id)
    )
    rows = session.exec(query.order_by(col(DocumentRow.path)))
    return [Hold(row.document_id, path, row.content, row.reason, row.at) for row, path in rows]


def add(session: Session, document_id: str, content: str | None, reason: str, at: datetime) -> None:
    """Hold one document at one content, in place of what was held of it before."""
    drop(session, [document_id])
    session.add(HoldRow(document_id=document_id, content=content, reason=reason, at=at))


def drop(session: Session, document_ids: Sequence[str], *, without_content: bool = False) -> None:
    """End the documents' holds; with `without_content` only those that put back a document without its file."""
    held = set(session.exec(select(HoldRow.document_id)))  # few, mostly none
    for document_id in held.intersection(document_ids):
        statement = delete(HoldRow).where(col(HoldRow.document_id) == document_id)
        session.execute(statement.where(col(HoldRow.content).is_(None)) if without_content else statement)


def drop_other(session: Session, document_id: str, content: str) -> None:
    """End a document's hold unless `content` is what it holds: the file has changed."""
    held = or_(col(HoldRow.content).is_(None), col(HoldRow.content) != content)
    session.execute(delete(HoldRow).where(col(HoldRow.document_id) == document_id, held))
