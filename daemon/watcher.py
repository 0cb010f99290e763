"""File events to dirty paths, and word of every moment when events may have been lost.

The only file that imports watchdog. An event says no more than "look at this path": nothing is queued here, nothing
is concluded from an event's kind, and whatever events cannot vouch for is left to a rescan of the source.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver

OnDirty = Callable[[str, bytes, bool], None]
OnRescan = Callable[[str, str], None]

# Reading a file, its attributes and each single write are left out in the kernel: they would only fill its queue.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_NETWORK_TYPES = frozenset(
    b"9p afs beegfs ceph cifs gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 prl_fs smb2 smb3 smbfs vboxsf virtiofs".split()
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """A source as the watcher sees it. `poll`: never trust events for it."""

    name: str
    root: bytes
    poll: bool = False


class Watcher:
    """Watches sources from `start()` to `stop()`; `check()` must be called every few seconds in between.

    `on_dirty(source, relative, closed)` names a path below the source's folder that may have been created, changed or
    deleted; `closed` says that its writer has closed it or that it was moved there whole, so it stands still. It is
    called from a thread of the watcher, many times over for one change, and must return at once.

    `on_rescan(source, reason)` says that events may be missing: only a scan of the source tells what is there. It is
    called from the same threads and from `check()`. Whoever starts a watcher scans once after `start()`.

    Each source is in one of three modes: `native` (events tell all), `polling` (a rescan is asked for every
    `poll_seconds`, for network folders and where it is set) and `degraded` (events are missing for the reason given;
    polled too, and healed by `check()` when the reason goes).
    """

    def __init__(
        self,
        sources: Iterable[Watched],
        on_dirty: OnDirty,
        on_rescan: OnRescan,
        *,
        poll_seconds: float = 30.0,
        compare_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watches = {source.name: _Watch(source) for source in sources}
        self._on_dirty = on_dirty
        self._on_rescan = on_rescan
        self._poll_seconds = poll_seconds
        self._compare_seconds = compare_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._running = False
        self._overflow = _OverflowListener(self._overflowed)

    def start(self) -> None:
        """Watch. When it returns, no event from now on goes unseen in a source whose mode is native."""
        # A folder that is found twice while it is being filled is reported by watchdog as a fault; it is none.
        warnings.filterwarnings("ignore", r"Callback with id .* already exists", RuntimeWarning)
        self._overflow.attach()
        with self._lock:
            self._running = True
            for watch in self._watches.values():
                self._begin(watch)

    def stop(self) -> None:
        """No callback is called any more after it returns."""
        with self._lock:
            self._running = False
            for watch in self._watches.values():
                watch.end()
        self._overflow.detach()

    def mode(self) -> dict[str, tuple[str, str]]:
        """For each source its mode, native, polling or degraded, and the reason if it is not native."""
        return {name: (watch.mode, watch.reason) for name, watch in self._watches.items()}

    def check(self) -> None:
        """Find what died, what appeared and what is not watched, and heal it; ask for the rescans that are due."""
        asked: list[tuple[str, str]] = []
        with self._lock:
            for name, watch in self._watches.items() if self._running else ():
                reason = self._heal(watch)
                if not reason and watch.mode != "native" and self._clock() >= watch.poll_at:
                    reason = "polling"
                if reason:
                    watch.poll_at = self._clock() + self._poll_seconds
                    asked.append((name, reason))
        for name, reason in asked:
            self._on_rescan(name, reason)

    def _begin(self, watch: _Watch) -> None:
        source = watch.source
        watch.poll_at = self._clock() + self._poll_seconds
        if source.poll:
            watch.mode, watch.reason = "polling", "set for this source"
        elif kind := network_filesystem(source.root):
            watch.mode, watch.reason = "polling", f"network folder ({kind})"
        else:
            try:
                watch.begin(self._on_dirty, self._on_rescan)
                self._compare(watch)
            except OSError as error:
                watch.end()
                watch.mode, watch.reason = "degraded", error.strerror or str(error)

    def _heal(self, watch: _Watch) -> str:
        """Why a rescan is needed now; empty if events have told all, or if nothing has changed in a poor state."""
        if watch.mode == "polling":
            return ""
        fault = watch.fault()
        if not fault and self._clock() >= watch.compare_at:
            self._compare(watch)
            fault = watch.reason
        if not fault:
            return ""
        before = (watch.mode, watch.reason)
        watch.end()
        self._begin(watch)
        if watch.mode == "degraded" and (watch.mode, watch.reason) == before:
            return ""
        log.warning("Source %s is watched anew (%s): %s %s", watch.source.name, fault, watch.mode, watch.reason)
        return f"watched anew: {fault}"

    def _compare(self, watch: _Watch) -> None:
        """Degraded if there are folders that the kernel does not watch: adding a watch fails without a word."""
        watch.compare_at = self._clock() + self._compare_seconds
        missing = unwatched_folders(watch.source.root)
        if missing:  # some may have been made this instant
            time.sleep(0.2)
            missing = unwatched_folders(watch.source.root)
        watch.mode = "degraded" if missing else "native"
        watch.reason = f"{missing} folders are not watched; raise fs.inotify.max_user_watches" if missing else ""

    def _overflowed(self) -> None:
        """Ask at once for what was lost. watchdog takes all watches down and puts them back after this call, and what
        happens in between goes unseen: so `check()` watches anew and asks again."""
        for name, watch in self._watches.items():
            if watch.observer:
                watch.overflowed = True
                self._on_rescan(name, "event queue overflowed")


@dataclass(slots=True)
class _Watch:
    """What is going on for one source."""

    source: Watched
    mode: str = "native"
    reason: str = ""
    observer: BaseObserver | None = None
    threads: list[threading.Thread] = field(default_factory=list)  # of the observer
    identity: tuple[int, int] = (0, 0)  # of the folder that is watched
    overflowed: bool = False
    poll_at: float = 0.0
    compare_at: float = 0.0

    def begin(self, on_dirty: OnDirty, on_rescan: OnRescan) -> None:
        """Raises OSError if the folder is missing or cannot be watched."""
        root = os.path.realpath(self.source.root)  # a link itself would be watched, not its folder
        os.scandir(root).close()  # raises what watchdog would pass over, such as a folder that may not be read
        self.identity = _identity(root)
        self.overflowed = False
        others = set(threading.enumerate())
        self.observer = InotifyObserver(generate_full_events=True)  # full: a move in or out is told from a create
        handler = _Marker(self.source.name, root, on_dirty, on_rescan)
        self.observer.schedule(handler, os.fsdecode(root), recursive=True, event_filter=_EVENTS)
        self.observer.start()
        started = set(threading.enumerate()) - others
        self.threads = [thread for thread in started if type(thread).__module__.startswith("watchdog.")]

    def end(self) -> None:
        if self.observer:
            self.observer.stop()
            if self.observer.ident:
                self.observer.join()
            else:  # never started: its reader of the kernel's queue was
                self.observer.on_thread_stop()
        self.observer, self.threads = None, []

    def fault(self) -> str:
        """Why the events of this watch cannot be relied upon; empty if they can."""
        if not self.observer:
            return "it could not be watched"
        if not all(thread.is_alive() for thread in self.threads):
            return "its observer died"
        if self.overflowed:
            return "event queue overflowed"
        try:
            same = _identity(self.source.root) == self.identity
        except OSError as error:
            return error.strerror or str(error)
        return "" if same else "another folder is in its place"


class _Marker(FileSystemEventHandler):
    """Turns events into marks."""

    def __init__(self, source: str, root: bytes, on_dirty: OnDirty, on_rescan: OnRescan) -> None:
        self._source = source
        self._prefix = os.path.join(root, b"")
        self._on_dirty = on_dirty
        self._on_rescan = on_rescan

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.is_directory:
            if isinstance(event, DirMovedEvent):  # what lay in a folder that left is named by no event
                self._on_rescan(self._source, "a folder was moved")
        elif isinstance(event, FileMovedEvent):
            self._mark(event.src_path, closed=False)
            self._mark(event.dest_path, closed=True)
        else:
            self._mark(event.src_path, closed=isinstance(event, FileClosedEvent))

    def _mark(self, path: bytes | str, *, closed: bool) -> None:
        encoded = os.fsencode(path)
        if encoded.startswith(self._prefix):  # the far end of a move from or to elsewhere is empty
            self._on_dirty(self._source, encoded[len(self._prefix) :], closed)


class _OverflowListener(logging.Handler):
    """Calls back when watchdog logs that the kernel's queue overflowed: it tells it in no other way."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow
        self._logger = logging.getLogger("watchdog.observers.inotify_c")

    def attach(self) -> None:
        if not self._logger.isEnabledFor(logging.WARNING):
            self._logger.setLevel(logging.WARNING)
        self._logger.addHandler(self)

    def detach(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._on_overflow()


def unwatched_folders(root: bytes) -> int:
    """How many folders at and below `root` the kernel does not watch for this process.

    0 where the kernel's list cannot be read, or names other inodes than stat does (some overlay file systems).
    Folders that this process may not read are not counted: what is in them is not scanned either.
    """
    watched = _watched_inodes()
    if os.stat(root).st_ino not in watched:
        return 0
    return sum(inode not in watched for inode in _folder_inodes(root))


def _watched_inodes() -> set[int]:
    """The inodes that this process's inotify instances watch, from /proc/self/fdinfo (see proc(5))."""
    inodes: set[int] = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify":
                text = Path(f"/proc/self/fdinfo/{fd}").read_text()
                inodes.update(int(found, 16) for found in re.findall(r"^inotify .*?\bino:([0-9a-f]+)", text, re.M))
    return inodes


def _folder_inodes(root: bytes) -> Iterator[int]:
    folders = [root]
    while folders:
        folder = folders.pop()
        with suppress(OSError):  # gone, or not ours to read
            with os.scandir(folder) as entries:
                folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            yield os.stat(folder).st_ino


def network_filesystem(root: bytes, mountinfo: bytes | None = None) -> str:
    """The type of a network file system that holds `root` or is mounted below it; empty if there is none.

    `mountinfo` is the content of /proc/self/mountinfo, see proc(5). What others change on such a file system causes no
    event here. FUSE counts, as most of its uses are remote.
    """
    mounts = Path("/proc/self/mountinfo").read_bytes() if mountinfo is None else mountinfo
    root = os.path.join(os.path.realpath(root), b"")
    holder, holder_type, below = b"", b"", b""
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), before.split()[4])
        point, kind = os.path.join(point, b""), after.split()[0]
        if root.startswith(point) and len(point) >= len(holder):  # the last of two on one point hides the first
            holder, holder_type = point, kind
        elif point.startswith(root) and _is_network(kind):
            below = kind
    return os.fsdecode(holder_type if _is_network(holder_type) else below)


def _is_network(kind: bytes) -> bool:
    return kind.startswith(b"fuse.") or kind in _NETWORK_TYPES


def _identity(folder: bytes) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
