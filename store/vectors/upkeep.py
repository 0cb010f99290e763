"""Keeping a generation's table small and quick: compaction, indices, and letting old versions go.

Everything here grows in tiers, as in a log-structured merge tree (O'Neil et al., 1996): small pieces are merged once
there are several of about one size, large ones are left alone. A row is then rewritten a few times in its life however
long that is, and what snapshots pin of the past stays shared between them.

Uses pylance, for what lancedb does not offer: its `optimize` rewrites every fragment below a million rows, and raises
once a tagged version is old.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance

MOST_FRAGMENTS = 128  # a search opens each of them
MOST_LATE_FRAGMENTS = 8  # of those that no snapshot has
ROOMY = 0.75  # of the most at the most are left by a compaction
SMALLEST_TIER, TIER_FACTOR = 256, 4  # rows of a fragment that counts as large at first, and by how much tiers differ
DEAD_SHARE = 0.25  # of a fragment's rows that make it worth rewriting without them
UNINDEXED_ROWS = 512  # searched one by one; past that they get an index segment of their own
SEGMENTS = 8  # of about one size: they are merged
OF_VERSIONS = ("data", "_deletions", "_indices")  # the folders whose files belong to versions
FOREVER = timedelta(days=36_500)
ALIKE = 4  # times as large is about one size
VECTOR_INDEX_ROWS = 10_000  # below that an exact search is as quick
KEY_INDEX, TEXT_INDEX, VECTOR_INDEX = "document_id_idx", "text_idx", "vector_idx"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table consists of."""

    rows: int
    fragments: int
    versions: int
    unindexed: int  # rows that no full-text index segment covers
    segments: int  # of the full-text index


def open_table(folder: Path, generation: str, version: int | None = None, session: Any = None) -> Any:
    """A version of a table, the newest for None. What has a `session` shares its caches."""
    return lance.dataset(str(folder / f"{generation}.lance"), version, session=session)


def compact(table: Any, snapshot: int | None) -> None:
    """Merge small fragments if there are many, and let go of deleted rows once they outnumber the others.

    `snapshot` is the newest version that has a name. What it has stays on the disk as it is, so merging that costs
    room; what came later is merged sooner. Deleted rows are let go of all at once, as each time the indices of those
    fragments are written anew too.
    """
    fragments = table.get_fragments()
    rows, deleted = sum(one.physical_rows for one in fragments), sum(one.num_deletions for one in fragments)
    if deleted > rows - deleted:
        rewrite(table, {one.fragment_id for one in fragments if one.num_deletions > DEAD_SHARE * one.physical_rows})
    pinned = _fragments(table.checkout_version(snapshot)) if snapshot is not None else []
    _merge(table, MOST_LATE_FRAGMENTS, leave=range(max(pinned, default=-1) + 1))
    _merge(table, MOST_FRAGMENTS, leave=())


def _merge(table: Any, most: int, leave: Container[int]) -> None:
    """Merge small neighbours where there are more than `most` fragments besides those to leave alone."""
    sizes = {one.fragment_id: one.physical_rows for one in table.get_fragments()}
    chosen = [rows for number, rows in sizes.items() if number not in leave]
    if len(chosen) > most:
        # Of larger ones none may be touched: they would be split to the target's size.
        table.optimize.compact_files(
            target_rows_per_fragment=tier(chosen, most),
            materialize_deletions=False,
            excluded_fragment_ids=[number for number in sizes if number in leave],
        )


def _fragments(table: Any) -> list[int]:
    return [one.fragment_id for one in table.get_fragments()]


def rewrite(table: Any, fragments: Collection[int]) -> None:
    """Write these fragments anew without their deleted rows."""
    others = [number for number in _fragments(table) if number not in fragments]
    table.optimize.compact_files(materialize_deletions_threshold=0.0, excluded_fragment_ids=others)


def tier(sizes: Sequence[int], most: int) -> int:
    """The smallest number of rows such that merging neighbours below it leaves a good part of `most` free."""
    target = SMALLEST_TIER
    while _left_after(sizes, target) > ROOMY * most and target <= max(sizes):
        target *= TIER_FACTOR
    return target


def _left_after(sizes: Iterable[int], target: int) -> int:
    left, run = 0, 0
    for size in sizes:
        if size < target:
            left += run == 0  # a run of small ones becomes one, or a few of the target's size
            run += size
            if run >= target:
                run = 0
        else:
            left, run = left + 1, 0
    return left


