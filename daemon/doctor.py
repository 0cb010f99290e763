"""Checking that head, tables, catalogue, snapshots and adapters agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from daemon.collisions import foreign_providers
from daemon.runtime import Runtime
from store.errors import MemexError
from store.memory import Memory
from store.types import Head
from trainers.lora import read_card


def doctor(runtime: Runtime) -> dict[str, Any]:
    """Check all that can be checked on disk. Changes nothing."""
    memory = runtime.memory
    checks = {
        "packages": _packages(),
        "head": _state(memory, memory.head(), "the head"),
        "snapshots": _snapshots(memory),
        "adapters": _adapters(memory),
    }
    problems = [f"{name}: {problem}" for name, found in checks.items() for problem in found]
    return {"checked": len(checks) + len(memory.snapshots()), "problems": problems}


def _packages() -> Iterator[str]:
    for package, others in foreign_providers().items():
        yield f"{', '.join(others)} also provides a package named {package!r}; uninstall it or use a venv of its own"


def _state(memory: Memory, head: Head, name: str) -> Iterator[str]:
    """Invariant 1: the table has exactly the chunks of the catalogue's live revisions."""
    try:
        on_disk = memory.vectors.table_of_contents(head.generation, head.version)
    except MemexError as error:
        yield f"{name}: {error}"
        return
    wanted = {
        document_id: (revision.content, revision.path, revision.chunks)
        for document_id, revision in memory.live_at(head).items()
        if revision.chunks
    }
    for document_id in sorted(wanted.keys() | on_disk.keys()):
        if wanted.get(document_id) != on_disk.get(document_id):
            yield (
                f"{name}: document {document_id}: the catalogue says {wanted.get(document_id)}, "
                f"version {head.version} has {on_disk.get(document_id)}"
            )


def _snapshots(memory: Memory) -> Iterator[str]:
    tags: dict[str, dict[str, int]] = {}
    for snapshot in memory.snapshots():
        generation = snapshot.head.generation
        if generation not in tags:
            tags[generation] = memory.vectors.tags(generation)
        if tags[generation].get(snapshot.name) != snapshot.head.version:
            yield f"snapshot {snapshot.name}: its version {snapshot.head.version} is not tagged and may be pruned"
        yield from _state(memory, snapshot.head, f"snapshot {snapshot.name}")


def _adapters(memory: Memory) -> Iterator[str]:
    heads = [memory.head(), *(snapshot.head for snapshot in memory.snapshots())]
    for adapter in sorted({head.adapter for head in heads if head.adapter is not None}):
        try:
            read_card(memory.adapter_folder(adapter))
        except MemexError as error:
            yield f"adapter {adapter}: {error}"
