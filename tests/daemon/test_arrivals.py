"""Nothing is missed: however files come and go while the daemon runs, memory equals the folder in the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import Running

FEW, MANY = 600, 10_000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path, "max_delete_share = 1.0\n")
    one.start()
    yield one
    assert one.stop() == 0
    assert one.ask("doctor")["problems"] == []


def fill(folder: Path, files: int, folders: int = 1) -> None:
    """As fast as the disk allows."""
    for number in range(folders):
        (folder / f"{number:04d}").mkdir(parents=True)
    for number in range(files):
        (folder / f"{number % folders:04d}" / f"{number:05d}.md").write_text(f"document {number} of {folder.name}")


def on_disk(running: Running) -> set[str]:
    found = (os.path.join(at, name) for at, _, names in os.walk(running.docs) for name in names)
    return {os.path.relpath(path, running.docs) for path in found if "/.git/" not in path}


def settle(running: Running) -> None:
    """Until memory has what the folder has, file for file, and the same text in each."""
    running.until(lambda: running.call("status")["queue"] == 0 and running.paths() == on_disk(running), seconds=300.0)
    for path in sorted(on_disk(running))[:: max(1, len(on_disk(running)) // 5)]:
        (passage,) = running.call("show", document=str(running.docs / path))["passages"]
        assert passage["text"] == (running.docs / path).read_text().strip()


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        (FEW, 1),
        (FEW, FEW // 10),
        pytest.param(MANY, 1, marks=pytest.mark.slow),
        pytest.param(MANY, MANY // 10, marks=pytest.mark.slow),
    ],
)
def test_a_burst(running: Running, files: int, folders: int) -> None:
    fill(running.docs / "burst", files, folders)
    settle(running)


def test_trees_that_come_and_go(running: Running, tmp_path: Path) -> None:
    fill(tmp_path / "outside", 200, 10)
    shutil.copytree(tmp_path / "outside", running.docs / "copied")
    settle(running)
    with tarfile.open(tmp_path / "packed.tar", "w") as packed:
        packed.add(tmp_path / "outside", "unpacked")
    subprocess.run(["tar", "-xf", tmp_path / "packed.tar", "-C", running.docs], check=True)
    settle(running)
    os.rename(tmp_path / "outside", running.docs / "moved-in")
    settle(running)
    os.rename(running.docs / "moved-in", running.docs / "copied" / "renamed")
    settle(running)
    os.rename(running.docs / "copied", tmp_path / "moved-out")
    settle(running)
    shutil.rmtree(running.docs / "unpacked")
    running.write("last.md", "what is left")
    settle(running)


def test_another_branch_is_checked_out(running: Running, tmp_path: Path) -> None:
    def git(*arguments: str, folder: Path) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)

    origin = tmp_path / "origin"
    fill(origin, 100, 5)
    git("init", folder=origin)
    git("add", ".", folder=origin)
    git("commit", "-m", "first", folder=origin)
    git("checkout", "-b", "other", folder=origin)
    shutil.rmtree(origin / "0001")
    fill(origin / "new", 50, 5)
    for path in (origin / "0002").iterdir():
        path.write_text(path.read_text() + ", on the other branch")
    git("add", "-A", folder=origin)
    git("commit", "-m", "second", folder=origin)
    git("clone", "-b", "main", str(origin), "clone", folder=running.docs)
    settle(running)
    for branch in ("other", "main", "other"):
        git("checkout", branch, folder=running.docs / "clone")
        settle(running)


def test_slow_writers_and_editors(tmp_path: Path) -> None:
    """A file is seen whole or not at all."""
    running = Running(tmp_path, settle_seconds=1.0)
    running.start()
    running.write("other.md", "something else")
    path = running.docs / "slow.md"
    found = set()
    with path.open("w") as file:
        for number in range(20):
            file.write(f"Part {number} of the slowly written document. ")
            file.flush()
            time.sleep(0.1)
            found |= {hit["text"] for hit in running.call("search", query="slowly written document")["results"]}
    whole = path.read_text().strip()
    running.until(lambda: running.call("search", query="slowly written", k=1)["results"][0]["text"] == whole)
    for number in range(3):
        (running.docs / ".slow.md.swp").write_text("half of it")
        (running.docs / "slow.md.new").write_text(f"saved by rename {number}")
        os.replace(running.docs / "slow.md.new", path)
    (running.docs / ".slow.md.swp").unlink()
    settle(running)
    assert found <= {"something else"}
    assert running.stop() == 0
