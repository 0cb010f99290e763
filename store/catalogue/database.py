"""Opening the catalogue and its transactions.

WAL with `synchronous=FULL`: in NORMAL a power cut loses acknowledged rows (a kill does not). That is enough for the log
of retrievals alone, where each row would cost a search a sync of the disk. Writes begin with BEGIN IMMEDIATE, since one
that reads first and writes later gets SQLITE_BUSY_SNAPSHOT at once, whatever the timeout
(https://www.sqlite.org/isolation.html).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, QueuePool, event
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session as Session
from sqlmodel import SQLModel, create_engine

from store.catalogue import tables
from store.errors import Corrupt
from store.sqlite import address, as_ours

SCHEMA = 5
WORTH_VACUUM = 1000  # pages, 4 kB each
CATALOGUE = "catalogue.sqlite"
RESTORING = "catalogue.restoring"  # stands for it while a restore fills the state directory


class Database:
    """The catalogue's file. `read()` sees one consistent state; `write()` commits whole or not at all."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open `path`, making its tables when `create`. Raises Corrupt when the file is not a catalogue of ours."""
        if path.with_name(RESTORING).exists():
            raise Corrupt(f"{path.parent}: a restore into it was cut off; run `memex restore DIR` again")
        self.path = path
        self._reader = _engine(path, "BEGIN")
        self._writer = _engine(path, "BEGIN IMMEDIATE")
        self._logger = _engine(path, "BEGIN IMMEDIATE", synchronous="NORMAL")
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Raises Corrupt and DiskFailed."""
        with self._ours(), Session(self._reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Raises DiskFailed, and nothing has changed; and Corrupt."""
        with self._ours(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def log(self) -> Iterator[Session]:
        """As `write`, but the disk is not waited for: a power cut may take the latest of what was written so."""
        with self._ours(), Session(self._logger, expire_on_commit=False) as session, session.begin():
            yield session

    def vacuum(self) -> None:
        """Give back the file's unused pages, once they are a quarter of it and worth the work."""
        with self._ours(), self._writer.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            pages, free = (driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
            if free > WORTH_VACUUM and free > pages // 4:
                driver.execute("VACUUM")

    def faults(self, *, thorough: bool) -> list[str]:
        """What SQLite finds wrong with the file; `thorough` reads the indices against their tables too."""
        with self._ours(), self._reader.connect() as connection:
            found = connection.exec_driver_sql(f"PRAGMA {'integrity_check' if thorough else 'quick_check'}").scalars()
            return [line for line in found if line != "ok"]

    def checkpoint(self) -> None:
        """Move the journal into the file and empty it, so that nothing removed is left in it."""
        with self._ours(), self._writer.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _open(self, create: bool) -> None:
        with self._ours():
            with (self._writer if create else self._reader).connect() as connection:
                found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found == 0 and create:
                SQLModel.metadata.create_all(self._writer, tables=_tables())
                with self._writer.connect() as connection:
                    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA}")
                    connection.commit()
            elif found != SCHEMA:
                raise Corrupt(
                    f"{self.path}: catalogue schema {found}, this memex reads {SCHEMA}; use the memex that wrote it"
                )

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            raise as_ours(error.orig, self.path) or error from error

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()
        self._logger.dispose()


def _tables() -> list[Any]:
    rows = [row for row in vars(tables).values() if isinstance(row, type) and issubclass(row, SQLModel)]
    return [row.__table__ for row in rows if hasattr(row, "__table__")]  # type: ignore[attr-defined]


def _engine(path: Path, begin: str, synchronous: str = "FULL") -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address(path), uri=True, timeout=30, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # ours to begin, not the driver's
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
