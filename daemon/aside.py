"""Long work beside the daemon's own: a refresh, a backup."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from store.errors import MemexError, UsageError

log = logging.getLogger("memex")


class Aside:
    """One kind of work, never two at once. `progress` says how far it is, None when none is under way."""

    def __init__(self, name: str, otherwise: str) -> None:
        """`otherwise` says in the log what holds when it failed."""
        self.progress: dict[str, Any] | None = None
        self._name = name
        self._otherwise = otherwise
        self._busy = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Do it in the block, which is given a function that takes the progress. Raises UsageError if one goes on."""
        if not self._busy.acquire(blocking=False):
            raise UsageError(f"a {self._name} is under way; `memex status` shows how far it is")
        try:
            yield self._tell
        finally:
            self.progress = None
            self._busy.release()

    @contextmanager
    def none(self) -> Iterator[None]:
        """Wait for the end of what is under way, and let none begin during the block."""
        with self._busy:
            yield

    def start(self, work: Callable[[], object]) -> None:
        """On a thread of its own; what it raises is logged."""
        threading.Thread(target=self._logged, args=(work,), name=self._name).start()

    def _tell(self, progress: dict[str, Any]) -> None:
        self.progress = progress

    def _logged(self, work: Callable[[], object]) -> None:
        try:
            work()
        except MemexError as error:
            log.error("the %s failed; %s: %s", self._name, self._otherwise, error)
        except Exception:
            log.exception("the %s failed; %s", self._name, self._otherwise)
