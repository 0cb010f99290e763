"""Chunks as rows of a Lance table and back, and the clauses that choose them (pure, but for Arrow)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from store.globs import glob_pattern
from store.types import Filters, Hit, Labels, Place, Rehome, Upsert, Vectors


def schema(dimension: int) -> pa.Schema:
    time = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("revision", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("page", pa.int32()),
            pa.field("headings", pa.list_(pa.string()), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("fresh_at", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("tags", pa.list_(pa.string()), nullable=False),
            pa.field("boost", pa.float32(), nullable=False),
            pa.field("modified_at", time, nullable=False),
            pa.field("ingested_at", time, nullable=False),
            pa.field("embedded_at", time, nullable=False),
        ]
    )


def chunk_id(document_id: str, revision: str, position: int) -> str:
    """The id of a chunk: the same document, content and position always give the same one."""
    return hashlib.blake2b(f"{document_id}\0{revision}\0{position}".encode(), digest_size=12).hexdigest()


HIT_COLUMNS = [name for name in schema(1).names if name != "vector"]


def fresh_rows(into: pa.Schema, upserts: Sequence[Upsert], ingested_at: datetime) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in into.names if name != "vector"}
    for upsert in upserts:
        modified_at = upsert.stat.modified_at
        for chunk in upsert.chunks:
            columns["id"].append(chunk_id(upsert.document_id, upsert.content, chunk.position))
            columns["document_id"].append(upsert.document_id)
            columns["revision"].append(upsert.content)
            columns["source"].append(upsert.place.source)
            columns["path"].append(upsert.place.path)
            columns["position"].append(chunk.position)
            columns["page"].append(chunk.page)
            columns["headings"].append(list(chunk.headings))
            columns["text"].append(chunk.text)
            columns["fresh_at"].append(chunk.fresh_at)
            columns["domain"].append(upsert.labels.domain)
            columns["tags"].append(list(upsert.labels.tags))
            columns["boost"].append(upsert.labels.boost)
            columns["modified_at"].append(modified_at)
            columns["ingested_at"].append(ingested_at)
            columns["embedded_at"].append(upsert.embedded_at)
    kind = into.field("vector").type
    parts = [u.vectors for u in upserts if len(u.chunks)]
    flat = np.concatenate(parts).astype(np.float32, copy=False).ravel() if parts else np.empty(0, np.float32)
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)
        if name == "vector"
        else pa.array(columns[name], into.field(name).type)
        for name in into.names
    }
    return pa.table(arrays, schema=into)


def rehomed_rows(taken: pa.Table, rehomed: Sequence[Rehome], ingested_at: datetime) -> list[pa.Table]:
    """`taken`, the rows of the origins, under new ids, places and labels; text and vectors as they are."""
    taken = taken.sort_by([("document_id", "ascending"), ("position", "ascending")])
    starts: dict[str, tuple[int, int]] = {}
    for index, document_id in enumerate(taken["document_id"].to_pylist()):
        starts[document_id] = (starts.get(document_id, (index, 0))[0], index + 1)
    tables = []
    for one in rehomed:
        start, stop = starts.get(one.origin, (0, 0))
        rows = taken.slice(start, stop - start)
        fresh = _relabelled(rows, one.document_id, one.content, one.place, one.labels)
        fresh["modified_at"] = [one.stat.modified_at] * rows.num_rows
        fresh["ingested_at"] = [ingested_at] * rows.num_rows
        for name, values in fresh.items():
            field = rows.schema.field(name)
            rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
        tables.append(rows)
    return tables


def _relabelled(rows: pa.Table, document_id: str, content: str, place: Place, labels: Labels) -> dict[str, list[Any]]:
    n = rows.num_rows
    return {
        "id": [chunk_id(document_id, content, position) for position in rows["position"].to_pylist()],
        "document_id": [document_id] * n,
        "source": [place.source] * n,
        "path": [place.path] * n,
        "domain": [labels.domain] * n,
        "tags": [list(labels.tags)] * n,
        "boost": [labels.boost] * n,
    }


def hit(row: dict[str, Any], similarity: float = 0.0, score: float = 0.0) -> Hit:
    return Hit(
        chunk_id=row["id"],
        document_id=row["document_id"],
        source=row["source"],
        path=row["path"],
        revision=row["revision"],
        position=row["position"],
        headings=tuple(row["headings"]),
        page=row["page"],
        text=row["text"],
        score=score,
        similarity=similarity,
        domain=row["domain"],
        tags=tuple(row["tags"]),
        modified_at=row["modified_at"],
        ingested_at=row["ingested_at"],
        embedded_at=row["embedded_at"],
        fresh_at=row["fresh_at"],
        boost=row["boost"],
    )


def matrix(column: pa.ChunkedArray) -> Vectors:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), column.type.list_size)


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def is_in(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(quoted(value) for value in sorted(set(values)))})"


def where(filters: Filters) -> str:
    """The filters as a clause; empty when there are none."""
    clauses = []
    for column in ("source", "domain"):
        if (value := getattr(filters, column)) is not None:
            clauses.append(f"{column} = {quoted(value)}")
    if filters.tag is not None:
        clauses.append(f"array_has(tags, {quoted(filters.tag)})")
    if filters.path is not None:
        clauses.append(f"regexp_like(path, {quoted(glob_pattern(filters.path))})")
    for column in ("modified_at", "ingested_at"):
        for word, sign in (("after", ">="), ("before", "<")):
            if (moment := getattr(filters, f"{column[:-3]}_{word}")) is not None:
                clauses.append(f"{column} {sign} timestamp {quoted(moment.isoformat())}")
    return " AND ".join(clauses)
