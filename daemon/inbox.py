"""What the writer has to do, in the order in which it should be done.

Paths and sweeps are marks, not messages: marking twice is marking once, and a mark that is lost is found again by the
next sweep. That keeps the inbox small and makes the disk its durable copy.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from daemon.ingest import Dirty
from store.errors import Stopping

MOST_PATHS = 20_000  # marks kept; past it a source is swept again instead

Job = Callable[[], Any]


class Inbox:
    """Thread-safe; one thread takes, any number put. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Job, Future[Any]]] = deque()
        self._fresh: dict[Dirty, float] = {}  # -> when it is due; what someone changes just now
        self._backfill: dict[Dirty, None] = {}
        self._sweeps: dict[str, float] = {}
        self.closed = False

    # --- putting -----------------------------------------------------------------------------------------------

    def mark(self, dirty: Dirty, delay: float) -> None:
        """A path changed; look into it when it has been quiet for `delay` seconds."""
        with self._changed:
            if dirty not in self._fresh and len(self._fresh) >= MOST_PATHS:
                self._sweep_by(dirty.source, self._now() + delay)
                self._changed.notify()
                return
            self._backfill.pop(dirty, None)
            self._fresh.pop(dirty, None)  # the latest mark says whether it is closed
            self._fresh[dirty] = self._now() + delay
            self._changed.notify()

    def fill(self, dirty: Sequence[Dirty]) -> None:
        """Paths that a sweep found; they come after what changes now."""
        with self._changed:
            room = max(0, MOST_PATHS - len(self._backfill))
            for one in dirty[:room]:
                if one not in self._fresh:
                    self._backfill[one] = None
            for one in dirty[room:]:  # found again once there is room
                self._sweep_by(one.source, self._now() + 5.0)
            self._changed.notify()

    def sweep(self, source: str, delay: float = 0.0) -> None:
        """Compare a source's folder with the catalogue, soon. An earlier due time stands."""
        with self._changed:
            self._sweep_by(source, self._now() + delay)
            self._changed.notify()

    def submit(self, job: Job) -> Future[Any]:
        """Have the writer run `job` next; its result or error comes through the future."""
        future: Future[Any] = Future()
        with self._changed:
            if self.closed:
                future.set_exception(Stopping("memex is stopping; ask again when it is back"))
            else:
                self._jobs.append((job, future))
                self._changed.notify()
        return future

    def close(self) -> None:
        """Take no more jobs, and wake the writer."""
        with self._changed:
            self.closed = True
            while self._jobs:
                self._jobs.popleft()[1].set_exception(Stopping("memex is stopping; ask again when it is back"))
            self._changed.notify_all()

    # --- taking ------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> None:
        """Return when something is due, at the latest after `timeout` seconds."""
        with self._changed:
            until = self._now() + timeout
            while not self.closed and not self._is_due():
                times = [*self._fresh.values(), *self._sweeps.values(), until]
                pause = min(times) - self._now()
                if self._now() >= until:
                    return
                self._changed.wait(max(pause, 0.001))

    def take_job(self) -> tuple[Job, Future[Any]] | None:
        with self._changed:
            return self._jobs.popleft() if self._jobs else None

    def take_sweep(self) -> str | None:
        """A source whose sweep is due."""
        with self._changed:
            now = self._now()
            for source, due in self._sweeps.items():
                if due <= now:
                    del self._sweeps[source]
                    return source
            return None

    def take_fresh(self, most: int) -> list[Dirty]:
        """Up to `most` paths that changed just now and are due, the latest change first.

        What a person saved just now does not wait for ten thousand files that were unpacked a moment before.
        """
        with self._changed:
            now = self._now()
            due = (dirty for dirty, due in self._fresh.items() if due <= now)
            taken = heapq.nlargest(most, due, key=self._fresh.__getitem__)
            for dirty in taken:
                del self._fresh[dirty]
            return taken

    def take_backfill(self, most: int) -> list[Dirty]:
        """Up to `most` paths that a sweep found."""
        with self._changed:
            taken = list(islice(self._backfill, most))
            for dirty in taken:
                del self._backfill[dirty]
            return taken

    def presses(self) -> bool:
        """Whether something waits that should not wait for a large document: a job, or what someone changed now."""
        with self._changed:
            now = self._now()
            return bool(self._jobs) or any(due <= now for due in self._fresh.values())

    def __len__(self) -> int:
        """Paths that wait."""
        with self._changed:
            return len(self._fresh) + len(self._backfill)

    def _sweep_by(self, source: str, due: float) -> None:
        self._sweeps[source] = min(due, self._sweeps.get(source, due))

    def _is_due(self) -> bool:
        now = self._now()
        return (
            bool(self._jobs or self._backfill)
            or any(due <= now for due in self._fresh.values())
            or any(due <= now for due in self._sweeps.values())
        )
