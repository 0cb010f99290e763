"""Backup and restore as their users meet them: the command line, the daemon, its schedule."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import operations, render
from daemon.offline import perform, put_back
from daemon.operations.backups import backup, restore
from daemon.service import Service
from daemon.settings import Backup, Chunking
from store.errors import ConfigError, MemexError, NotFound, UsageError
from store.summary import summarise
from tests.daemon.conftest import World, counts
from tests.daemon.running import Running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    if one.daemon is not None and one.daemon.poll() is None:
        one.daemon.kill()
        one.daemon.wait()


def answer(running: Running, *options: str) -> Any:
    found = running.ask("search", "number 7", "-k", "5", *options)
    return found["version"], found["results"]


def copy_back(world: World, folder: Path) -> None:
    """The documents come from a backup of their own: the same paths and contents, other inodes and times."""
    shutil.copytree(world.docs, folder)
    shutil.rmtree(world.docs)
    shutil.copytree(folder, world.docs, copy_function=shutil.copyfile)


def backed_up(world: World, folder: Path) -> dict[str, Any]:
    return backup(world.runtime, str(folder), lambda done, total: None, threading.Event())


def test_a_backup_of_a_running_daemon_is_a_memory_on_another_machine(running: Running, tmp_path: Path) -> None:
    for number in range(20):
        running.write(f"{number}.md", f"document number {number}")
    running.start()
    running.until(lambda: len(running.paths()) == 20)
    running.ask("snapshot", "create", "good")
    running.write("7.md", "document number 7 was edited")
    running.until(lambda: "edited" in answer(running)[1][0]["text"])
    folder = tmp_path / "backup"
    done = running.ask("backup", str(folder))
    assert set(done) == {"dir", "files", "bytes", "copied_files", "copied_bytes", "removed", "seconds"}
    assert (done["dir"], done["copied_files"]) == (str(folder), done["files"])
    last = running.ask("status")["last_backup"]
    assert (last["ok"], last["error"], last["dir"]) == (True, None, str(folder))
    head, before = running.ask("status")["head"], [answer(running), answer(running, "--at", "good")]
    assert running.stop() == 0

    shutil.rmtree(running.state)
    (tmp_path / "kept").mkdir()
    for file in running.docs.iterdir():  # other inodes and times
        shutil.move(file, tmp_path / "kept")
        shutil.copyfile(tmp_path / "kept" / file.name, file)
    put_back = running.ask("restore", str(folder))
    assert set(put_back) == {"from", "files", "bytes", "head", "seconds"}
    assert (put_back["head"], put_back["files"]) == (head, done["files"])
    running.start()
    assert [answer(running), answer(running, "--at", "good")] == before
    assert running.ask("doctor")["problems"] == []
    done = running.ask("sync")
    assert (done["unchanged"], done["chunks_embedded"]) == (20, 0)
    assert running.ask("status")["ingested"]["chunks_embedded"] == 0
    assert [answer(running), answer(running, "--at", "good")] == before
    running.ask("rollback", "good", "--yes")
    assert answer(running)[1] == before[1][1]
    assert running.ask("doctor")["problems"] == []
    assert running.stop() == 0


def test_without_a_daemon_and_in_words(world: World, tmp_path: Path) -> None:
    world.write("a.txt", "alpha")
    world.sync()
    world.close()
    folder = str(tmp_path / "backup")
    done = perform(world.settings, "backup", {"dir": folder}, show_progress=False)
    assert render.backup(done).startswith(f"backed up to {folder} in ")
    with pytest.raises(UsageError, match="move it away"):
        put_back(world.settings, folder, show_progress=False)
    shutil.rmtree(world.settings.state_dir)
    with pytest.raises(NotFound, match="to back up"):
        perform(world.settings, "backup", {"dir": folder}, show_progress=False)
    assert not world.settings.state_dir.exists()  # an empty memory would keep the restore out
    done = put_back(world.settings, folder, show_progress=False)
    assert render.restore(done).startswith(f"restored from {folder} in ")
    world.open()
    assert world.remembered() == {"a.txt": "alpha"}


def test_after_a_restore_nothing_is_embedded(world: World, tmp_path: Path) -> None:
    for number in range(30):
        world.write(f"{number}.txt", f"text number {number}")
    world.sync()
    remembered, ids = world.remembered(), world.ids()
    backed_up(world, tmp_path / "backup")
    copy_back(world, tmp_path / "kept")
    (world.docs / "3.txt").rename(world.docs / "renamed.txt")
    world.write("4.txt", "another text")
    world.close()
    shutil.rmtree(world.settings.state_dir)
    restore(world.settings, str(tmp_path / "backup"), lambda done, total: None)
    world.open()
    assert world.remembered() == remembered
    assert not (tmp_path / "backup" / "embeddings.sqlite").exists()
    assert counts(world.sync()) == {"unchanged": 28, "moved": 1, "changed": 1, "chunks_embedded": 1}
    assert world.ids()["renamed.txt"] == ids["3.txt"]
    assert operations.doctor(world.runtime)["problems"] == []


def test_other_settings_than_the_backups_are_said(world: World, tmp_path: Path) -> None:
    backed_up(world, tmp_path / "backup")
    world.close()
    shutil.rmtree(world.settings.state_dir)
    restore(world.settings, str(tmp_path / "backup"), lambda done, total: None)
    world.settings = world.settings.model_copy(update={"chunking": Chunking(tokens=50)})
    with pytest.raises(ConfigError, match=r"chunking\.tokens: 200, now 50"):
        world.open()


# --- the schedule ------------------------------------------------------------------------------------------------


@pytest.fixture
def make_service(world: World) -> Iterator[Callable[[Path], Service]]:
    """A service that is not run: only its jobs are."""
    made: list[Service] = []

    def maker(folder: Path) -> Service:
        world.close()
        settings = world.settings.model_copy(update={"backup": Backup(dir=str(folder), schedule="30 2 * * *")})
        made.append(Service(settings))
        return made[-1]

    yield maker
    for service in made:
        service.scheduler.stop()
        service.runtime.close()


def test_a_backup_is_scheduled_and_its_end_is_in_the_status(
    world: World, tmp_path: Path, make_service: Callable[[Path], Service]
) -> None:
    folder = tmp_path / "backup"
    world.write("a.txt", "alpha")
    world.sync()
    service = make_service(folder)
    service._schedule()
    service.scheduler.start()
    assert "backup" in service.status()["next_jobs"]
    assert service.status()["last_backup"] is None

    def back_up_on_schedule() -> None:
        service._backup_aside()
        while any(thread.name == "backup" for thread in threading.enumerate()):
            time.sleep(0.01)

    back_up_on_schedule()
    good = service.status()["last_backup"]
    assert (good["ok"], good["error"], good["dir"]) == (True, None, str(folder))
    assert "FAILED" not in render.status(service.status())

    for _ in range(2):  # the disk is not mounted, today and tomorrow
        shutil.rmtree(folder)
        folder.mkdir()
        back_up_on_schedule()
        last = summarise(world.settings.state_dir / "catalogue.sqlite")["last_backup"]
        assert (last["ok"], last["dir"], last["last_ok"]["at"]) == (False, str(folder), good["at"])
        assert "mount its disk" in last["error"]
        assert os.listdir(folder) == []
    assert f"backup      FAILED: {last['error']}; the last good one: 20" in render.status(service.status())

    service._backup_now(str(folder))  # by hand it begins anew
    back_up_on_schedule()
    assert service.status()["last_backup"]["ok"] is True


def test_a_backup_runs_in_a_thread_of_its_own_and_only_one_does(
    world: World, tmp_path: Path, make_service: Callable[[Path], Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path / "backup")
    began, go_on = threading.Event(), threading.Event()

    def slow(progress: dict[str, int]) -> None:
        began.set()
        assert go_on.wait(30)

    monkeypatch.setattr(service._backups, "_tell", slow)
    service._backup_aside()
    assert began.wait(30)
    with pytest.raises(UsageError, match="under way"):
        service._backup_now(str(tmp_path / "backup"))
    service.runtime.memory.snapshot("meanwhile")  # the writer does not wait for it
    go_on.set()
    for _ in range(300):
        if service.status()["last_backup"]:
            break
        time.sleep(0.1)
    assert service.status()["last_backup"]["ok"] is True


def test_a_stop_ends_a_backup_and_says_so(
    world: World, tmp_path: Path, make_service: Callable[[Path], Service]
) -> None:
    service = make_service(tmp_path / "backup")
    service.stop()
    with pytest.raises(MemexError, match="stopping"):
        service._backup_now(str(tmp_path / "backup"))
    assert "stopping" in service.status()["last_backup"]["error"]


@pytest.mark.parametrize("below", ["docs", "docs/deep/er", "state", "state/backups"])
def test_a_backup_within_what_it_is_of_is_refused(world: World, below: str) -> None:
    folder = world.docs.parent / below
    with pytest.raises(UsageError, match=r"lies in the (source|state directory).*another folder"):
        backed_up(world, folder)
    assert not (folder / "objects").exists()
