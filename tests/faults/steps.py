"""The calls by which the store changes what is on the disk, counted; at the chosen one the process is killed.

They are wrapped from outside: nothing in the store knows of this.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

CALLS = (
    *(f"lancedb.table:LanceTable.{name}" for name in ("create_index", "add", "delete", "restore", "optimize")),
    "lancedb.merge:LanceMergeInsertBuilder.execute",
    "lancedb.db:LanceDBConnection.create_table",
    *(f"lancedb.table:Tags.{name}" for name in ("create", "update", "delete")),
    "sqlalchemy.engine.default:DefaultDialect.do_commit",
    "store.durable:sync_filesystem",
    *(f"os:{name}" for name in ("rename", "replace", "unlink", "rmdir", "fsync")),
)


class Steps:
    """The steps taken since `arm`, by name."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self._chosen: tuple[int, str] | None = None
        self._armed = False
        for call in CALLS:
            self._wrap(call)

    def arm(self, number: int, when: str) -> None:
        """Count from now on, and be killed before or after step `number`; 0 only counts."""
        self.taken = []
        self._chosen = (number, when)
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def _wrap(self, call: str) -> None:
        module, _, path = call.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for one in outer:
            owner = getattr(owner, one)
        original = getattr(owner, name)
        counted = self._counted(name, original)
        setattr(owner, name, counted)
        for other in list(sys.modules.values()):  # where it was imported by name
            if getattr(other, "__name__", "").startswith("store.") and getattr(other, name, None) is original:
                setattr(other, name, counted)

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._armed:
                return original(*args, **kwargs)
            self.taken.append(name)
            number = len(self.taken)
            self._die_at((number, "before"))
            result = original(*args, **kwargs)
            self._die_at((number, "after"))
            return result

        return call

    def _die_at(self, here: tuple[int, str]) -> None:
        if here == self._chosen:
            os.kill(os.getpid(), signal.SIGKILL)
