"""One at a time, in the order of arrival: a few may wait, and nobody for ever."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from store.errors import Busy, Stopping

WAITING = 16  # behind the one whose turn it is
LONGEST_WAIT = 60.0  # seconds
LOOK_SECONDS = 0.25  # how soon one who waits notices that it need not any more


class Turns:
    """Safe from any thread. Once closed, nobody gets a turn any more."""

    def __init__(self, waiting: int = WAITING, seconds: float = LONGEST_WAIT) -> None:
        self.closed = False
        self._most = waiting + 1
        self._seconds = seconds
        self._line: deque[object] = deque()  # the first of them has the turn
        self._moved = threading.Condition()

    @contextmanager
    def take(self, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for the turn and keep it for the block.

        Raises Busy when too many wait already or it takes too long, Stopping when closed or when `stop` says so.
        """
        me = object()
        with self._moved:
            if len(self._line) >= self._most and not self.closed:
                raise Busy(f"{len(self._line)} questions are waiting for the model; ask again in a moment")
            self._line.append(me)
        try:
            self._wait(me, stop)
            yield
        finally:
            with self._moved:
                self._line.remove(me)
                self._moved.notify_all()

    def close(self) -> None:
        """Send away those who wait; whoever has the turn should look at `closed`."""
        with self._moved:
            self.closed = True
            self._moved.notify_all()

    def _wait(self, me: object, stop: Callable[[], bool]) -> None:
        until = time.monotonic() + self._seconds
        with self._moved:
            while True:
                if self.closed or stop():
                    raise Stopping("stopped before its turn with the model came; ask again")
                if self._line[0] is me:
                    return
                left = until - time.monotonic()
                if left <= 0:
                    raise Busy(f"the model had no time for it in {self._seconds:.0f} seconds; ask again later")
                self._moved.wait(min(left, LOOK_SECONDS))
