"""What the files of the tables looked like when they were new: Lance keeps no checksum of its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import delete
from sqlmodel import Session, col, select

from store.catalogue.documents import portions
from store.catalogue.tables import SealRow


def all_seals(session: Session) -> dict[str, str]:
    """path below the tables' folder -> sha256."""
    return {row.path: row.sha256 for row in session.exec(select(SealRow))}


def add(session: Session, seals: Mapping[str, str]) -> None:
    session.add_all(SealRow(path=path, sha256=sha256) for path, sha256 in seals.items())


def drop(session: Session, paths: Iterable[str]) -> None:
    for some in portions(paths):
        session.execute(delete(SealRow).where(col(SealRow.path).in_(some)))
