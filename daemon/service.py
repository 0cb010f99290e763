"""The daemon: start, run, stop.

One thread writes. The watcher, the scheduler and the API post to the inbox; the writer drains it. The main thread only
waits for a signal. A refresh trains in a child process, from a thread of its own, and posts what it decides.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import signal
import threading
import time
from typing import Any

from daemon import notify, operations
from daemon.api import SocketServer, build
from daemon.config import socket_path
from daemon.inbox import Inbox
from daemon.ingest import Dirty, Report
from daemon.refresh import plan, refresh
from daemon.runtime import Progress, Runtime
from daemon.scan import IGNORE_FILE
from daemon.scheduler import Scheduler
from daemon.settings import Settings
from daemon.watcher import Watched, Watcher
from store.errors import Corrupt, MemexError, UsageError
from store.summary import summarise

log = logging.getLogger("memex")

CLOSED_DELAY = 0.05  # seconds; after a close event a file stands still
GONE_DELAY = 0.3  # what is gone may be on its way back: editors save by rename
CHECK_SECONDS = 15.0  # how often the watcher is looked after
AGAIN = 5.0  # seconds until the writer tries again after the disk refused
LOOK_SECONDS = 60.0  # how often new retrievals are counted


class Service:
    """A running memex. `run` returns when `stop` was asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = Runtime(settings, write=True)
        self.runtime.after_commit = self._after_commit
        self.inbox = Inbox()
        self.started_at = time.time()
        self._stop = threading.Event()
        self._roots = {source.name: bytes(source.path) for source in settings.sources}
        self._progress: Progress | None = None
        self._refreshing = threading.Lock()
        self._refresh_progress: dict[str, Any] | None = None
        self._ingested = Report()
        self._in_hand = 0  # paths taken from the inbox and not committed yet
        self._trouble: str | None = None  # why nothing can be written
        self._ended_by: Corrupt | None = None
        self.watcher = Watcher(
            [Watched(source.name, bytes(source.path), source.poll) for source in settings.sources],
            self._on_dirty,
            self._on_rescan,
        )
        self.scheduler = Scheduler()
        self.server = SocketServer(build(self._operations(), self.status), socket_path(settings))
        self._writer = threading.Thread(target=self._write, name="writer")

    # --- the life of a daemon ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Start all parts, wait for `stop`, and end them in an order that loses nothing.

        Raises Corrupt when what was acknowledged cannot be read: writing on would make it worse.
        """
        self.watcher.start()
        for source in self.settings.sources:  # what happened before the watcher started
            self.inbox.sweep(source.name)
        self._schedule()
        self._writer.start()
        self.scheduler.start()
        self.server.start()
        notify.ready(f"watching {len(self.settings.sources)} sources")
        log.info("memex serves %s on %s", self.settings.state_dir, self.server.socket)
        while not self._stop.wait(notify_pause()):
            notify.watchdog()
        notify.stopping()
        log.info("stopping: the commit under way is finished first")
        self.watcher.stop()
        self.scheduler.stop()
        with self._refreshing:  # its child sees `_stop` and ends; what it records goes through the writer
            self.inbox.close()
        self._writer.join()
        self.server.stop()
        self.runtime.close()
        log.info("stopped")
        if self._ended_by is not None:
            raise self._ended_by

    def stop(self) -> None:
        """Ask `run` to end; safe in a signal handler."""
        self._stop.set()

    def _schedule(self) -> None:
        settings = self.settings
        rescan = settings.ingest.rescan_minutes * 60
        for source in settings.sources:
            self.scheduler.every(f"rescan {source.name}", rescan, functools.partial(self.inbox.sweep, source.name))
        self.scheduler.every("watcher", CHECK_SECONDS, self.watcher.check)
        self.scheduler.cron("snapshot", settings.snapshots.schedule, lambda: self.inbox.submit(self._snapshot))
        if settings.refresh.learn:
            self.scheduler.cron("refresh", settings.refresh.schedule, lambda: self._refresh_aside("schedule"))
            self.scheduler.every("retrievals", LOOK_SECONDS, self._refresh_if_asked_enough)

    # --- the writer --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Drain the inbox until it closes. Jobs first, then what someone changes now, then the backfill."""
        self.runtime.embedder.embed(["warm"])  # the model loads now, not when the first edit waits for it
        while not self.inbox.closed:
            self.inbox.wait(timeout=1.0)
            try:
                self._one_step()
            except Corrupt as error:
                self._ended_by = error
                self.inbox.close()  # nobody may wait for what is not done any more
                self.stop()
            except Exception as error:  # noqa: BLE001 - what was acknowledged stands
                self._try_again(error)
            else:
                if not len(self.inbox):
                    self._trouble = None

    def _try_again(self, error: Exception) -> None:
        self._trouble = f"writing failed, it is tried again every {AGAIN:.0f} seconds: {error}"
        log.error(self._trouble, exc_info=not isinstance(error, MemexError))
        for source in self.settings.sources:
            self.inbox.sweep(source.name, AGAIN)
        self._stop.wait(AGAIN)

    def _one_step(self) -> None:
        if taken := self.inbox.take_job():
            job, future = taken
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                future.set_exception(error)
        elif (name := self.inbox.take_sweep()) is not None:
            swept = self.runtime.sweep(self.runtime.source(name))
            self._note(swept.report)
            self.inbox.fill(swept.ready)
            for dirty in swept.young:
                self.inbox.mark(dirty, self.settings.ingest.settle_seconds)
        else:
            self._ingest_some()

    def _ingest_some(self) -> None:
        settings = self.settings.ingest
        paths = self.inbox.take_paths(settings.batch_documents)
        if not paths:
            return
        self._in_hand = len(paths)
        try:
            report = self.runtime.ingest(paths, settings.batch_seconds)
        finally:
            self._in_hand = 0
        self._note(report)
        for source in {dirty.source for dirty in report.missing}:
            self.inbox.sweep(source)
        for dirty in report.again:
            self.inbox.mark(dirty, settings.settle_seconds)
        self.inbox.fill(report.rest)

    def _after_commit(self, progress: Progress) -> None:
        """Within long work on the writer's thread: fresh edits go first."""
        self._progress = None if progress.done >= progress.total else progress
        self._ingest_some()

    def _note(self, report: Report) -> None:
        self._ingested += report
        for path in report.missing:
            log.debug("gone: %r", path.relative)
        if report.added or report.changed or report.removed or report.moved or report.failed:
            log.info(
                "added %d, changed %d, removed %d, moved %d, failed %d; embedded %d chunks in %.2f s",
                *(report.added, report.changed, report.removed, report.moved, report.failed),
                *(report.chunks_embedded, report.embed_seconds),
            )

    # --- what others post --------------------------------------------------------------------------------------

    def _on_dirty(self, source: str, relative: bytes, closed: bool) -> None:
        if relative == IGNORE_FILE:
            self.inbox.sweep(source, GONE_DELAY)
            return
        settle = self.settings.ingest.settle_seconds
        path = os.path.join(self._roots[source], relative)
        delay = CLOSED_DELAY if closed else settle if os.path.lexists(path) else min(settle, GONE_DELAY)
        self.inbox.mark(Dirty(source, relative), delay)

    def _on_rescan(self, source: str, reason: str) -> None:
        log.info("scanning %s: %s", source, reason)
        self.inbox.sweep(source, self.settings.ingest.settle_seconds)

    def _snapshot(self) -> None:
        """The scheduled snapshot; none when nothing changed since the last."""
        memory, move = self.runtime.memory, self.runtime.memory.head().move
        if all(one.head.move != move for one in memory.snapshots()):
            memory.snapshot(reason="schedule")

    def _refresh_if_asked_enough(self) -> None:
        if self.runtime.memory.journal.retrievals_since_refresh() >= self.settings.refresh.min_retrievals:
            self._refresh_aside("retrievals")

    def _refresh_aside(self, trigger: str) -> None:
        threading.Thread(target=self._refresh_logged, args=(trigger,), name="refresh").start()

    def _refresh_logged(self, trigger: str) -> None:
        try:
            result = self._refresh(trigger)
            log.info("refresh %s: %s, %s", result["run"], result["decision"], result["reason"])
        except Exception:
            log.exception("the refresh failed; what serves is as it was")

    def _refresh(self, trigger: str) -> dict[str, Any]:
        """One cycle, from a thread that is not the writer's; its commits go through the inbox."""
        if not self._refreshing.acquire(blocking=False):
            raise UsageError("a refresh is under way; `memex status` shows how far it is")
        try:
            return refresh(
                self.runtime,
                trigger=trigger,
                write=lambda job: self.inbox.submit(job).result(),
                on_progress=self._on_refresh_progress,
                stop=self._stop,
            )
        finally:
            self._refresh_progress = None
            self._refreshing.release()

    def _on_refresh_progress(self, progress: dict[str, Any]) -> None:
        self._refresh_progress = progress

    # --- what can be asked -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the memory holds and how the daemon is."""
        modes = {name: {"mode": mode, "reason": reason} for name, (mode, reason) in self.watcher.mode().items()}
        progress = self._progress
        return {
            **summarise(self.runtime.memory.database.path),
            "running": True,
            "queue": len(self.inbox) + self._in_hand + (progress.total - progress.done if progress else 0),
            "watch_mode": overall_mode([mode["mode"] for mode in modes.values()]),
            "sources": modes,
            "alarms": {**self.runtime.alarms, **({"writing": self._trouble} if self._trouble else {})},
            "ingested": {
                name: getattr(self._ingested, name)
                for name in ("added", "changed", "removed", "moved", "failed", "chunks_embedded")
            },
            "refreshing": self._refresh_progress,
            "next_jobs": {name: when.isoformat() for name, when in self.scheduler.next_runs().items()},
            "uptime_seconds": round(time.time() - self.started_at, 1),
        }

    def _operations(self) -> dict[str, Any]:
        bound: dict[str, Any] = {name: functools.partial(one, self.runtime) for name, one in operations.READ.items()}
        for name, one in operations.WRITE.items():
            bound[name] = self._through_writer(functools.partial(one, self.runtime))
        bound["refresh"] = self._refresh_now
        return bound

    def _refresh_now(self, dry_run: bool = False) -> dict[str, Any]:
        """Run one learning cycle and wait for its decision."""
        if dry_run:
            return plan(self.runtime)
        return self._refresh("by hand")

    def _through_writer(self, operation: Any) -> Any:
        def posted(**arguments: Any) -> Any:
            return self.inbox.submit(functools.partial(operation, **arguments)).result()

        posted.__doc__ = operation.func.__doc__
        posted.__signature__ = inspect.signature(operation, eval_str=True)  # type: ignore[attr-defined]
        return posted


def overall_mode(modes: list[str]) -> str:
    """The worst of the sources' watch modes: degraded, polling or native."""
    return next((mode for mode in ("degraded", "polling") if mode in modes), "native")


def notify_pause() -> float:
    """Seconds between two signs of life to systemd."""
    return notify.watchdog_interval() or 60.0


def serve(settings: Settings) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    service = Service(settings)

    def on_signal(_number: int, _frame: object) -> None:
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    service.run()
