"""The watcher on real folders: what it marks, and that it says so whenever it may have missed something."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.watcher import Watched, Watcher, network_filesystem

INOTIFY = Path("/proc/sys/fs/inotify")


class Marks:
    """What a watcher reported, for one source or several."""

    def __init__(self) -> None:
        self.dirty: dict[tuple[str, bytes], bool] = {}  # whether any report said closed
        self.rescans: list[tuple[str, str]] = []
        self.now = 1000.0

    def on_dirty(self, source: str, relative: bytes, closed: bool) -> None:
        self.dirty[source, relative] = closed or self.dirty.get((source, relative), False)

    def on_rescan(self, source: str, reason: str) -> None:
        self.rescans.append((source, reason))

    def paths(self) -> set[bytes]:
        return {relative for _, relative in list(self.dirty)}

    def clear(self) -> None:
        self.dirty.clear()
        self.rescans.clear()

    def quiet(self, seconds: float = 0.4) -> None:
        """Wait until nothing was reported for a while; a move out of the source is held back half a second."""
        before = -1
        while before != (before := len(self.dirty) + len(self.rescans)):
            time.sleep(seconds)


@pytest.fixture
def marks() -> Marks:
    return Marks()


@pytest.fixture
def watch(marks: Marks) -> Iterator[Callable[..., Watcher]]:
    started: list[Watcher] = []

    def begin(*roots: Path, poll: bool = False) -> Watcher:
        sources = [Watched(root.name, bytes(root), poll) for root in roots]
        watcher = Watcher(sources, marks.on_dirty, marks.on_rescan, clock=lambda: marks.now)
        started.append(watcher)
        watcher.start()
        return watcher

    yield begin
    for watcher in started:
        watcher.stop()


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def test_create_edit_rename_delete(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    (docs / "old").write_text("x")
    watcher = watch(docs)
    assert watcher.mode() == {"docs": ("native", "")}

    (docs / "new").write_text("x")
    assert eventually(lambda: marks.dirty.get(("docs", b"new"), False)), "a close after a write says closed"
    with (docs / "old").open("a") as file:
        file.write("more")
    assert eventually(lambda: marks.dirty.get(("docs", b"old"), False))
    marks.clear()

    (docs / "old").rename(docs / "renamed")
    assert eventually(lambda: marks.dirty == {("docs", b"old"): False, ("docs", b"renamed"): True})
    marks.clear()

    (docs / "renamed").unlink()
    assert eventually(lambda: marks.paths() == {b"renamed"})
    assert not marks.rescans


def test_save_by_rename_marks_the_final_name(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    (docs / "notes.md").write_text("one")
    watch(docs)
    temporary = docs / ".notes.md.swp"
    temporary.write_text("two")
    os.replace(temporary, docs / "notes.md")
    assert eventually(lambda: marks.dirty.get(("docs", b"notes.md"), False))


def test_moves_in_and_out(docs: Path, tmp_path: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    watch(docs)
    outside.rename(docs / "inside")
    assert eventually(lambda: marks.dirty == {("docs", b"inside"): True}), "moved in whole: it stands still"
    marks.clear()
    (docs / "inside").rename(outside)
    assert eventually(lambda: marks.paths() == {b"inside"})


def test_reading_makes_nothing_dirty(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    (docs / "file").write_text("x")
    watch(docs)
    (docs / "file").read_text()
    list(docs.iterdir())
    marks.quiet()
    assert not marks.dirty
    assert not marks.rescans


def test_a_name_that_is_not_utf8(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    watch(docs)
    name = b"caf\xe9\n.txt"
    with open(os.path.join(bytes(docs), name), "w") as file:
        file.write("x")
    assert eventually(lambda: marks.dirty.get(("docs", name), False))


def test_a_source_that_is_a_link(docs: Path, tmp_path: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    link = tmp_path / "link"
    link.symlink_to(docs)
    watch(link)
    (docs / "file").write_text("x")
    assert eventually(lambda: marks.dirty.get(("link", b"file"), False))


def test_new_folders_are_watched(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    watch(docs)
    deep = docs / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "at once").write_text("x")
    marks.quiet()
    (deep / "later").write_text("x")
    assert eventually(lambda: marks.paths() >= {b"a/b/c/at once", b"a/b/c/later"})


def test_trees_that_move(docs: Path, tmp_path: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    names = {b"sub/%d" % i for i in range(20)}
    for name in names:
        (tree / os.fsdecode(name)).write_text("x")
    watch(docs)

    tree.rename(docs / "in")
    assert eventually(lambda: marks.paths() >= {b"in/" + name for name in names})
    marks.quiet()
    marks.clear()

    (docs / "in").rename(docs / "within")
    assert eventually(lambda: marks.paths() >= {b"within/" + name for name in names})
    assert eventually(lambda: bool(marks.rescans)), "what lay at the old place is named by a rescan"
    (docs / "within" / "sub" / "0").write_text("changed")
    assert eventually(lambda: marks.dirty.get(("docs", b"within/sub/0"), False))
    marks.quiet()
    marks.clear()

    (docs / "within").rename(tmp_path / "out")
    assert eventually(lambda: bool(marks.rescans)), "the kernel names no file of a folder that left"


def test_removed_trees(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    for i in range(20):
        (docs / "sub" / str(i)).mkdir(parents=True)
        (docs / "sub" / str(i) / "file").write_text("x")
    watch(docs)
    shutil.rmtree(docs / "sub")
    assert eventually(lambda: marks.paths() >= {b"sub/%d/file" % i for i in range(20)})


@pytest.mark.parametrize(("folders", "files"), [(1, 10_000), (1_000, 10)], ids=["flat", "folders"])
def test_bursts_are_covered(docs: Path, marks: Marks, watch: Callable[..., Watcher], folders: int, files: int) -> None:
    """Written by another process, as fast as it can."""
    watcher = watch(docs)
    script = (
        "import os, sys\n"
        f"for d in range({folders}):\n"
        "    os.makedirs(f'{sys.argv[1]}/{d}', exist_ok=True)\n"
        f"    for f in range({files}):\n"
        "        open(f'{sys.argv[1]}/{d}/{f}', 'w').write('x')\n"
    )
    subprocess.run(["python3", "-c", script, docs], check=True)
    marks.quiet(1.0)
    expected = {b"%d/%d" % (d, f) for d in range(folders) for f in range(files)}
    assert expected <= marks.paths() or marks.rescans
    watcher.check()
    (docs / "0" / "afterwards").write_text("x")
    assert eventually(lambda: b"0/afterwards" in marks.paths())


@pytest.fixture
def kernel_limit() -> Iterator[Callable[[str, int], None]]:
    """Lower a limit of inotify for the whole machine, for the moment."""
    before: dict[Path, str] = {}

    def lower(name: str, value: int) -> None:
        file = INOTIFY / name
        if not os.access(file, os.W_OK):
            pytest.skip(f"{file} cannot be written by this user")
        before.setdefault(file, file.read_text())
        try:
            file.write_text(str(value))
        except OSError as error:
            pytest.skip(f"{file}: {error}")

    yield lower
    for file, value in before.items():
        file.write_text(value)


def test_a_real_overflow_is_noticed(
    docs: Path, marks: Marks, watch: Callable[..., Watcher], kernel_limit: Callable[[str, int], None]
) -> None:
    kernel_limit("max_queued_events", 16)
    watcher = watch(docs)
    kernel_limit("max_queued_events", 16384)  # the limit of an instance is that of its birth
    (docs / "sub").mkdir()
    for i in range(5_000):
        os.close(os.open(docs / "sub" / str(i), os.O_CREAT | os.O_WRONLY))
    assert eventually(lambda: bool(marks.rescans)), "5,000 events went through a queue of 16"
    marks.quiet()
    marks.clear()
    watcher.check()
    assert [source for source, _ in marks.rescans] == ["docs"], "again, once all is watched again"
    (docs / "sub" / "afterwards").write_text("x")
    assert eventually(lambda: b"sub/afterwards" in marks.paths())
    marks.clear()
    watcher.check()
    assert not marks.rescans


def test_the_log_line_of_an_overflow_asks_for_rescans(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    watcher = watch(docs)
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert marks.rescans == [("docs", "event queue overflowed")]
    watcher.check()
    assert len(marks.rescans) == 2
    watcher.stop()
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert len(marks.rescans) == 2


def test_the_watch_limit_degrades_and_heals(
    docs: Path, marks: Marks, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is counted per user, so lowering the real one would disturb other programs: it is played here."""
    from watchdog.observers import inotify_c

    for i in range(30):
        (docs / str(i)).mkdir()
    real = inotify_c.inotify_add_watch
    with monkeypatch.context() as patched:
        room = iter(range(10))
        patched.setattr(
            inotify_c, "inotify_add_watch", lambda *args: real(*args) if next(room, None) is not None else -1
        )
        patched.setattr(inotify_c.ctypes, "get_errno", lambda: 28)
        watcher = watch(docs)
        mode, reason = watcher.mode()["docs"]
        assert mode == "degraded"
        assert "21 folders" in reason
        assert "max_user_watches" in reason
        watcher.check()
        assert not marks.rescans, "not yet due"
        marks.now += 31
        watcher.check()
        assert marks.rescans == [("docs", "polling")]
    marks.now += 31
    watcher.check()
    assert watcher.mode() == {"docs": ("native", "")}
    assert len(marks.rescans) == 2, "what happened before is asked for once more"
    (docs / "29" / "file").write_text("x")
    assert eventually(lambda: b"29/file" in marks.paths())


