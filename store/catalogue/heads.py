"""The head, its moves, the generations they name, and the settings that were in force."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, union, update
from sqlmodel import Session, and_, col, or_, select

from store.catalogue.tables import (
    GenerationRow,
    HeadRow,
    IntentRow,
    MoveRow,
    OriginRow,
    RetrievalRow,
    RevisionRow,
    RunRow,
    SettingsRow,
    SnapshotRow,
)
from store.types import GENERATOR, QUERY, Head

# Every search begins with it: plain columns, and a statement that is compiled once.
_SERVES = select(*MoveRow.__table__.c).join(HeadRow, col(HeadRow.move) == col(MoveRow.move))  # type: ignore[attr-defined]


def head(session: Session) -> Head | None:
    session.flush()
    row = session.connection().execute(_SERVES).one_or_none()
    return None if row is None else as_head(row)


_VERSION = select(col(MoveRow.version)).where(col(MoveRow.move) == bindparam("move"))


def stands(session: Session, head: Head) -> bool:
    """Whether a state still has the version that it had: forgetting gives it another."""
    return session.connection().execute(_VERSION, {"move": head.move}).scalar_one_or_none() == head.version


def move_head(session: Session, state: Head) -> Head:
    """Record a move to a state and point the head at it; what is returned has the move's number. Takes effect when the
    session commits.

    A rollback that is still intended ends with this: either it is the one, or it failed and was overtaken.
    """
    row = MoveRow(
        at=state.at,
        generation=state.generation,
        version=state.version,
        adapter=state.adapter,
        query_adapter=state.query_adapter,
        reason=state.reason,
    )
    session.add(row)
    session.flush()
    assert row.move is not None
    session.merge(HeadRow(id=1, move=row.move))
    session.execute(delete(IntentRow))
    return as_head(row)


def at_version(session: Session, generation: str, version: int) -> Head | None:
    """The last state that served `version`, if it is still there."""
    query = select(MoveRow).where(MoveRow.generation == generation, MoveRow.version == version, col(MoveRow.kept))
    row = session.exec(query.order_by(col(MoveRow.move).desc()).limit(1)).one_or_none()
    return None if row is None else as_head(row)


def at_time(session: Session, when: datetime) -> Head | None:
    """The newest state at or before `when` that is still there."""
    query = select(MoveRow).where(MoveRow.at <= when, col(MoveRow.kept)).order_by(col(MoveRow.move).desc()).limit(1)
    row = session.exec(query).one_or_none()
    return None if row is None else as_head(row)


def latest_choice(session: Session, since: datetime) -> Head | None:
    """The state that the latest promotion, or rollback of more than the index, made at or after `since`."""
    why = col(MoveRow.reason)
    chosen = or_(why.like("% promoted"), and_(why.like("rollback to %"), why.not_like("%(index only)")))
    query = select(MoveRow).where(MoveRow.at >= since, chosen).order_by(col(MoveRow.move).desc()).limit(1)
    row = session.exec(query).one_or_none()
    return None if row is None else as_head(row)


def moves(session: Session, numbers: Iterable[int]) -> dict[int, Head]:
    """move -> the state that it made."""
    found = (session.get(MoveRow, number) for number in set(numbers))
    return {row.move: as_head(row) for row in found if row is not None and row.move is not None}


def is_kept(session: Session, move: int) -> bool:
    """Whether the state that the move made can be returned to."""
    row = session.get(MoveRow, move)
    return row is not None and row.kept


def versions_between(session: Session, generation: str, since: int, until: int | None) -> Iterator[int]:
    """The versions that served in the moves from `since` to before `until`, newest first."""
    query = select(MoveRow.version).where(MoveRow.generation == generation, col(MoveRow.move) >= since)
    if until is not None:
        query = query.where(col(MoveRow.move) < until)
    yield from session.exec(query.order_by(col(MoveRow.move).desc()))


def oldest_kept(session: Session) -> int:
    """The first move whose state is still there."""
    return int(session.exec(select(func.min(MoveRow.move)).where(col(MoveRow.kept))).one() or 0)


def latest_versions(session: Session, generation: str, count: int) -> set[int]:
    """The versions of the latest `count` states."""
    query = select(MoveRow.version).where(MoveRow.generation == generation, col(MoveRow.kept))
    return set(session.exec(query.order_by(col(MoveRow.move).desc()).limit(count)))


def kept_versions(session: Session, generation: str) -> set[int]:
    """The versions of the states that can be returned to."""
    return set(session.exec(select(MoveRow.version).where(MoveRow.generation == generation, col(MoveRow.kept))))


def keep_only(session: Session, generation: str, versions: Collection[int]) -> None:
    """Offer none but these versions' states from now on."""
    others = col(MoveRow.version).not_in(versions)
    session.execute(update(MoveRow).where(col(MoveRow.generation) == generation, others).values(kept=False))


