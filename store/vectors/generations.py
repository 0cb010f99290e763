"""Writing and reading generations.

Readers never see a table's latest version. They open the version that the head names and stay on it, so a write may
take two Lance versions (one delete, one append) and still be one step for every reader: the head moves after the last.
A single `merge_insert` that also deletes by source joins the whole table: 140 ms at 100,000 rows against 11 ms.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import lance
import lancedb
import pyarrow as pa

from store.errors import Corrupt, DiskFailed
from store.recent import Recent
from store.types import Filters, Hit, Rehome, Upsert, Vectors
from store.vectors import candidates, upkeep
from store.vectors.candidates import Candidate, Sought
from store.vectors.rows import HIT_COLUMNS, fresh_rows, hit, is_in, matrix, quoted, rehomed_rows, schema

INDEX_CACHE, METADATA_CACHE, WRITERS_CACHE = 256 << 20, 128 << 20, 32 << 20  # bytes
REFUSALS = tuple(
    map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE))
)
SOURCE_LINE = re.compile(r", /\S+\.rs:\d+:\d+")  # of LanceDB's own code
LARGEST_VERSION = 2**64 - 1  # minus the version: how Lance names its manifests
CREATED = 3  # versions of a table that nothing was written to: made, and given its two first indices
HANDLES = 8  # open read handles; each holds one version's manifest

P = ParamSpec("P")
R = TypeVar("R")


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
        # By default the caches would grow to seven gigabytes.
        self._db = lancedb.connect(str(folder), session=lancedb.Session(WRITERS_CACHE, WRITERS_CACHE))
        self._session: Any = lance.Session(  # type: ignore[attr-defined]
            INDEX_CACHE, METADATA_CACHE
        )
        self._handles: Recent[tuple[str, int], Any] = Recent(HANDLES)

    # --- writing -----------------------------------------------------------------------------------------------

    @_of_table
    def create(self, generation: str, dimension: int) -> int:
        """Make an empty table with its indices (or complete the one a killed start made) and return its version."""
        self._db.create_table(generation, schema=schema(dimension), exist_ok=True)
        table = upkeep.open_table(self.folder, generation)
        upkeep.create_indices(table)
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
        table = self._ready(generation, base)
        rows = fresh_rows(table.schema, upserts, ingested_at)
        if rehomed:
            origins = is_in("document_id", {one.origin for one in rehomed})
            taken = self._at(generation, base).to_table(filter=origins)
            rows = pa.concat_tables([rows, *rehomed_rows(taken, rehomed, ingested_at)])
        replaced = [*(u.document_id for u in upserts), *(r.document_id for r in rehomed), *removed]
        if replaced and table.count_rows(clause := is_in("document_id", replaced)):
            table.delete(clause)
        if rows.num_rows:
            table.add(rows)
        return int(table.version)

    @_of_table
    def tidy(self, generation: str, base: int) -> int:
        """Compact and index version `base`; returns the version that holds the same chunks in better shape."""
        self._ready(generation, base)
        table = upkeep.open_table(self.folder, generation)
        upkeep.compact(table, max(self.tags(generation).values(), default=None))
        upkeep.update_indices(table)
        return int(table.version)

    @_of_table
    def purge(self, generation: str, base: int, document_ids: Iterable[str]) -> int:
        """Version `base` without these documents, in files and indices that hold no byte of them."""
        self._ready(generation, base)
        table = upkeep.open_table(self.folder, generation)
        upkeep.purge(table, is_in("document_id", document_ids))
        return int(table.version)

    @_of_table
    def prune(self, generation: str, keep: Collection[int], *, orphans: bool = False) -> int:
        """Let all versions go but these, the newest and those that are tagged; returns how many went.

        With `orphans` files that a killed write left go too.
        """
        gone = upkeep.clean(upkeep.open_table(self.folder, generation), keep, orphans=orphans)
        self._handles.drop(lambda key: key[0] == generation and key[1] not in keep)
        return gone

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

    @_of_table
    def versions(self, generation: str) -> set[int]:
        """The versions that can be opened."""
        return {int(one["version"]) for one in upkeep.open_table(self.folder, generation).version_refs()}

    @_of_table
    def missing_indices(self, generation: str) -> list[str]:
        """The indices that the newest version should have and has not."""
        return upkeep.missing_indices(upkeep.open_table(self.folder, generation))

    @_of_table
    def orphans(self, generation: str) -> int:
        """How many files no version needs: a write was cut off, or is under way."""
        return upkeep.orphans(upkeep.open_table(self.folder, generation), self.folder / f"{generation}.lance")

    @_of_table
    def read_all(self, generation: str, version: int) -> None:
        """Read every column of every row. Raises what Lance raises when it cannot."""
        for _ in self._at(generation, version).to_batches():
            pass

    @_of_table
    def shape(self, generation: str) -> upkeep.Shape:
        return upkeep.shape(upkeep.open_table(self.folder, generation))

    # --- reading -----------------------------------------------------------------------------------------------

    @_of_table
    def candidates(self, generation: str, version: int, n: int, filters: Filters, sought: Sought) -> list[Candidate]:
        """The rows that fit best by vector and by words; see `candidates.find`."""
        return candidates.find(self._at(generation, version), n, filters, sought)

    @_of_table
    def read(self, generation: str, version: int, scored: Sequence[tuple[float, Candidate]]) -> list[Hit]:
        """Candidates of this version with their scores as hits, in their order."""
        return candidates.read(self._at(generation, version), scored)

    @_of_table
    def chunks(self, generation: str, version: int, document_ids: Iterable[str]) -> list[Hit]:
        """The documents' chunks in reading order, with a score of 0."""
        ids = list(document_ids)
        if not ids:
            return []
        found = self._at(generation, version).to_table(columns=HIT_COLUMNS, filter=is_in("document_id", ids))
        hits = [hit(row) for row in found.to_pylist()]
        return sorted(hits, key=lambda hit: (hit.document_id, hit.position))

    @_of_table
    def between(self, generation: str, version: int, spans: Sequence[tuple[str, int, int]]) -> list[Hit]:
        """The chunks in these spans (document, first and last position), in reading order, with a score of 0."""
        places = " OR ".join(
            f"(document_id = {quoted(document)} AND position >= {first} AND position <= {last})"
            for document, first, last in spans
        )
        clause = f"{is_in('document_id', (document for document, _, _ in spans))} AND ({places})"
        found = self._at(generation, version).to_table(columns=HIT_COLUMNS, filter=clause)
        return sorted(map(hit, found.to_pylist()), key=lambda hit: (hit.document_id, hit.position))

    @_of_table
    def by_id(self, generation: str, version: int, chunk_ids: Sequence[str]) -> list[Hit]:
        """The chunks of these ids that the version has, in the order asked for."""
        if not chunk_ids:
            return []
        rows = self._at(generation, version).to_table(columns=HIT_COLUMNS, filter=is_in("id", chunk_ids))
        found = {row["id"]: hit(row) for row in rows.to_pylist()}
        return [found[one] for one in chunk_ids if one in found]

    @_of_table
    def count(self, generation: str, version: int) -> int:
        return int(self._at(generation, version).count_rows())

    @_of_table
    def table_of_contents(self, generation: str, version: int) -> dict[str, tuple[str, str, int]]:
        """document id -> (revision, path, number of chunks), of everything in the version."""
        rows = self._at(generation, version).to_table(columns=["document_id", "revision", "path"])
        counted = rows.group_by(["document_id", "revision", "path"]).aggregate([([], "count_all")]).to_pylist()
        return {row["document_id"]: (row["revision"], row["path"], row["count_all"]) for row in counted}

    @_of_table
    def vectors(self, generation: str, version: int, chunk_ids: Iterable[str] | None = None) -> dict[str, Vectors]:
        """chunk id -> vector, of these chunks or of everything in the version."""
        clause = None if chunk_ids is None else is_in("id", chunk_ids)
        rows = self._at(generation, version).to_table(columns=["id", "vector"], filter=clause)
        return dict(zip(rows["id"].to_pylist(), matrix(rows["vector"]), strict=True))

    # --- below -------------------------------------------------------------------------------------------------

    def _ready(self, generation: str, base: int) -> Any:
        """The table with `base` as its newest: what is newer was never acknowledged and is put aside."""
        table = self._newest(generation)
        if table.version < base:
            raise Corrupt(f"generation {generation}: the newest version is {table.version}, the head's is {base}")
        if table.version > base:
            table.restore(base)
        return table

    @_of_table
    def _newest(self, generation: str) -> Any:
        return self._db.open_table(generation)

    def _at(self, generation: str, version: int) -> Any:
        """A handle fixed at `version`; it is never moved."""
        table = self._handles.get((generation, version))
        if table is None:
            table = upkeep.open_table(self.folder, generation, version, self._session)
            self._handles.put((generation, version), table)
        return table


def _manifests(folder: Path) -> list[tuple[int, Path]]:
    """The versions of a table by the files that hold them."""
    return [(LARGEST_VERSION - int(file.stem), file) for file in folder.glob("_versions/*.manifest")]
