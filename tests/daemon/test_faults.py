"""The daemon and the command line on a disk that is full, read-only or damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from daemon import operations
from daemon.config import load
from daemon.runtime import Runtime
from store.errors import MemexError
from tests.daemon.running import Running
from tests.faults import mounts


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    one.write("note.md", "# Note\n\nwhat was there from the beginning")
    yield one
    if one.daemon is not None and one.daemon.poll() is None:
        one.daemon.kill()
        one.daemon.wait()


@pytest.fixture
def small_disk(tmp_path: Path, needs_mounts: None) -> Iterator[Path]:
    """The state directory of `running`, on a disk of 2 MB."""
    with mounts.mounted(*mounts.full_at(2), at=tmp_path / "state") as at:
        yield at


def test_the_daemon_outlives_a_full_disk(small_disk: Path, running: Running) -> None:
    running.start()
    running.until(lambda: paths(running) == {"note.md"})
    names = {f"{number}.md" for number in range(40)}
    for name in names:
        running.write(name, f"document {name} " + f"{name} " * 3000)
    running.until(lambda: "writing" in running.call("status")["alarms"])
    assert "writing failed" in running.command("status").stdout
    found = running.call("search", query="what was there from the beginning", k=1)
    assert found["results"][0]["path"] == str(running.docs / "note.md")
    assert "note.md" in paths(running) < names | {"note.md"}
    mounts.grow(small_disk, 64)
    running.until(lambda: paths(running) == names | {"note.md"})
    running.until(lambda: running.call("status")["alarms"] == {})
    assert running.stop() == 0
    assert running.ask("doctor")["problems"] == []
    assert "Traceback" not in running.log.read_text()


@pytest.mark.usefixtures("needs_mounts")
def test_a_read_only_state_directory(running: Running) -> None:
    running.ask("sync")
    with mounts.mounted("--bind", running.state, at=running.state), mounts.read_only(running.state):
        found = running.ask("search", "from the beginning", "-k", "1")
        assert found["results"][0]["path"] == str(running.docs / "note.md")
        assert found["retrieval_id"] is None
        assert running.paths() == {"note.md"}
        assert running.ask("status")["documents"] == 1
        for command in (["sync"], ["serve"]):
            refused = running.command(*command)
            assert refused.returncode == 1
            assert refused.stderr.startswith(f"memex: {running.state} cannot be written: Read-only file system; mend")


def test_a_truncated_catalogue(running: Running) -> None:
    running.ask("sync")
    catalogue = running.state / "catalogue.sqlite"
    with catalogue.open("r+b") as opened:
        opened.truncate(catalogue.stat().st_size // 2)
    for command in (["serve"], ["status"], ["search", "note"]):
        refused = running.command(*command)
        assert refused.returncode == 1, command
        assert refused.stderr.startswith(f"memex: {catalogue}: "), command
        assert "backup" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_acknowledged_state_that_is_gone_stops_the_daemon(running: Running) -> None:
    running.start()
    running.until(lambda: paths(running) == {"note.md"})
    (running.state / "generations").rename(running.state / "gone")  # at once, whatever is being written there
    running.write("another.md", "this cannot be written")
    assert running.daemon is not None
    assert running.daemon.wait(timeout=60) == 1
    log = running.log.read_text()
    assert "memex: generation" in log
    assert "backup" in log
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.usefixtures("needs_power_cuts")
def test_a_disk_that_is_gone(running: Running, tmp_path: Path) -> None:
    """Every system call on it fails from one moment on; what was acknowledged before is there when it is back."""
    image, left = mounts.ext4(tmp_path / "image"), tmp_path / "left"
    with mounts.mounted("-o", "loop", image, at=running.state):
        running.start()
        running.write("second.md", "written before the disk was gone")
        running.until(lambda: paths(running) == {"note.md", "second.md"})
        mounts.cut(running.state, mounts.JOURNAL_LOST)
        shutil.copyfile(image, left)
        running.write("third.md", "written after the disk was gone")
        assert running.daemon is not None
        ended = running.daemon.poll
        running.until(lambda: "writing failed" in running.log.read_text() or ended() is not None)
        assert running.stop() in (0, 1)  # SQLite may take what it can no longer read for damaged: the daemon ends then
        assert "Traceback" not in running.log.read_text()
    with mounts.mounted("-o", "loop", left, at=running.state):
        with reader(running, write=True) as runtime:
            assert operations.doctor(runtime)["problems"] == []
            listed = operations.documents(runtime)["documents"]
            assert {os.path.basename(one["path"]) for one in listed} == {"note.md", "second.md"}
        running.start()
        running.until(lambda: paths(running) == {"note.md", "second.md", "third.md"})
        assert running.stop() == 0


@pytest.mark.slow
def test_killed_at_random_times_under_load(running: Running) -> None:
    """While files are written, edited, renamed and removed, and snapshots made and rolled back to."""
    rng = random.Random(1)
    texts = {f"{number}.md": f"document {number}" for number in range(60)}
    for name, text in texts.items():
        running.write(name, text)
    kept: set[str] = set()
    for kill in range(60):
        running.spawn()
        if kill % 2:  # else it may not even have started
            running.until(running.has_state)
        until = time.monotonic() + rng.uniform(0.0, 2.5)
        while time.monotonic() < until:
            disturb(running, rng, texts, kept)
            time.sleep(rng.uniform(0.0, 0.05))
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
        check(running, kept)
    running.command("release", "--all")
    running.ask("sync", "--confirm-deletes")
    assert set(texts) | {"note.md"} == running.paths()
    with reader(running) as runtime:
        for name, text in texts.items():
            shown = operations.show(runtime, str(running.docs / name))
            assert [passage["text"] for passage in shown["passages"]] == [text]
    again = running.ask("sync")
    assert (again["unchanged"], again["chunks_embedded"]) == (len(texts) + 1, 0)


def disturb(running: Running, rng: random.Random, texts: dict[str, str], kept: set[str]) -> None:
    """One change of a file, or one snapshot or rollback; `kept` are the snapshots that the daemon acknowledged."""
    kind = rng.choice(["edit", "edit", "edit", "rename", "remove", "add", "snapshot", "rollback"])
    name = rng.choice(sorted(texts))
    other = f"{rng.randrange(10**9)}.md"
    with suppress(MemexError):
        if kind == "edit":
            texts[name] = f"edited to {rng.random()}"
            running.write(name, texts[name])
        elif kind == "rename":
            texts[other] = texts.pop(name)
            (running.docs / name).rename(running.docs / other)
        elif kind == "remove" and len(texts) > 50:
            del texts[name]
            (running.docs / name).unlink()
        elif kind == "add" and len(texts) < 70:
            texts[other] = f"new, {rng.random()}"
            running.write(other, texts[other])
        elif kind == "snapshot":
            kept.add(running.call("snapshot_create")["name"])
        elif kind == "rollback" and kept and rng.random() < 0.3:
            kept.add(running.call("rollback", snapshot=rng.choice(sorted(kept)))["from"])


def check(running: Running, kept: set[str]) -> None:
    """The next start is well, and has what was acknowledged."""
    with reader(running, write=True):
        pass
    with reader(running) as runtime:
        assert operations.doctor(runtime)["problems"] == []
        assert kept <= {one["name"] for one in operations.snapshot_list(runtime)}


@contextmanager
def reader(running: Running, write: bool = False) -> Iterator[Runtime]:
    """The state directory in this process, with no daemon."""
    runtime = Runtime(load(running.config), write=write)
    try:
        yield runtime
    finally:
        runtime.close()


def paths(running: Running) -> set[str]:
    """What the daemon has in memory, relative to the watched folder."""
    listed = running.call("documents")["documents"]
    return {os.path.relpath(one["path"], running.docs) for one in listed if one["chunks"]}