def missing_indices(table: Any) -> list[str]:
    """Those that a table has from the start and has not."""
    there = {index.name for index in table.describe_indices()}
    return [name for name in (KEY_INDEX, TEXT_INDEX) if name not in there]


def create_indices(table: Any) -> None:
    """Make those that are missing, and the vector index once it pays."""
    missing = missing_indices(table)
    if KEY_INDEX in missing:
        table.create_scalar_index("document_id", "BTREE", name=KEY_INDEX)
    if TEXT_INDEX in missing:
        create_text_index(table)
    has_vectors = any(index.name == VECTOR_INDEX for index in table.describe_indices())
    if not has_vectors and table.count_rows() >= VECTOR_INDEX_ROWS:
        table.create_index("vector", "IVF_SQ", name=VECTOR_INDEX, metric="cosine")


def update_indices(table: Any) -> None:
    """Make the indices that are missing, and give rows that none covers a segment of their own."""
    create_indices(table)
    if unindexed_rows(table) < UNINDEXED_ROWS:
        return
    table.optimize.optimize_indices(num_indices_to_merge=0)
    for name in sorted({index.name for index in table.describe_indices()}):
        while (count := alike(segment_sizes(table, name))) >= SEGMENTS:
            table.optimize.optimize_indices(index_names=[name], num_indices_to_merge=count)


def alike(sizes: Sequence[int]) -> int:
    """How many of the newest segments (oldest first) are at most ALIKE times as large as the newest."""
    count = 0
    for size in reversed(sizes):
        if size > ALIKE * sizes[-1]:
            break
        count += 1
    return count


def segment_sizes(table: Any, name: str) -> list[int]:
    """Bytes of an index's segments, oldest first."""
    return [
        segment.size_bytes for index in table.describe_indices() if index.name == name for segment in index.segments
    ]


def create_text_index(table: Any) -> None:
    """Words with their positions, so that phrases can be found; nothing is left out, as names and codes are words."""
    table.create_scalar_index(
        "text", "INVERTED", name=TEXT_INDEX, with_position=True, remove_stop_words=False, replace=True
    )


def unindexed_rows(table: Any) -> int:
    return int(table.stats.index_stats(TEXT_INDEX)["num_unindexed_rows"])


def clean(table: Any, keep: Collection[int], *, orphans: bool = False) -> int:
    """Let all versions go but these, the newest and those that are tagged; returns how many went.

    With `orphans` the files of writes that were never committed go too: nobody else may be writing.
    """
    doomed = {int(found["version"]) for found in table.version_refs()} - {*keep, table.version}
    if not doomed and not orphans:
        return 0
    chosen: dict[str, Any] = {"versions": sorted(doomed)} if doomed else {"older_than": FOREVER}
    done = table.cleanup_old_versions(**chosen, delete_unverified=orphans, error_if_tagged_old_versions=False)
    return int(done.old_versions)


def orphans(table: Any, folder: Path) -> int:
    """How many files below the table's folder no version refers to."""
    needed = {path for batch in table.tracked_files() for path in batch["path"].to_pylist()}
    there = {os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names}
    return len([path for path in there - needed if path.split("/")[0] in OF_VERSIONS])


def shape(table: Any) -> Shape:
    return Shape(
        rows=table.count_rows(),
        fragments=len(table.get_fragments()),
        versions=len(table.version_refs()),
        unindexed=unindexed_rows(table),
        segments=len(segment_sizes(table, TEXT_INDEX)),
    )


def purge(table: Any, clause: str) -> None:
    """Remove rows so that no file of the table's newest version holds a byte of them, be they live or deleted."""
    touched = {one.fragment_id for one in table.get_fragments() if _has(table, one, clause)}
    table.delete(clause)
    if left := touched & {one.fragment_id for one in table.get_fragments()}:
        rewrite(table, left)
    create_text_index(table)  # its list of words would keep theirs


def _has(table: Any, fragment: Any, clause: str) -> bool:
    """Whether a fragment's files hold such rows, be they live or deleted. An index may not know the deleted ones."""
    found = table.scanner(
        columns=["document_id"],
        filter=clause,
        fragments=[fragment],
        with_row_id=True,
        include_deleted_rows=True,
        use_scalar_index=False,
    )
    return bool(found.to_table().num_rows)
