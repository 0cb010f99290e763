"""Generations as Lance tables: the only file that imports lancedb.

Readers never see a table's latest version. They open the version that the head names and stay on it, so a write may
take two Lance versions (one delete, one append) and still be one step for every reader: the head moves after the last.
A single `merge_insert` that also deletes by source joins the whole table: 140 ms at 100,000 rows against 11 ms.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree

from store.errors import Corrupt, DiskFailed
from store.types import Filters, Hit, Labels, Place, Rehome, Upsert, Vectors

REFUSALS = tuple(
    map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE))
)
SOURCE_LINE = re.compile(r", /\S+\.rs:\d+:\d+")  # of LanceDB's own code
OVERFETCH = 4  # times k: what boosts may reorder
LARGEST_VERSION = 2**64 - 1  # minus the version: how Lance names its manifests
CREATED = 2  # versions of a table that nothing was written to: made, indexed
HANDLES = 8  # open read handles; each holds one version's manifest

P = ParamSpec("P")
R = TypeVar("R")


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


def _of_table(method: Callable[Concatenate[Generations, str, P], R]) -> Callable[Concatenate[Generations, str, P], R]:
    """What Lance says of a disk or of a damaged file (it panics over some), as our errors."""

    @wraps(method)
    def call(self: Generations, generation: str, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, generation, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, (RuntimeError, ValueError, OSError)) and type(error).__name__ != "RustPanic":
                raise
            said = SOURCE_LINE.sub("", str(error))
            if "conflict" in said.lower():  # with another writer, which there should not be
                raise
            if any(reason in said for reason in REFUSALS):
                raise DiskFailed(f"generation {generation} in {self.folder}: {said}") from error
            raise Corrupt(
                f"generation {generation} in {self.folder} cannot be read ({said}); "
                "if the disk is well, roll back to a snapshot that can, or restore the state directory from a backup"
            ) from error

    return call  # type: ignore[return-value]


class Generations:
    """The Lance tables below one folder. One thread writes; any number read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = lancedb.connect(str(folder))
        self._handles: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    # --- writing -----------------------------------------------------------------------------------------------

    @_of_table
    def create(self, generation: str, dimension: int) -> int:
        """Make an empty table (or find the one a killed start made) and return its version."""
        table = self._db.create_table(generation, schema=schema(dimension), exist_ok=True)
        if table.version == 1:
            table.create_index("document_id", config=BTree())
        return int(table.version)

    def drop_unreadable(self, generation: str, newer_than: int) -> None:
        """Remove versions and tags that a power cut left without content, where nobody was told of them.

        Lance opens no table whose newest version is such a one, nor lists any tags beside one.
        """
        folder = self.folder / f"{generation}.lance"
        for tag in folder.glob("_refs/tags/*.json"):
            if tag.stat().st_size == 0:
                tag.unlink()
        try:
            self._newest(generation)
        except Corrupt:
            for version, manifest in _manifests(folder):
                if version > newer_than:
                    manifest.unlink()

    def on_disk(self) -> dict[str, int]:
        """generation -> its newest version by the names of its files, readable or not, acknowledged or not."""
        return {
            folder.stem: max((version for version, _ in _manifests(folder)), default=0)
            for folder in self.folder.glob("*.lance")
        }

    @_of_table
    def latest(self, generation: str) -> int:
        """The newest version in the folder, acknowledged by a head or not."""
        return int(self._newest(generation).version)

    @_of_table
    def write(
        self,
        generation: str,
        *,
        base: int,
        upserts: Sequence[Upsert],
        rehomed: Sequence[Rehome],
        removed: Sequence[str],
        ingested_at: datetime,
    ) -> int:
        """Replace the documents' chunks, starting from version `base`, and return the new version.

        The caller holds the writer's lock: what is newer than `base` was never acknowledged and is put aside.
        """
        table = self._newest(generation)
        if table.version < base:
            raise Corrupt(f"generation {generation}: the newest version is {table.version}, the head's is {base}")
        if table.version > base:
            table.restore(base)
        rows = self._rows(table.schema, upserts, ingested_at)
        if rehomed:
            rows = pa.concat_tables([rows, *self._rehomed_rows(generation, base, rehomed, ingested_at)])
        replaced = [*(u.document_id for u in upserts), *(r.document_id for r in rehomed), *removed]
        if replaced and table.count_rows(clause := _is_in("document_id", replaced)):
            table.delete(clause)
        if rows.num_rows:
            table.add(rows)
        return int(table.version)

    @_of_table
    def restore(self, generation: str, version: int) -> int:
        """Make `version`'s content the newest; history stays. Returns the new version."""
        table = self._newest(generation)
        table.restore(version)
        return int(table.version)

    @_of_table
    def tag(self, generation: str, name: str, version: int) -> None:
        tags = self._newest(generation).tags
        if name in tags.list():
            tags.update(name, version)
        else:
            tags.create(name, version)

    @_of_table
    def untag(self, generation: str, name: str) -> None:
        tags = self._newest(generation).tags
        if name in tags.list():
            tags.delete(name)

    @_of_table
    def tags(self, generation: str) -> dict[str, int]:
        return {name: int(tag["version"]) for name, tag in self._newest(generation).tags.list().items()}

    # --- reading -----------------------------------------------------------------------------------------------

    @_of_table
    def search(self, generation: str, version: int, vector: Vectors, k: int, filters: Filters) -> list[Hit]:
        """The `k` chunks of the highest cosine similarity to `vector` (shape (dimension,)), best first.

        A chunk's boost multiplies its similarity in the order, not in the score. Equals are ordered by chunk id, so
        that the same version always answers the same.
        """
        query = self._at(generation, version).search(vector).distance_type("cosine")
        if clause := _where(filters):
            query = query.where(clause, prefilter=True)
        found = query.select([*HIT_COLUMNS, "boost", "_distance"]).limit(OVERFETCH * k).to_arrow().to_pylist()
        found.sort(key=lambda row: (-(1.0 - row["_distance"]) * row["boost"], row["id"]))
        return [_hit(row, 1.0 - row["_distance"]) for row in found[:k]]

    @_of_table
    def chunks(self, generation: str, version: int, document_ids: Iterable[str]) -> list[Hit]:
        """The documents' chunks in reading order, with a score of 0."""
        ids = list(document_ids)
        if not ids:
            return []
        query = self._at(generation, version).search().where(_is_in("document_id", ids)).select(HIT_COLUMNS)
        hits = [_hit(row, 0.0) for row in query.limit(None).to_arrow().to_pylist()]
        return sorted(hits, key=lambda hit: (hit.document_id, hit.position))

    @_of_table
    def by_id(self, generation: str, version: int, chunk_ids: Sequence[str]) -> list[Hit]:
        """The chunks of these ids that the version has, in the order asked for."""
        if not chunk_ids:
            return []
        query = self._at(generation, version).search().where(_is_in("id", chunk_ids)).select(HIT_COLUMNS)
        found = {row["id"]: _hit(row, 0.0) for row in query.limit(None).to_arrow().to_pylist()}
        return [found[one] for one in chunk_ids if one in found]

    @_of_table
    def count(self, generation: str, version: int) -> int:
        return int(self._at(generation, version).count_rows())

    @_of_table
    def table_of_contents(self, generation: str, version: int) -> dict[str, tuple[str, str, int]]:
        """document id -> (revision, path, number of chunks), of everything in the version."""
        rows = self._at(generation, version).search().select(["document_id", "revision", "path"]).limit(None).to_arrow()
        counted = rows.group_by(["document_id", "revision", "path"]).aggregate([([], "count_all")]).to_pylist()
        return {row["document_id"]: (row["revision"], row["path"], row["count_all"]) for row in counted}

    @_of_table
    def vectors(self, generation: str, version: int) -> dict[str, Vectors]:
        """chunk id -> vector, of everything in the version."""
        rows = self._at(generation, version).search().select(["id", "vector"]).limit(None).to_arrow()
        return dict(zip(rows["id"].to_pylist(), _matrix(rows["vector"]), strict=True))

    # --- below -------------------------------------------------------------------------------------------------

    @_of_table
    def _newest(self, generation: str) -> Any:
        return self._db.open_table(generation)

    def _at(self, generation: str, version: int) -> Any:
        """A handle fixed at `version`. Handles are never moved: checkout on a shared one would switch every reader."""
        key = (generation, version)
        with self._lock:
            if key in self._handles:
                self._handles.move_to_end(key)
                return self._handles[key]
        table = self._newest(generation)
        table.checkout(version)
        with self._lock:
            self._handles[key] = table
            while len(self._handles) > HANDLES:
                self._handles.popitem(last=False)
        return table

    def _rows(self, into: pa.Schema, upserts: Sequence[Upsert], ingested_at: datetime) -> pa.Table:
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

    def _rehomed_rows(
        self, generation: str, base: int, rehomed: Sequence[Rehome], ingested_at: datetime
    ) -> list[pa.Table]:
        """The origins' rows under new ids, places and labels; text and vectors as they are."""
        origins = sorted({one.origin for one in rehomed})
        taken = self._at(generation, base).search().where(_is_in("document_id", origins)).limit(None).to_arrow()
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


HIT_COLUMNS = [name for name in schema(1).names if name not in ("vector", "boost")]


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


def _hit(row: dict[str, Any], score: float) -> Hit:
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
        domain=row["domain"],
        tags=tuple(row["tags"]),
        modified_at=row["modified_at"],
        ingested_at=row["ingested_at"],
        embedded_at=row["embedded_at"],
    )


def _matrix(column: pa.ChunkedArray) -> Vectors:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), column.type.list_size)


def _manifests(folder: Path) -> list[tuple[int, Path]]:
    """The versions of a table by the files that hold them."""
    return [(LARGEST_VERSION - int(file.stem), file) for file in folder.glob("_versions/*.manifest")]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _is_in(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(_quoted(value) for value in sorted(set(values)))})"


def _where(filters: Filters) -> str:
    clauses = []
    if filters.source is not None:
        clauses.append(f"source = {_quoted(filters.source)}")
    if filters.domain is not None:
        clauses.append(f"domain = {_quoted(filters.domain)}")
    if filters.tag is not None:
        clauses.append(f"array_has(tags, {_quoted(filters.tag)})")
    return " AND ".join(clauses)
