"""Checking that head, tables, catalogue, snapshots, adapters and installation agree; mending what can be mended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

from daemon.collisions import foreign_providers
from daemon.quarantine import warning
from daemon.runtime import Runtime
from store import checks, query_adapter
from store.checks import FROM_BACKUP, Problem
from store.errors import MemexError
from store.memory import Memory
from trainers.lora import verify


def doctor(runtime: Runtime, read_data: bool = False) -> dict[str, Any]:
    """Check all that can be checked on disk; with `read_data` read and verify all of it. Changes nothing."""
    return _told(_examine(runtime, read_data), [])


def repair(runtime: Runtime, read_data: bool = False) -> dict[str, Any]:
    """Mend what can be mended without loss, and say what was and what is left."""
    mended = []
    for name, problems in _examine(runtime, read_data).items():
        for problem in problems:
            if problem.mend:
                problem.mend()
                mended.append(f"{name}: {problem.what}")
    return _told(_examine(runtime, read_data), mended)


def _examine(runtime: Runtime, read_data: bool) -> dict[str, list[Problem]]:
    found = checks.check(runtime.memory, read_data=read_data)
    found["packages"] = list(_packages())
    found["adapters"] = list(_adapters(runtime.memory))
    found["quarantine"] = list(_quarantine(runtime))
    return found


def _told(found: dict[str, list[Problem]], mended: list[str]) -> dict[str, Any]:
    problems = [(name, problem) for name, problems in found.items() for problem in problems]
    return {
        "checked": len(found),
        "problems": [f"{name}: {problem.what}" for name, problem in problems],
        "mendable": sum(problem.mend is not None for _, problem in problems),
        "mended": mended,
    }


def _packages() -> Iterator[Problem]:
    for package, others in foreign_providers().items():
        yield Problem(
            f"{', '.join(others)} also provides a package named {package!r}; uninstall it or use a venv of its own"
        )


def _quarantine(runtime: Runtime) -> Iterator[Problem]:
    """What serves did not learn from what it must not learn from now."""
    if found := warning(runtime.memory, runtime.settings.refresh.quarantine):
        yield Problem(found)


def _adapters(memory: Memory) -> Iterator[Problem]:
    """Invariant 7: what serves or may serve again is whole; and no directory is there that nothing names."""
    states = [memory.head(), *(snapshot.head for snapshot in memory.snapshots())]
    for adapter in sorted({head.adapter for head in states if head.adapter is not None}):
        try:
            verify(memory.adapter_folder(adapter))
        except MemexError as error:
            yield Problem(f"adapter {adapter}: {error}; {FROM_BACKUP}")
    for adapter in sorted({head.query_adapter for head in states if head.query_adapter is not None}):
        try:
            query_adapter.load(memory.adapter_folder(adapter), memory.embedder.fingerprint)
        except MemexError as error:
            yield Problem(f"query adapter {adapter}, without which is searched: {error}")
    named = {memory.adapter_folder(one).name for one in memory.journal.adapters()}
    folder = memory.state_dir / "adapters"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in named:
            yield Problem(f"{path} is of no adapter that memory knows", partial(shutil.rmtree, path))