def rewritten(session: Session, generation: str, versions: Mapping[int, int]) -> None:
    """What was in one version is in another now: the states that served the old ones serve the new ones."""
    for old, new in versions.items():
        for table in (MoveRow, SnapshotRow):
            ours = (col(table.generation) == generation, col(table.version) == old)
            session.execute(update(table).where(*ours).values(version=new))


def without_adapters(session: Session, retired: Collection[int], instead: Mapping[str, int | None]) -> None:
    """States that served with a retired adapter serve with another one of its kind."""
    for table in (MoveRow, SnapshotRow):
        for column, other in ((col(table.adapter), instead[GENERATOR]), (col(table.query_adapter), instead[QUERY])):
            session.execute(update(table).where(column.in_(retired)).values({column: other}))


def drop_unused(session: Session) -> None:
    """Remove moves whose state is gone and that nothing is dated by."""
    used: Any = union(
        select(RevisionRow.since),
        select(RevisionRow.until).where(col(RevisionRow.until).is_not(None)),
        select(RetrievalRow.move),
        select(RunRow.move),
    )
    session.execute(delete(MoveRow).where(col(MoveRow.kept).is_(False), col(MoveRow.move).not_in(used)))


def add_generation(session: Session, generation: str, settings: dict[str, Any], at: datetime) -> None:
    session.merge(GenerationRow(generation=generation, settings=settings, created_at=at))


def generation_settings(session: Session, generation: str) -> dict[str, Any]:
    row = session.get(GenerationRow, generation)
    return {} if row is None else dict(row.settings)


def note_settings(session: Session, move: int, config: str, settings: dict[str, Any]) -> None:
    """After `move` these settings are in force; nothing to note where they were already."""
    latest = session.exec(select(SettingsRow.config).order_by(col(SettingsRow.id).desc()).limit(1)).one_or_none()
    if latest != config:
        session.add(SettingsRow(since=move, config=config, settings=settings))


def settings_of(session: Session, config: str) -> dict[str, Any]:
    """The settings of this fingerprint; {} when they are not known."""
    row = session.exec(select(SettingsRow).where(SettingsRow.config == config).limit(1)).one_or_none()
    return {} if row is None else dict(row.settings)


def settings_at(session: Session, move: int) -> dict[str, Any]:
    """The settings that a state was made under; those in force now where it is the head."""
    now = head(session)
    query = select(SettingsRow).order_by(col(SettingsRow.id).desc()).limit(1)
    if now is None or now.move != move:
        query = query.where(
            or_(SettingsRow.since < move, SettingsRow.since == 1)
        )  # the first state was made under these
    row = session.exec(query).one_or_none()
    return {} if row is None else dict(row.settings)


def origin(session: Session) -> str:
    """The name that tells this memory from any other; given when it is first asked for."""
    row = session.get(OriginRow, 1)
    if row is None:
        row = OriginRow(id=1, name=uuid.uuid4().hex)
        session.add(row)
    return row.name


def as_head(row: MoveRow | Row[Any]) -> Head:
    assert row.move is not None
    return Head(row.move, row.at, row.generation, row.version, row.adapter, row.reason, row.query_adapter)
