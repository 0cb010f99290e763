"""Checking on disk what must always hold, and mending what can be mended without loss."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from store import seals
from store.catalogue import heads
from store.errors import MemexError
from store.memory import Memory
from store.types import Head, Snapshot

LEAST_FREE = 0.05  # share of the disk
FROM_BACKUP = "it cannot be mended: `memex restore` a backup"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold. `mend` makes it hold again without loss; None when nothing can."""

    what: str
    mend: Callable[[], object] | None = None


def check(memory: Memory, *, read_data: bool) -> dict[str, list[Problem]]:
    """The problems by what was checked. With `read_data` every file and every row is read and verified."""
    found: dict[str, list[Problem]] = {
        "catalogue": list(_catalogue(memory, thorough=read_data)),
        "head": list(_state(memory, memory.head(), read_data)),
        "disk": list(_disk(memory)),
        "permissions": list(_permissions(memory)),
    }
    with memory.undisturbed():  # between a tag and its snapshot, or in the middle of a write, these do not hold
        quick = {"tags": _tags, "versions": _versions, "indices": _indices, "leftovers": _leftovers}
        found |= {name: list(one(memory)) for name, one in quick.items()}
    for snapshot in memory.snapshots():
        found[f"snapshot {snapshot.name}"] = list(_state(memory, snapshot.head, read_data))
    if read_data:
        found["files"] = list(_files(memory))
    return found


def _catalogue(memory: Memory, *, thorough: bool) -> Iterator[Problem]:
    for line in memory.database.faults(thorough=thorough):
        yield Problem(f"{memory.database.path}: {line}; {FROM_BACKUP}")


def _state(memory: Memory, head: Head, read_data: bool) -> Iterator[Problem]:
    """Invariant 1: the version has exactly the chunks of the catalogue's live revisions."""
    try:
        on_disk = memory.vectors.table_of_contents(head.generation, head.version)
        if read_data:
            memory.vectors.read_all(head.generation, head.version)
    except (MemexError, OSError, RuntimeError, ValueError) as error:
        yield Problem(f"version {head.version} cannot be read ({error}); {FROM_BACKUP}")
        return
    live = memory.live_at(head).items()
    wanted = {one: (revision.content, revision.path, revision.chunks) for one, revision in live if revision.chunks}
    for document_id in sorted(wanted.keys() | on_disk.keys()):
        if wanted.get(document_id) != on_disk.get(document_id):
            yield Problem(
                f"document {document_id}: the catalogue says {wanted.get(document_id)}, version {head.version} has "
                f"{on_disk.get(document_id)}; {FROM_BACKUP}"
            )


def _tags(memory: Memory) -> Iterator[Problem]:
    """Invariants 4 and 7: each snapshot's version is protected, and nothing else is."""
    by_generation: dict[str, dict[str, Snapshot]] = {memory.head().generation: {}}
    for snapshot in memory.snapshots():
        by_generation.setdefault(snapshot.head.generation, {})[snapshot.name] = snapshot
    for generation, snapshots in by_generation.items():
        tags = memory.vectors.tags(generation)
        there = memory.vectors.versions(generation)
        for name, one in snapshots.items():
            version = one.head.version
            if version not in there:
                yield Problem(f"snapshot {name}: its version {version} is gone; {FROM_BACKUP} or delete the snapshot")
            elif tags.get(name) != version:
                mend = partial(memory.vectors.tag, generation, name, version)
                yield Problem(f"snapshot {name}: its version {version} is not tagged and may be pruned", mend)
        for name in tags.keys() - snapshots.keys():
            mend = partial(memory.vectors.untag, generation, name)
            yield Problem(f"the tag {name} keeps a version that no snapshot names", mend)


def _versions(memory: Memory) -> Iterator[Problem]:
    """Every state that is offered can be opened."""
    generation = memory.head().generation
    there = memory.vectors.versions(generation)
    with memory.database.read() as session:
        offered = heads.kept_versions(session, generation)

    def mend() -> None:
        with memory.database.write() as session:
            heads.keep_only(session, generation, there)

    if missing := sorted(offered - there):
        yield Problem(f"versions {', '.join(map(str, missing))} are offered and gone", mend)


def _indices(memory: Memory) -> Iterator[Problem]:
    if missing := memory.vectors.missing_indices(memory.head().generation):
        yield Problem(f"the head has no index {', '.join(missing)}; searching is slow or fails", memory.maintain)


def _leftovers(memory: Memory) -> Iterator[Problem]:
    """Files of writes that were cut off. Only the writer can tell them from writes under way."""
    if not memory.writes:
        return
    generation = memory.head().generation
    if count := memory.vectors.orphans(generation):
        keep = memory.vectors.versions(generation)
        mend = partial(memory.vectors.prune, generation, keep, orphans=True)
        yield Problem(f"{count} files of writes that were cut off take up space", mend)


def _disk(memory: Memory) -> Iterator[Problem]:
    usage = shutil.disk_usage(memory.state_dir)
    if usage.free < LEAST_FREE * usage.total:
        yield Problem(f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free on the disk of the memory")


def _permissions(memory: Memory) -> Iterator[Problem]:
    """Invariant 10: others neither read nor write here."""
    mode = stat.S_IMODE(os.stat(memory.state_dir).st_mode)
    if mode & 0o077:
        yield Problem(
            f"{memory.state_dir} is open to others (mode {mode:04o})", partial(os.chmod, memory.state_dir, mode & 0o700)
        )


def _files(memory: Memory) -> Iterator[Problem]:
    for path in seals.broken(memory.database, memory.vectors.folder):
        yield Problem(f"{memory.vectors.folder / path} is not what was written (sha256 differs); {FROM_BACKUP}")
