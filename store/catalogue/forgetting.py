"""The catalogue's part of forgetting documents: what there is of them, and its removal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, String, cast, delete, false, or_
from sqlmodel import Session, col, func, select

from store.catalogue.tables import AdapterRow, ExampleRow, ForgettingRow, RetrievalRow, RevisionRow
from store.types import GENERATOR


def begin(session: Session, document_ids: Collection[str]) -> None:
    for document_id in document_ids:
        session.merge(ForgettingRow(document_id=document_id))


def begun(session: Session) -> list[str]:
    """The documents whose forgetting is not complete."""
    return sorted(session.exec(select(ForgettingRow.document_id)))


def end(session: Session) -> None:
    session.execute(delete(ForgettingRow))


def first_move(session: Session, document_ids: Sequence[str]) -> int | None:
    """The first state that had one of the documents; None when none ever did."""
    query = select(func.min(RevisionRow.since)).where(col(RevisionRow.document_id).in_(document_ids))
    found = session.exec(query).one()
    return None if found is None else int(found)


def drop_retrievals(session: Session, document_ids: Sequence[str]) -> int:
    """Remove the retrievals that found one of the documents, question and answer; returns how many."""
    found = list(
        session.exec(select(RetrievalRow.retrieval_id).where(_names(cast(RetrievalRow.hits, String), document_ids)))
    )
    session.execute(delete(RetrievalRow).where(col(RetrievalRow.retrieval_id).in_(found)))
    return len(found)


def runs_with(session: Session, document_ids: Sequence[str]) -> list[int]:
    """The refresh cycles with an example that shows one of the documents."""
    return sorted(set(session.exec(select(ExampleRow.run).where(_shows(document_ids)))))


def runs_without(session: Session, document_ids: Sequence[str]) -> set[int]:
    """The refresh cycles that have examples, none of which shows one of the documents."""
    return set(session.exec(select(ExampleRow.run).distinct())) - set(runs_with(session, document_ids))


def drop_examples(session: Session, document_ids: Sequence[str]) -> int:
    """Remove the examples that show one of the documents; returns how many."""
    found = session.exec(select(func.count()).select_from(ExampleRow).where(_shows(document_ids))).one()
    session.execute(delete(ExampleRow).where(_shows(document_ids)))
    return int(found)


def retire_adapters(session: Session, runs: Sequence[int], document_ids: Collection[str]) -> dict[int, str]:
    """The generators' adapters of these runs learned from what is forgotten, the query adapters that name one of the
    documents did, and so did those that went on from them: they never serve again. Returns number -> kind."""
    found: dict[int, str] = {}
    there = select(AdapterRow).where(AdapterRow.state != "retired")
    for row in session.exec(there.order_by(col(AdapterRow.adapter))):  # what went on from one is younger
        learned = row.run in runs if row.kind == GENERATOR else not set(document_ids).isdisjoint(row.documents)
        if row.adapter is not None and (learned or row.start in found):
            row.state, row.documents = "retired", []
            found[row.adapter] = row.kind
    return found


def retired(session: Session) -> list[int]:
    rows = session.exec(select(AdapterRow.adapter).where(AdapterRow.state == "retired"))
    return [adapter for adapter in rows if adapter is not None]


def newest_promoted(session: Session, kind: str) -> int | None:
    """The newest adapter of its kind that passed its gate and is not retired."""
    query = select(AdapterRow.adapter).where(AdapterRow.state == "promoted", AdapterRow.kind == kind)
    return session.exec(query.order_by(col(AdapterRow.adapter).desc()).limit(1)).one_or_none()


def _shows(document_ids: Sequence[str]) -> ColumnElement[bool]:
    return _names(cast(ExampleRow.body, String), document_ids)


def _names(text: ColumnElement[str], document_ids: Sequence[str]) -> ColumnElement[bool]:
    return or_(false(), *(text.contains(f'"{document_id}"', autoescape=True) for document_id in document_ids))
