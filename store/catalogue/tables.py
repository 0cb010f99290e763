"""The tables of the catalogue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Column, Index, LargeBinary, text
from sqlalchemy.types import BigInteger, TypeDecorator
from sqlmodel import Field, SQLModel

from store.types import GENERATOR

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(TypeDecorator[datetime]):
    """A UTC time as whole microseconds since 1970: sorts, compares and keeps its zone, which SQLite's own do not."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else round((value - EPOCH) / timedelta(microseconds=1))

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=value)


class OriginRow(SQLModel, table=True):
    """One row: the name that tells this memory from any other, wherever it is copied to."""

    __tablename__ = "origin"
    id: int = Field(default=1, primary_key=True)
    name: str


class GenerationRow(SQLModel, table=True):
    __tablename__ = "generations"
    generation: str = Field(primary_key=True)
    settings: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcTime)


class SettingsRow(SQLModel, table=True):
    """All settings as they were in force for the moves after `since`, until the next row's."""

    __tablename__ = "settings"
    id: int | None = Field(default=None, primary_key=True)
    since: int
    config: str = Field(index=True)  # their fingerprint
    settings: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class MoveRow(SQLModel, table=True):
    """Every state the head has been in. Revisions are dated in moves, which grow across generations."""

    __tablename__ = "moves"
    move: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=UtcTime, index=True)
    generation: str
    version: int = Field(index=True)
    adapter: int | None = None
    query_adapter: int | None = None
    reason: str
    kept: bool = True  # whether its version is still there to be returned to


class HeadRow(SQLModel, table=True):
    """One row: the only commit pointer."""

    __tablename__ = "head"
    id: int = Field(default=1, primary_key=True)
    move: int


class DocumentRow(SQLModel, table=True):
    """One file of a source. `content` is the hash last seen on disk, None once the file is gone from there."""

    __tablename__ = "documents"
    __table_args__ = (Index("documents_place", "source", "relative"),)
    document_id: str = Field(primary_key=True)
    source: str
    relative: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    path: str = Field(index=True)
    size: int
    mtime_ns: int
    inode: int
    content: str | None = Field(default=None, index=True)
    error: str | None = None
    skipped: bool = False
    tries: int = 0
    first_failed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    last_failed_at: datetime | None = Field(default=None, sa_type=UtcTime)
    next_try_at: datetime | None = Field(default=None, sa_type=UtcTime)


class RevisionRow(SQLModel, table=True):
    """One content of a document at one path, live in the states `since <= move < until`."""

    __tablename__ = "revisions"
    __table_args__ = (
        Index("revisions_live", "document_id", unique=True, sqlite_where=text("until IS NULL")),
        Index("revisions_of", "document_id", "since"),
        Index("revisions_counted", "chunks", sqlite_where=text("until IS NULL")),  # all that counting the live needs
        Index("revisions_since", "since"),
        Index("revisions_until", "until"),
    )
    id: int | None = Field(default=None, primary_key=True)
    document_id: str
    source: str
    path: str
    content: str = Field(index=True)
    generation: str
    since: int
    until: int | None = None
    modified_at: datetime = Field(sa_type=UtcTime)
    ingested_at: datetime = Field(sa_type=UtcTime)
    chunks: int
    domain: str = ""
    tags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    boost: float = 1.0
    own_domain: str = ""
    own_tags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class HoldRow(SQLModel, table=True):
    """What a rollback keeps from being obeyed. `content` None: the file is gone from disk and the document stays."""

    __tablename__ = "holds"
    id: int | None = Field(default=None, primary_key=True)
    document_id: str = Field(index=True)
    content: str | None = Field(default=None, index=True)
    reason: str
    at: datetime = Field(sa_type=UtcTime)


class SnapshotRow(SQLModel, table=True):
    __tablename__ = "snapshots"
    name: str = Field(primary_key=True)
    move: int
    generation: str
    version: int
    adapter: int | None = None
    query_adapter: int | None = None
    created_at: datetime = Field(sa_type=UtcTime)
    documents: int
    chunks: int
    config: str
    reason: str
    pinned: bool = False
    undoes: str = ""


class IntentRow(SQLModel, table=True):
    """One row at most: a rollback that has begun. A start that finds it completes it."""

    __tablename__ = "intent"
    id: int = Field(default=1, primary_key=True)
    snapshot: str
    only: str | None = None
    safety: str
    why: str = ""


class ForgettingRow(SQLModel, table=True):
    """A document whose forgetting has begun. A start that finds one completes it."""

    __tablename__ = "forgetting"
    document_id: str = Field(primary_key=True)


class SealRow(SQLModel, table=True):
    """The hash of a table's file, which never changes."""

    __tablename__ = "seals"
    path: str = Field(primary_key=True)
    sha256: str


class RetrievalRow(SQLModel, table=True):
    __tablename__ = "retrievals"
    retrieval_id: str = Field(primary_key=True)
    at: datetime = Field(sa_type=UtcTime, index=True)
    query: str
    mode: str
    move: int
    hits: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    answer: str | None = None
    feedback: str | None = None
    fault: str | None = None
    correction: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class RunRow(SQLModel, table=True):
    """One refresh cycle."""

    __tablename__ = "runs"
    run: int | None = Field(default=None, primary_key=True)
    started_at: datetime = Field(sa_type=UtcTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcTime)
    trigger: str
    move: int
    decision: str = "running"
    reason: str = ""
    adapter: int | None = None
    incumbent: int | None = None
    examples: int = 0
    metrics: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class EvaluationRow(SQLModel, table=True):
    __tablename__ = "evaluations"
    evaluation: int | None = Field(default=None, primary_key=True)
    at: datetime = Field(sa_type=UtcTime)
    state: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    config: str
    kind: str
    name: str
    questions: int
    asked: str
    metrics: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class ExampleRow(SQLModel, table=True):
    """An example with its provenance, as one run used it."""

    __tablename__ = "examples"
    run: int = Field(primary_key=True)
    example_id: str = Field(primary_key=True)
    split: str
    document_id: str = Field(index=True)
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class AdapterRow(SQLModel, table=True):
    __tablename__ = "adapters"
    adapter: int | None = Field(default=None, primary_key=True)
    kind: str = GENERATOR
    run: int
    start: int | None = None  # the adapter that it went on from
    # The ids of those that a query adapter learned from; a generator's are in its run's examples.
    documents: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_type=UtcTime)
    base: str
    sha256: str
    state: str  # candidate, promoted, aborted (as a canary), retired
