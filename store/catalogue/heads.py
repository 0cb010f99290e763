"""The head, its moves, and the generations they name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from store.catalogue.tables import GenerationRow, HeadRow, IntentRow, MoveRow
from store.types import Head


def head(session: Session) -> Head | None:
    row = session.exec(select(MoveRow).join(HeadRow, col(HeadRow.move) == col(MoveRow.move))).one_or_none()
    return None if row is None else as_head(row)


def move_head(
    session: Session, *, at: datetime, generation: str, version: int, adapter: int | None, reason: str
) -> Head:
    """Record a move and point the head at it. Takes effect when the session commits.

    A rollback that is still intended ends with this: either it is the one, or it failed and was overtaken.
    """
    row = MoveRow(at=at, generation=generation, version=version, adapter=adapter, reason=reason)
    session.add(row)
    session.flush()
    assert row.move is not None
    session.merge(HeadRow(id=1, move=row.move))
    session.execute(delete(IntentRow))
    return as_head(row)


def at_version(session: Session, generation: str, version: int) -> Head | None:
    """The last state that served `version`."""
    query = select(MoveRow).where(MoveRow.generation == generation, MoveRow.version == version)
    row = session.exec(query.order_by(col(MoveRow.move).desc()).limit(1)).one_or_none()
    return None if row is None else as_head(row)


def at_time(session: Session, when: datetime) -> Head | None:
    """The state that served at `when`."""
    query = select(MoveRow).where(MoveRow.at <= when).order_by(col(MoveRow.move).desc()).limit(1)
    row = session.exec(query).one_or_none()
    return None if row is None else as_head(row)


def add_generation(session: Session, generation: str, settings: dict[str, Any], at: datetime) -> None:
    session.merge(GenerationRow(generation=generation, settings=settings, created_at=at))


def generation_settings(session: Session, generation: str) -> dict[str, Any]:
    row = session.get(GenerationRow, generation)
    return {} if row is None else dict(row.settings)


def as_head(row: MoveRow) -> Head:
    assert row.move is not None
    return Head(row.move, row.at, row.generation, row.version, row.adapter, row.reason)
