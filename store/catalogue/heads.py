"""The head, its moves, the generations they name, and the settings that were in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, or_, select

from store.catalogue.tables import GenerationRow, HeadRow, MoveRow, SettingsRow
from store.types import Head


def head(session: Session) -> Head | None:
    row = session.exec(select(MoveRow).join(HeadRow, col(HeadRow.move) == col(MoveRow.move))).one_or_none()
    return None if row is None else as_head(row)


def move_head(
    session: Session, *, at: datetime, generation: str, version: int, adapter: int | None, reason: str
) -> Head:
    """Record a move and point the head at it. Takes effect when the session commits."""
    row = MoveRow(at=at, generation=generation, version=version, adapter=adapter, reason=reason)
    session.add(row)
    session.flush()
    assert row.move is not None
    session.merge(HeadRow(id=1, move=row.move))
    return as_head(row)


def at_version(session: Session, generation: str, version: int) -> Head | None:
    """The last state that served `version`."""
    query = select(MoveRow).where(MoveRow.generation == generation, MoveRow.version == version)
    row = session.exec(query.order_by(col(MoveRow.move).desc()).limit(1)).one_or_none()
    return None if row is None else as_head(row)


def at_time(session: Session, when: datetime, retained: Callable[[str, int], bool]) -> Head | None:
    """The state that served at `when`, or the newest before it whose version (generation, number) is `retained`."""
    query = select(MoveRow.move, MoveRow.generation, MoveRow.version).where(MoveRow.at <= when)
    for move, generation, version in session.exec(query.order_by(col(MoveRow.move).desc())):
        if retained(generation, version):
            return as_head(session.get_one(MoveRow, move))
    return None


def moves(session: Session, numbers: Iterable[int]) -> dict[int, Head]:
    """move -> the state that it made."""
    found = (session.get(MoveRow, number) for number in set(numbers))
    return {row.move: as_head(row) for row in found if row is not None and row.move is not None}


def versions_between(session: Session, generation: str, since: int, until: int | None) -> Iterator[int]:
    """The versions that served in the moves from `since` to before `until`, newest first."""
    query = select(MoveRow.version).where(MoveRow.generation == generation, col(MoveRow.move) >= since)
    if until is not None:
        query = query.where(col(MoveRow.move) < until)
    yield from session.exec(query.order_by(col(MoveRow.move).desc()))


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


def as_head(row: MoveRow) -> Head:
    assert row.move is not None
    return Head(row.move, row.at, row.generation, row.version, row.adapter, row.reason)
