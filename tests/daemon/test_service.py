"""The daemon as its users run it: a process, a folder, signals."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.service import Service
from daemon.settings import Embedding, Settings, Snapshots, Source
from tests.daemon.running import Running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    if one.daemon is not None and one.daemon.poll() is None:
        one.daemon.kill()
        one.daemon.wait()


def test_what_happens_in_the_folder_shows_in_memory(running: Running) -> None:
    running.write("before.md", "# Before\n\nwritten before the daemon started")
    running.start()
    running.until(lambda: running.paths() == {"before.md"})
    edited = running.write("during.md", "the first text")
    running.until(lambda: running.paths() == {"before.md", "during.md"})
    edited.write_text("another text altogether")
    running.until(lambda: "another" in running.ask("search", "another text", "-k", "1")["results"][0]["text"])
    os.rename(edited, running.docs / "renamed.md")
    running.until(lambda: running.paths() == {"before.md", "renamed.md"})
    (running.docs / "before.md").unlink()
    running.until(lambda: running.paths() == {"renamed.md"})
    (running.docs / "deep" / "er").mkdir(parents=True)
    running.write("deep/er/file.txt", "in a new folder")
    running.until(lambda: running.paths() == {"renamed.md", "deep/er/file.txt"})
    status = running.ask("status")
    assert (status["running"], status["watch_mode"], status["documents"]) == (True, "native", 2)
    assert running.stop() == 0
    assert running.ask("status")["running"] is False
    assert running.ask("doctor")["problems"] == []


def test_a_signal_ends_it_cleanly_in_the_middle_of_work(running: Running) -> None:
    for number in range(300):
        running.write(f"{number}.md", f"document number {number} " * 50)
    running.start()
    running.until(lambda: running.ask("status")["documents"] > 0)
    assert running.stop(signal.SIGINT) == 0
    assert "Traceback" not in running.log.read_text()
    assert running.ask("doctor")["problems"] == []
    done = running.ask("sync")
    assert done["added"] + done["unchanged"] == 300


def test_systemd_is_told(running: Running, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(30)
        running.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert link.recv(1000).startswith(b"READY=1")
        assert running.stop() == 0
        told = b""
        while b"STOPPING=1" not in told:
            told = link.recv(1000)


def test_a_second_daemon_is_refused(running: Running) -> None:
    running.start()
    second = running.command("serve")
    assert second.returncode == 5
    assert "another memex writes" in second.stderr
    assert running.ask("status")["running"] is True


def test_rollback_through_the_daemon_holds_and_releases(running: Running) -> None:
    running.write("good.md", "a good document")
    running.start()
    running.until(lambda: running.paths() == {"good.md"})
    running.ask("snapshot", "create", "good")
    bad = running.write("bad.md", "a bad document")
    running.until(lambda: running.paths() == {"good.md", "bad.md"})
    assert running.command("rollback", "good").returncode == 2  # no terminal to ask on
    done = running.ask("rollback", "good", "--yes")
    assert done["held"] == 1
    running.ask("sync")
    bad.touch()
    time.sleep(0.5)
    assert running.paths() == {"good.md"}
    (held,) = running.ask("documents", "--held")["documents"]
    assert held["path"] == str(bad)
    assert running.ask("release", str(bad)) == {"released": [str(bad)], "chunks_embedded": 0}
    assert running.paths() == {"good.md", "bad.md"}


def test_a_daemon_that_is_killed_loses_nothing_and_repeats_nothing(running: Running) -> None:
    rng = random.Random(1)
    for number in range(150):
        running.write(f"{number}.md", f"document {number} says {rng.random()}")
    for _ in range(4):
        running.start()
        time.sleep(rng.uniform(0.0, 0.8))
        for number in rng.sample(range(150), 20):
            running.write(f"{number}.md", f"document {number} now says {rng.random()}")
        time.sleep(rng.uniform(0.0, 0.5))
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    running.ask("sync")
    assert running.ask("doctor")["problems"] == []
    assert running.ask("sync")["unchanged"] == 150
    text = (running.docs / "77.md").read_text()
    shown = running.ask("show", "77.md")
    assert [passage["text"] for passage in shown["passages"]] == [text]


@pytest.mark.parametrize(("keep", "left"), [(2, 2), (0, 5)])
def test_the_scheduled_snapshot_is_followed_by_retention(tmp_path: Path, keep: int, left: int) -> None:
    """With every rule off nothing is deleted; without a change no snapshot is taken."""
    (tmp_path / "docs").mkdir()
    rules = {"keep_last": keep, "keep_hourly": 0, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}
    service = Service(
        Settings(
            state_dir=tmp_path / "state",
            sources=(Source(path=tmp_path / "docs"),),
            embedding=Embedding(model="hashing"),
            snapshots=Snapshots(**rules),
        )
    )
    runtime = service.runtime
    runtime.write = lambda job: job()  # this thread is the writer: none was started
    try:
        for number in range(5):
            (tmp_path / "docs" / f"{number}.txt").write_text(f"text {number}")
            runtime.synchronise(list(runtime.settings.sources))
            service._snapshot()
            service._snapshot()
        assert len(runtime.memory.snapshots()) == left
        assert [one.documents for one in runtime.memory.snapshots()][-2:] == [4, 5]
    finally:
        runtime.close()