def test_no_watch_at_all(
    docs: Path, marks: Marks, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    from watchdog.observers import inotify_c

    before = threading.active_count()
    with monkeypatch.context() as patched:
        patched.setattr(inotify_c, "inotify_add_watch", lambda *_: -1)
        patched.setattr(inotify_c.ctypes, "get_errno", lambda: 28)
        watcher = watch(docs)
        assert watcher.mode() == {"docs": ("degraded", "inotify watch limit reached")}
    assert threading.active_count() == before
    watcher.check()
    assert watcher.mode() == {"docs": ("native", "")}
    assert len(marks.rescans) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_observer_is_replaced(docs: Path, marks: Marks) -> None:
    def die_once(source: str, relative: bytes, closed: bool) -> None:
        if not died.is_set():
            died.set()
            raise RuntimeError("ends the observer's thread")
        marks.on_dirty(source, relative, closed)

    died = threading.Event()
    before = threading.active_count()
    watcher = Watcher([Watched("docs", bytes(docs))], die_once, marks.on_rescan)
    watcher.start()
    try:
        watching = threading.active_count()
        (docs / "lost").write_text("x")
        assert died.wait(5)
        assert eventually(lambda: threading.active_count() < watching)
        watcher.check()
        assert marks.rescans == [("docs", "watched anew: its observer died")]
        assert watcher.mode() == {"docs": ("native", "")}
        (docs / "seen").write_text("x")
        assert eventually(lambda: b"seen" in marks.paths())
    finally:
        watcher.stop()
    assert threading.active_count() == before


def test_a_missing_source_degrades_until_it_appears(
    tmp_path: Path, docs: Path, marks: Marks, watch: Callable[..., Watcher]
) -> None:
    late = tmp_path / "late"
    watcher = watch(docs, late)
    assert watcher.mode() == {"docs": ("native", ""), "late": ("degraded", "No such file or directory")}
    watcher.check()
    assert not marks.rescans
    late.mkdir()
    (late / "before").write_text("x")
    watcher.check()
    assert watcher.mode()["late"] == ("native", "")
    assert [source for source, _ in marks.rescans] == ["late"]
    (late / "after").write_text("x")
    assert eventually(lambda: ("late", b"after") in marks.dirty)


def test_a_source_that_is_replaced_is_watched_anew(
    tmp_path: Path, docs: Path, marks: Marks, watch: Callable[..., Watcher]
) -> None:
    """As by a mount: the path is the same, the folder another."""
    watcher = watch(docs)
    docs.rename(tmp_path / "aside")
    watcher.check()
    assert watcher.mode() == {"docs": ("degraded", "No such file or directory")}
    assert len(marks.rescans) == 1
    docs.mkdir()
    watcher.check()
    assert watcher.mode() == {"docs": ("native", "")}
    assert len(marks.rescans) == 2
    marks.clear()
    (docs / "file").write_text("x")
    assert eventually(lambda: b"file" in marks.paths())


def test_polled_sources_are_rescanned_by_the_clock(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    before = threading.active_count()
    watcher = watch(docs, poll=True)
    assert watcher.mode() == {"docs": ("polling", "set for this source")}
    assert threading.active_count() == before
    for _ in range(6):
        marks.now += 10
        watcher.check()
    assert marks.rescans == [("docs", "polling")] * 2


def test_network_file_systems_are_recognised() -> None:
    mounts = (
        b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        b"40 22 0:40 / /srv/my\\040share rw,relatime shared:2 - nfs4 nas:/export rw\n"
        b"41 22 0:41 / /home/me/remote rw - fuse.sshfs host: rw\n"
        b"42 40 0:42 / /srv/my\\040share/local rw - tmpfs tmpfs rw\n"
    )
    assert network_filesystem(b"/srv/my share", mounts) == "nfs4"
    assert network_filesystem(b"/srv/my share/deep/er", mounts) == "nfs4"
    assert network_filesystem(b"/srv/my share/local", mounts) == ""
    assert network_filesystem(b"/srv/my shared", mounts) == ""
    assert network_filesystem(b"/home/me", mounts) == "fuse.sshfs", "mounted below the source"
    assert network_filesystem(b"/var", mounts) == ""


def test_close_to_callback_takes_a_millisecond(docs: Path) -> None:
    seen: list[float] = []
    arrived = threading.Event()

    def on_dirty(source: str, relative: bytes, closed: bool) -> None:
        if closed:
            seen.append(time.perf_counter())
            arrived.set()

    watcher = Watcher([Watched("docs", bytes(docs))], on_dirty, lambda *_: None)
    watcher.start()
    delays = []
    for i in range(100):
        arrived.clear()
        with (docs / str(i)).open("w") as file:
            file.write("x")
        closed_at = time.perf_counter()
        assert arrived.wait(5)
        delays.append(seen[-1] - closed_at)
    watcher.stop()
    assert statistics.median(delays) < 0.005  # 0.4 ms on an idle machine; the rest is room for a busy one


def test_stop_is_quick_and_final(docs: Path, marks: Marks, watch: Callable[..., Watcher]) -> None:
    before = threading.active_count()
    watcher = watch(docs)
    started = time.perf_counter()
    watcher.stop()
    assert time.perf_counter() - started < 2
    assert threading.active_count() == before
    (docs / "file").write_text("x")
    watcher.check()
    marks.quiet()
    assert not marks.dirty
    assert not marks.rescans
