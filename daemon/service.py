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
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from daemon import canary, heap, notify, operations
from daemon.api.server import Api
from daemon.aside import Aside
from daemon.collecting import plan
from daemon.inbox import Inbox
from daemon.ingest import Dirty, Report
from daemon.operations.backups import backup
from daemon.quarantine import warning
from daemon.refresh import nothing_new_since, refresh, resumable
from daemon.runtime import Progress, Runtime
from daemon.scan import IGNORE_FILE
from daemon.scheduler import Scheduler
from daemon.settings import Control, Settings
from daemon.watcher import Watched, Watcher
from store.errors import Corrupt, MemexError
from store.summary import summarise

log = logging.getLogger("memex")

CLOSED_DELAY = 0.05  # seconds; after a close event a file stands still
GONE_DELAY = 0.3  # what is gone may be on its way back: editors save by rename
CHECK_SECONDS = 15.0  # how often the watcher is looked after
AGAIN = 5.0  # seconds until the writer tries again after the disk refused
LOOK_SECONDS = 60.0  # how often new retrievals are counted
CANARY_SECONDS = 180.0  # how often a new adapter is compared with what served before


class Service:
    """A running memex. `run` returns when `stop` was asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = Runtime(settings, write=True)
        self.inbox = Inbox()
        self.runtime.write = lambda job: self.inbox.submit(job).result()
        self.runtime.pressed = self.inbox.presses
        self.runtime.on_progress = self._on_progress
        self.started_at = time.time()
        self._stop = threading.Event()
        self._roots = {source.name: bytes(source.path) for source in settings.sources}
        self._progress: Progress | None = None
        self._refreshes = Aside("refresh", "the model answers as it did")
        self._backups = Aside("backup", "an older one stands")
        self._ingested = Report()
        self._unsettled: dict[Dirty, float] = {}  # since when a path has been waiting to stand still
        self._in_hand = 0  # paths taken from the inbox and not committed yet
        self._trouble: str | None = None  # why nothing can be written
        self._ended_by: Corrupt | None = None
        self.watcher = Watcher(
            [Watched(source.name, bytes(source.path), source.poll) for source in settings.sources],
            self._on_dirty,
            self._on_rescan,
        )
        self.scheduler = Scheduler()
        self.api = Api(self._operations(), self.status, settings)
        self._writer = threading.Thread(target=self._write, name="writer")

    # --- the life of a daemon ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Start all parts, wait for `stop`, and end them in an order that loses nothing.

        Raises Corrupt when what was acknowledged cannot be read: writing on would make it worse.
        """
        self.api.bind()  # first, as it may fail; who asks already waits until the rest is up
        self.watcher.start()
        for source in self.settings.sources:  # what happened before the watcher started
            self.inbox.sweep(source.name)
        self._schedule()
        self._writer.start()
        self.scheduler.start()
        self.api.start()
        notify.ready(f"watching {len(self.settings.sources)} sources")
        log.info("memex serves %s on %s", self.settings.state_dir, self.api.socket)
        while not self._stop.wait(notify_pause()):
            notify.watchdog()
        notify.stopping()
        log.info("stopping: the commit under way is finished first")
        self.api.refuse()
        self.runtime.turns.close()
        self.watcher.stop()
        self.scheduler.stop()
        with self._refreshes.none():  # its child sees `_stop` and ends; what it records goes through the writer
            self.inbox.close()
        with self._backups.none():  # it sees `_stop`; what it copied so far it need not copy again
            pass
        self._writer.join()
        self.api.stop()
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
        if settings.limits.idle_minutes:
            self.scheduler.every("models", LOOK_SECONDS, self.runtime.rest)
        self.scheduler.cron("snapshot", settings.snapshots.schedule, lambda: self.inbox.submit(self._snapshot))
        self.scheduler.cron("backup", settings.backup.schedule, self._backup_aside)
        if settings.refresh.learn:
            self.scheduler.cron("refresh", settings.refresh.schedule, lambda: self._refresh_aside("schedule"))
            self.scheduler.every("retrievals", LOOK_SECONDS, self._refresh_if_asked_enough)
            if resumable(self.runtime):
                self._refresh_aside("resumed")
        if settings.refresh.canary_share < 1:
            self.scheduler.every("canary", CANARY_SECONDS, self._watch_canary)

    # --- the writer --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Drain the inbox until it closes."""
        self.runtime.embedder.embed(["warm"])  # the model loads now, not when the first edit waits for it
        while not self.inbox.closed:
            self.inbox.wait(timeout=1.0)
            self.runtime.parser.let_go()
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
        """A job that someone waits for, then what someone changes now; when there is neither, sweeps and backfill."""
        most = self.settings.ingest.batch_documents
        if job := self.inbox.take_job():
            _run(*job)
        if fresh := self.inbox.take_fresh(most):
            self._ingest(self._quiet(fresh))
        if job or fresh:
            return
        if (name := self.inbox.take_sweep()) is not None:
            swept = self.runtime.sweep(self.runtime.source(name))
            self.runtime.look_for_strays()
            self._note(swept.report)
            self.inbox.fill(swept.ready)
            for dirty in swept.young:
                self.inbox.mark(dirty, self.settings.ingest.settle_seconds)
        elif paths := self.inbox.take_backfill(most):
            self._ingest(paths)

    def _quiet(self, paths: list[Dirty]) -> list[Dirty]:
        """Those that stand still. The others wait until they do; what is written without pause is read all the same
        once in `rescan_minutes`."""
        settings, now, quiet = self.settings.ingest, time.time(), []
        for dirty in paths:
            try:
                modified = os.lstat(os.path.join(self._roots[dirty.source], dirty.relative)).st_mtime
            except OSError:  # gone or unreadable, which is looked into at once
                modified = 0.0
            waited = now - self._unsettled.setdefault(dirty, now)
            young = now - settings.settle_seconds < modified <= now  # a time to come says nothing
            if young and not dirty.closed and waited < settings.rescan_minutes * 60:
                self.inbox.mark(dirty, settings.settle_seconds)
            else:
                quiet.append(dirty)
        return quiet

    def _ingest(self, paths: list[Dirty]) -> None:
        settings = self.settings.ingest
        self._in_hand = len(paths)
        for dirty in paths:
            self._unsettled.pop(dirty, None)
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
        self.inbox.mark(Dirty(source, relative, closed), delay)

    def _on_rescan(self, source: str, reason: str) -> None:
        log.info("scanning %s: %s", source, reason)
        self.inbox.sweep(source, self.settings.ingest.settle_seconds)

    def _snapshot(self) -> None:
        """The scheduled snapshot, none when this state has one; then those go that are not to be kept."""
        memory, move = self.runtime.memory, self.runtime.memory.head().move
        if all(one.head.move != move for one in memory.snapshots()):
            memory.snapshot(reason="schedule")
        policy = operations.states.policy(self.settings.snapshots)
        if policy.keeps_any and (removed := memory.prune_snapshots(policy).removed):
            log.info("retention: removed %s", ", ".join(one.name for one in removed))

    def _refresh_if_asked_enough(self) -> None:
        if self.runtime.memory.journal.retrievals_since_refresh() >= self.settings.refresh.min_retrievals:
            self._refresh_aside("retrievals")

    def _watch_canary(self) -> None:
        if canary.under_way(self.runtime.memory, self.settings) is not None:
            self.inbox.submit(self._abort_canary)

    def _abort_canary(self) -> None:
        try:
            why = canary.abort_if_worse(self.runtime.memory, self.settings)
        except MemexError as error:
            log.error("the canary is to be aborted, and what served before cannot be returned to: %s", error)
        else:
            if why is not None:
                log.warning("%s; what served before serves again", why)

    def _refresh_aside(self, trigger: str) -> None:
        self._refreshes.start(lambda: self._refresh(trigger))

    def _refresh(self, trigger: str, control: Control | None = None) -> dict[str, Any]:
        """One cycle, from a thread that is not the writer's; its commits go through the inbox."""
        with self._refreshes.alone() as tell:
            if trigger == "schedule" and (latest := nothing_new_since(self.runtime)):
                log.info("no refresh: there is nothing to learn that refresh %d had not", latest)
                return {}
            result = refresh(self.runtime, trigger=trigger, on_progress=tell, stop=self._stop, control=control)
        log.info("refresh %s: %s, %s", result["run"], result["decision"], result["reason"])
        return result

    def _on_progress(self, progress: Progress) -> None:
        self._progress = None if progress.done >= progress.total else progress

    def _backup_aside(self) -> None:
        self._backups.start(lambda: self._backup(self.settings.backup.dir, scheduled=True))

    def _backup(self, dir: str, scheduled: bool = False) -> dict[str, Any]:
        """One backup, from a thread that is not the writer's: it takes the writer's turn only to look."""
        with self._backups.alone() as tell:
            done = backup(
                self.runtime,
                dir,
                lambda done, total: tell({"done": done, "total": total}),
                self._stop,
                scheduled=scheduled,
            )
        log.info(
            "backed up to %s: %d files, copied %d (%.1f MB), removed %d, %.1f s",
            *(done["dir"], done["files"], done["copied_files"], done["copied_bytes"] / 1e6),
            *(done["removed"], done["seconds"]),
        )
        return done

    # --- what can be asked -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the memory holds and how the daemon is."""
        modes = {name: {"mode": mode, "reason": reason} for name, (mode, reason) in self.watcher.mode().items()}
        progress, pace, upkeep = self._progress, self.runtime.pace, self.runtime.upkeep
        queue = len(self.inbox) + self._in_hand + (progress.total - progress.done if progress else 0)
        return {
            **summarise(self.runtime.memory.database.path),
            "running": True,
            "queue": queue,
            "files_per_second": round(pace.files_per_second, 1),
            "chunks_per_second": round(pace.chunks_per_second, 1),
            "seconds_left": round(left) if queue and (left := pace.seconds_for(queue)) is not None else None,
            "syncing": {"done": progress.done, "total": progress.total} if progress else None,
            "watch_mode": overall_mode([mode["mode"] for mode in modes.values()]),
            "sources": modes,
            "maintenance": upkeep and operations.shapes.upkeep(upkeep),
            "alarms": self._alarms(),
            "ingested": {
                name: getattr(self._ingested, name)
                for name in ("added", "changed", "removed", "moved", "failed", "chunks_embedded")
            },
            "refreshing": self._refreshes.progress,
            "canary": canary.shown(*found) if (found := canary.judged(self.runtime.memory, self.settings)) else None,
            "backing_up": self._backups.progress,
            "next_jobs": {name: when.isoformat() for name, when in self.scheduler.next_runs().items()},
            "uptime_seconds": round(time.time() - self.started_at, 1),
        }

    def _alarms(self) -> dict[str, str]:
        learned = warning(self.runtime.memory, self.settings.refresh.quarantine)
        general = {"writing": self._trouble, "quarantine": learned}
        return {**self.runtime.alarms, **{name: why for name, why in general.items() if why}}

    def _operations(self) -> dict[str, Any]:
        bound: dict[str, Any] = {name: functools.partial(one, self.runtime) for name, one in operations.READ.items()}
        for name, one in operations.WRITE.items():
            bound[name] = self._through_writer(functools.partial(one, self.runtime))
        for name, one in operations.WRITE_IN_STEPS.items():
            bound[name] = functools.partial(one, self.runtime)
        bound["refresh"] = self._refresh_now
        bound["backup"] = self._backup_now
        return bound

    def _refresh_now(
        self, dry_run: bool = False, whole: bool = False, control: Control | None = None
    ) -> dict[str, Any]:
        """Run one learning cycle and wait for its decision."""
        if dry_run:
            return plan(self.runtime, whole)
        return self._refresh("by hand", control)

    def _backup_now(self, dir: str) -> dict[str, Any]:
        """Make a folder a copy of the memory."""
        return self._backup(dir)

    def _through_writer(self, operation: Any) -> Any:
        def posted(**arguments: Any) -> Any:
            return self.inbox.submit(functools.partial(operation, **arguments)).result()

        posted.__doc__ = operation.func.__doc__
        posted.__signature__ = inspect.signature(operation, eval_str=True)  # type: ignore[attr-defined]
        return posted


def _run(job: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
        future.set_exception(error)


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
    heap.share_arenas()
    service = Service(settings)

    def on_signal(_number: int, _frame: object) -> None:
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    service.run()
