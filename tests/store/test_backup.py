"""Backups and restores, on real Lance, SQLite and file systems."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from store import manifest
from store.backup import BackedUp
from store.catalogue.database import CATALOGUE, RESTORING, SCHEMA
from store.durable import write_text
from store.embedding import HashingEmbedder
from store.errors import ConfigError, Corrupt, Locked, MemexError, NotFound, UsageError
from store.manifest import MANIFEST, OnProgress
from store.memory import Memory
from store.restore import restore
from store.types import Batch
from tests.store.conftest import GENERATION, remember, texts, upsert


def back_up(memory: Memory, folder: Path, on_progress: OnProgress = lambda done, total: None) -> BackedUp:
    return memory.back_up(folder, on_progress, threading.Event())


def opened(state: Path, write: bool = True) -> Memory:
    return Memory(state, HashingEmbedder(), write=write, generation=GENERATION)


def answers(memory: Memory) -> dict[str | None, Any]:
    """Chunks and scores of some queries, at the head and at every snapshot."""
    states: list[str | None] = [None, *(one.name for one in memory.snapshots())]
    return {
        when: [memory.search(query, 10, when=when).hits for query in ("alpha", "beta gamma", "number 7")]
        for when in states
    }


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def filled(memory: Memory) -> Memory:
    return fill(memory)


@pytest.fixture(scope="module")
def one_backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup to be copied, for the tests that need no memory beside it."""
    folder = tmp_path_factory.mktemp("one")
    with opened(folder / "state") as memory:
        back_up(fill(memory), folder / "backup")
    return folder / "backup"


@pytest.fixture
def copied(one_backup: Path, backup: Path) -> Path:
    shutil.copytree(one_backup, backup)
    return backup


def fill(memory: Memory) -> Memory:
    """Two snapshots, a rollback, a deletion and an adapter."""
    remember(memory, a="alpha", b="beta", **{f"n{number}": f"number {number}" for number in range(10)})
    memory.snapshot("first")
    remember(memory, a="alpha two", c="gamma")
    memory.snapshot("second")
    memory.commit(Batch(removed=("b",)))
    memory.roll_back("first")
    remember(memory, d="delta")
    memory.adapter_folder(1).mkdir(parents=True)
    (memory.adapter_folder(1) / "adapter_model.safetensors").write_bytes(random.Random(1).randbytes(100_000))
    (memory.adapter_folder(1) / "card.json").write_text("{}")
    return memory


# --- the copy ----------------------------------------------------------------------------------------------------


def test_a_restored_memory_gives_the_same_answers_and_goes_on(filled: Memory, backup: Path, tmp_path: Path) -> None:
    before, head, live = answers(filled), filled.head(), filled.live_at(filled.head())
    done = back_up(filled, backup)
    filled.close()
    shutil.rmtree(filled.state_dir)
    put_back = restore(backup, tmp_path / "new")
    assert (put_back.files, put_back.bytes) == (done.files, done.bytes)
    assert put_back.head == {
        "generation": head.generation,
        "version": head.version,
        "adapter": None,
        "query_adapter": None,
    }
    with opened(tmp_path / "new") as memory:
        assert memory.head() == head
        assert answers(memory) == before
        assert memory.live_at(head) == live
        assert [before[when][0][0].text for when in (None, "first", "second")] == ["alpha", "alpha", "alpha two"]
        assert (memory.adapter_folder(1) / "adapter_model.safetensors").stat().st_size == 100_000
        memory.roll_back("second")
        assert texts(memory) == texts(memory, "second")
        remember(memory, e="epsilon")
        assert texts(memory)["e"] == ["epsilon"]
    with opened(tmp_path / "new", write=False) as memory:
        assert memory.search("epsilon", 1).hits[0].document_id == "e"


def test_only_what_is_new_is_copied(filled: Memory, backup: Path) -> None:
    first = back_up(filled, backup)
    assert (first.copied_files, first.copied_bytes, first.removed) == (first.files, first.bytes, 0)
    again = back_up(filled, backup)
    assert (again.files, again.copied_files, again.copied_bytes, again.removed) == (first.files, 0, 0, 0)
    before = {file: file.stat() for file in (backup / manifest.OBJECTS).rglob("*") if file.is_file()}
    old = set(manifest.read(backup).files)
    remember(filled, e="epsilon")
    third = back_up(filled, backup)
    now = manifest.read(backup).files
    rewritten = {path for path in old if path == CATALOGUE or path.endswith("latest_version_hint.json")}
    new = {entry.sha256: entry.size for path, entry in now.items() if path in rewritten or path not in old}
    assert (third.copied_files, third.copied_bytes) == (len(new), sum(new.values()))
    assert third.removed == len(rewritten)
    assert 3 <= third.copied_files < third.files / 2
    kept = {file: seen for file, seen in before.items() if file.exists()}
    assert len(kept) == len(before) - third.removed
    assert all((file.stat().st_ino, file.stat().st_mtime_ns) == (s.st_ino, s.st_mtime_ns) for file, s in kept.items())


def test_a_restored_memory_backs_up_to_where_it_came_from(filled: Memory, backup: Path, tmp_path: Path) -> None:
    back_up(filled, backup)
    restore(backup, tmp_path / "new")
    with opened(tmp_path / "new") as memory:
        assert back_up(memory, backup).copied_files == 0


def test_all_of_it_is_private(filled: Memory, backup: Path, tmp_path: Path) -> None:
    back_up(filled, backup)
    restore(backup, tmp_path / "new")
    for folder in (backup, tmp_path / "new"):
        for path in (folder, *folder.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_what_is_gone_from_the_memory_leaves_the_backup(memory: Memory, backup: Path) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "s", "the secret word is xyzzy", content="h"),)))
    remember(memory, a="alpha")
    back_up(memory, backup)
    assert b"xyzzy" in contents(backup)
    memory.commit(Batch(removed=("s",)))
    assert b"xyzzy" in contents(backup)
    forgotten = forget(memory, b"xyzzy")
    done = back_up(memory, backup)
    assert done.removed >= forgotten > 0
    assert b"xyzzy" not in contents(backup)
    manifest.verify(backup)


def forget(memory: Memory, secret: bytes) -> int:
    """Remove every file of a table that has the secret, as pruning does once nothing needs it; returns how many."""
    having = [file for file in memory.vectors.folder.rglob("*") if file.is_file() and secret in file.read_bytes()]
    for file in having:
        file.unlink()
    return len(having)


# --- while it is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0, 1, 3, -1])
def test_what_is_forgotten_during_a_backup_is_not_in_it(memory: Memory, backup: Path, moment: int) -> None:
    memory.commit(Batch(upserts=(upsert(memory, "s", "the secret word is xyzzy", content="h"),)))
    remember(memory, a="alpha")
    forgotten = []

    def on_progress(done: int, total: int) -> None:
        if not forgotten and done == (total if moment < 0 else moment):
            memory.commit(Batch(removed=("s",)))
            forgotten.append(forget(memory, b"xyzzy"))

    back_up(memory, backup, on_progress)
    assert forgotten[0] > 0
    assert b"xyzzy" not in contents(backup)


def test_what_is_written_during_the_copy_neither_enters_it_nor_begins_it_again(
    filled: Memory, backup: Path, tmp_path: Path
) -> None:
    head, before = filled.head(), answers(filled)
    steps: list[int] = []

    def on_progress(done: int, total: int) -> None:
        steps.append(done)
        if done in (0, 1, total - 1):
            remember(filled, e=f"epsilon {done}")
            filled.snapshot(f"at-{done}")
        if done == total - 1:
            with closing(sqlite3.connect(filled.database.path)) as other:
                assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # not kept busy

    back_up(filled, backup, on_progress)
    assert steps == sorted(set(steps))
    restore(backup, tmp_path / "new")
    with opened(tmp_path / "new") as memory:
        assert memory.head() == head
        assert answers(memory) == before
        assert memory.vectors.tags(head.generation).keys() == {one.name for one in memory.snapshots()}


def test_a_backup_waits_for_a_commit_that_has_begun(
    filled: Memory, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(folder: Path) -> None:  # the table is written, the head has not moved
        other.start()
        other.join(timeout=0.5)

    other = threading.Thread(target=back_up, args=(filled, backup))
    monkeypatch.setattr("store.memory.sync_filesystem", between)
    remember(filled, e="epsilon")
    other.join()
    restore(backup, tmp_path / "new")
    with opened(tmp_path / "new") as memory:
        assert memory.head() == filled.head()


def test_commits_snapshots_and_rollbacks_go_on_during_backups(filled: Memory, backup: Path, tmp_path: Path) -> None:
    failed: list[Exception] = []
    stop = threading.Event()

    def write() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                remember(filled, **{f"w{number % 20}": f"number {number}"})
                if number % 5 == 0:
                    filled.snapshot(f"s{number}")
                if number % 7 == 0:
                    filled.roll_back("second")
        except Exception as error:  # noqa: BLE001 - the test shows it
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_ in range(4):
            seen = filled.head().move
            back_up(filled, backup)
            restore(backup, tmp_path / f"new{round_}")
            while filled.head().move == seen and not failed:
                time.sleep(0.01)
    finally:
        stop.set()
        writer.join()
    assert not failed
    heads = []
    for round_ in range(4):
        with opened(tmp_path / f"new{round_}") as memory:
            head = memory.head()
            heads.append(head.move)
            assert head.reason != "recovered: an unfinished write was put aside"
            for state in (head, *(one.head for one in memory.snapshots())):
                on_disk = memory.vectors.table_of_contents(state.generation, state.version)
                live = {one: (r.content, r.path, r.chunks) for one, r in memory.live_at(state).items()}
                assert on_disk == live
                assert live == {
                    one: (r.content, r.path, r.chunks) for one, r in filled.live_at(state).items()
                }  # the original has the same past
            tags = memory.vectors.tags(head.generation)
            assert tags == {one.name: one.head.version for one in memory.snapshots()}
    assert heads == sorted(set(heads))  # it was not standing still


def test_a_memory_that_never_stands_still_is_an_error_and_the_old_backup_stands(filled: Memory, backup: Path) -> None:
    back_up(filled, backup)
    before = manifest.verify(backup)
    remember(filled, e="epsilon")
    data = filled.vectors.folder / f"{filled.generation}.lance" / "data"
    (data / "0.lance").touch()
    rounds: list[int] = []

    def on_progress(done: int, total: int) -> None:
        if done == total:
            (data / f"{len(rounds)}.lance").rename(data / f"{len(rounds) + 1}.lance")
            rounds.append(done)

    with pytest.raises(MemexError, match="faster than it was copied"):
        back_up(filled, backup, on_progress)
    assert manifest.verify(backup) == before


def test_a_stop_ends_a_backup_and_the_next_goes_on_from_there(filled: Memory, backup: Path) -> None:
    stop = threading.Event()
    with pytest.raises(MemexError, match="stopping"):
        filled.back_up(backup, lambda done, total: stop.set() if done == 10 else None, stop)
    with pytest.raises(NotFound, match=MANIFEST):
        manifest.verify(backup)
    there = len(manifest.objects(backup))
    done = back_up(filled, backup)
    assert there >= 10
    assert done.copied_files == done.files - there
    manifest.verify(backup)


def test_half_of_an_object_that_no_manifest_lists_is_not_taken_for_whole(filled: Memory, backup: Path) -> None:
    back_up(filled, backup)
    (backup / MANIFEST).unlink()  # as if the power had gone before it was written
    first = next(file for file in (backup / manifest.OBJECTS).rglob("*") if file.is_file())
    first.write_bytes(bytes(first.stat().st_size))
    assert back_up(filled, backup).copied_files == 1
    manifest.verify(backup)


# --- what is refused ---------------------------------------------------------------------------------------------


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A manifest that says something else, with its own checksum right."""
    body = json.loads((folder / MANIFEST).read_text())
    change(body)
    body.pop("sha256", None)
    write_text(folder / MANIFEST, json.dumps({**body, "sha256": manifest._checksum(body)}))


def listing(path: str) -> Callable[[Path], Path]:
    def damage(folder: Path) -> Path:
        forge(folder, lambda body: body["files"].update({path: body["files"][CATALOGUE]}))
        return folder / MANIFEST

    return damage


def forged(name: str, value: object) -> Callable[[Path], Path]:
    def damage(folder: Path) -> Path:
        forge(folder, lambda body: body.update({name: value}))
        return folder / MANIFEST

    return damage


def objects(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / manifest.OBJECTS).rglob("*") if file.is_file())


def flipped(folder: Path) -> Path:
    file = max(objects(folder), key=lambda one: one.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return file


def truncated(folder: Path) -> Path:
    file = objects(folder)[-1]
    os.truncate(file, file.stat().st_size - 1)
    return file


def missing(folder: Path) -> Path:
    file = objects(folder)[0]
    file.unlink()
    return file


def link(folder: Path) -> Path:
    file = objects(folder)[0]
    shutil.move(file, folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")
    return file


def linked_folder(folder: Path) -> Path:
    shutil.move(folder / manifest.OBJECTS, folder.parent / "elsewhere")
    (folder / manifest.OBJECTS).symlink_to(folder.parent / "elsewhere")
    return folder / manifest.OBJECTS


def linked_manifest(folder: Path) -> Path:
    shutil.move(folder / MANIFEST, folder.parent / "elsewhere")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere")
    return folder / MANIFEST


def pipe(folder: Path) -> Path:
    file = missing(folder)
    os.mkfifo(file)
    return file


def pipe_as_manifest(folder: Path) -> Path:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    return folder / MANIFEST


def unknown_file(folder: Path) -> Path:
    (folder / "notes.txt").write_text("mine")
    return folder / "notes.txt"


def unknown_object(folder: Path) -> Path:
    file = objects(folder)[0].with_name("notes.txt")
    file.write_text("mine")
    return file


def edited_manifest(folder: Path) -> Path:
    file = folder / MANIFEST
    file.write_text(file.read_text().replace('"adapter": null', '"adapter": 7'))
    return file


def written(text: str) -> Callable[[Path], Path]:
    def damage(folder: Path) -> Path:
        (folder / MANIFEST).write_text(text)
        return folder / MANIFEST

    return damage


def no_catalogue(folder: Path) -> Path:
    forge(folder, lambda body: body["files"].pop(CATALOGUE))
    return folder / MANIFEST


def file_in_a_file(folder: Path) -> Path:
    forge(folder, lambda body: body["files"].update({"adapters/1": body["files"][CATALOGUE]}))
    return listing("adapters/1/x")(folder)


DAMAGES = {
    "a flipped bit": (flipped, "sha256"),
    "a truncated file": (truncated, "should have"),
    "a missing file": (missing, "missing"),
    "a link for a file": (link, "no part of a memex backup"),
    "a link for a folder": (linked_folder, "no part of a memex backup"),
    "a link for the manifest": (linked_manifest, "link"),
    "a pipe for a file": (pipe, "no part of a memex backup"),
    "a pipe for the manifest": (pipe_as_manifest, "no regular file"),
    "an unknown file": (unknown_file, "no part of a memex backup"),
    "an unknown file among the objects": (unknown_object, "no part of a memex backup"),
    "an edited manifest": (edited_manifest, "its own sha256"),
    "half a manifest": (written('{"format": 1, "files": {'), "not JSON"),
    "bytes for a manifest": (written("\0\1\2"), "not JSON"),
    "deep JSON": (written("[" * 100_000), "not JSON"),
    "someone else's JSON": (written('{"name": "a web extension"}'), "not the manifest"),
    "a list": (written("[]"), "not the manifest"),
    "a newer format": (forged("format", 2), "format 2, this memex reads 1"),
    "another schema": (forged("schema", SCHEMA + 1), f"catalogue schema {SCHEMA + 1}"),
    "no files": (forged("files", {}), "lists no catalogue"),
    "files of another kind": (forged("files", ["a"]), "not the manifest"),
    "no head": (forged("head", None), "not the manifest"),
    "no hash": (forged("files", {CATALOGUE: {"size": 1, "mtime_ns": 1, "sha256": "../../x"}}), "not the manifest"),
    "a negative size": (forged("files", {CATALOGUE: {"size": -1, "mtime_ns": 1, "sha256": "0" * 64}}), "not the man"),
    "no catalogue": (no_catalogue, "lists no catalogue"),
    "a path that leaves": (listing("generations/../../x"), "no file of a memory"),
    "a path that leaves at once": (listing("../x"), "no file of a memory"),
    "an absolute path": (listing("/etc/cron.d/x"), "no file of a memory"),
    "a path with empty parts": (listing("generations//x"), "no file of a memory"),
    "a path of no memory": (listing("run/memex.sock"), "no file of a memory"),
    "a folder's path": (listing("generations"), "no file of a memory"),
    "a NUL in a path": (listing("generations/a\0b"), "no file of a memory"),
    "a path within a file": (file_in_a_file, "no file of a memory"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_backup_is_refused_and_nothing_is_written(copied: Path, tmp_path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    bad = damage(copied)
    with pytest.raises(Corrupt) as caught:
        restore(copied, tmp_path / "new" / "state")
    assert str(bad) in str(caught.value)
    assert said in str(caught.value)
    assert any(step in str(caught.value) for step in ("use ", "move it away", "name the folder"))
    assert not (tmp_path / "new").exists()


def test_where_there_is_no_backup_nothing_is_restored(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound, match=MANIFEST):
            restore(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_left_alone(filled: Memory, backup: Path) -> None:
    backup.mkdir()
    (backup / "thesis.txt").write_text("mine")
    with pytest.raises(Corrupt, match=r"thesis\.txt is no part"):
        back_up(filled, backup)
    assert os.listdir(backup) == ["thesis.txt"]


def test_the_parents_of_the_folder_are_not_made(filled: Memory, tmp_path: Path) -> None:
    with pytest.raises(MemexError, match="No such file"):
        back_up(filled, tmp_path / "not mounted" / "backup")
    assert not (tmp_path / "not mounted").exists()


def test_another_memory_does_not_take_the_place(filled: Memory, backup: Path, tmp_path: Path) -> None:
    """As on a machine set up anew, where the restore was forgotten and the schedule was not."""
    back_up(filled, backup)
    with opened(tmp_path / "other") as other, pytest.raises(UsageError, match="another memory"):
        back_up(other, backup)
    restore(backup, tmp_path / "new")


def test_two_backups_to_one_folder_do_not_meet(filled: Memory, backup: Path) -> None:
    refused = []

    def on_progress(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(Locked, match="another backup"):
                back_up(filled, backup)
            refused.append(done)

    back_up(filled, backup, on_progress)
    assert refused == [0]


@pytest.mark.parametrize("damage", [flipped, truncated, missing])
def test_what_the_error_says_mends_a_damaged_file(filled: Memory, backup: Path, damage: Callable[[Path], Path]) -> None:
    back_up(filled, backup)
    damage(backup).unlink(missing_ok=True)
    assert back_up(filled, backup).copied_files == 1
    manifest.verify(backup)


def test_a_damaged_manifest_is_mended_as_its_error_says(filled: Memory, backup: Path) -> None:
    back_up(filled, backup)
    bad = edited_manifest(backup)
    with pytest.raises(Corrupt, match="remove it and run `memex backup`"):
        back_up(filled, backup)
    bad.unlink()
    assert back_up(filled, backup).copied_files == 0
    manifest.verify(backup)


# --- where to ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CATALOGUE, f"{CATALOGUE}-wal", "generations/x", "adapters/0001/card.json"])
def test_a_memory_that_is_there_is_never_written_over(copied: Path, tmp_path: Path, name: str) -> None:
    there = tmp_path / "new" / name
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    with pytest.raises(UsageError, match="move it away, or name another state_dir"):
        restore(copied, tmp_path / "new")
    assert [file for file in (tmp_path / "new").rglob("*") if file.is_file()] == [there]
    assert there.read_text() == "mine"


def test_what_is_no_memory_may_lie_in_the_state_directory(filled: Memory, backup: Path, tmp_path: Path) -> None:
    back_up(filled, backup)
    (tmp_path / "new" / "models").mkdir(parents=True)
    (tmp_path / "new" / "embeddings.sqlite").touch()
    restore(backup, tmp_path / "new")
    with opened(tmp_path / "new") as memory:
        assert answers(memory) == answers(filled)


def test_other_settings_than_the_backups_are_said(copied: Path, tmp_path: Path) -> None:
    restore(copied, tmp_path / "new")
    with pytest.raises(ConfigError, match="chunker: 1, now 2"):
        Memory(tmp_path / "new", HashingEmbedder(), write=True, generation={**GENERATION, "chunker": 2})


def test_a_state_directory_in_use_is_locked(copied: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "new"):
        (tmp_path / "new" / CATALOGUE).rename(tmp_path / "away")
        shutil.rmtree(tmp_path / "new" / "generations")
        (tmp_path / "new" / f"{CATALOGUE}-wal").unlink()
        with pytest.raises(Locked):
            restore(copied, tmp_path / "new")


# --- kills and disks ---------------------------------------------------------------------------------------------


def drive(command: list[str], *arguments: object) -> list[Any]:
    """What a driver of tests.store prints, line by line."""
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


EVERY_STEP = pytest.param(1, id="every step", marks=pytest.mark.slow)


@pytest.mark.parametrize("stride", [pytest.param(6, id="some steps"), EVERY_STEP])
def test_a_kill_at_any_step_leaves_the_old_backup_or_the_new_one(
    filled: Memory, backup: Path, tmp_path: Path, stride: int
) -> None:
    back_up(filled, backup)
    remember(filled, e="epsilon")
    filled.snapshot("third")
    filled.delete_snapshot("first")
    filled.close()
    first = random.randint(1, stride)
    kills = drive(
        [sys.executable, "-m", "tests.store.killed", "backup"],
        *(first, stride, filled.state_dir, backup, tmp_path / "killed"),
    )
    assert len(kills) * stride > 50
    old = [kill["old"] for kill in kills]
    assert old[0] is True
    assert old == sorted(old, reverse=True)  # once it is the new one it stays
    assert any(kill["garbage"] for kill in kills)
    assert not any(kill["garbage_after"] for kill in kills)
    assert all(kill["after"] == kills[-1]["after"] for kill in kills)
    assert any("tags/third" in path for path in kills[-1]["after"])


@pytest.mark.parametrize("stride", [pytest.param(15, id="some steps"), EVERY_STEP])
def test_a_kill_at_any_step_of_a_restore_leaves_nothing_that_passes_for_a_memory(
    copied: Path, tmp_path: Path, stride: int
) -> None:
    first = random.randint(1, stride)
    kills = drive(
        [sys.executable, "-m", "tests.store.killed", "restore"],
        *(first, stride, "-", copied, tmp_path / "killed"),
    )
    assert len(kills) * stride > 150
    assert sum(kill["whole"] for kill in kills) <= 2  # the renaming is the end
    assert not any(kill["mistaken"] for kill in kills)
    assert all(kill["same"] for kill in kills)


def test_a_cut_off_restore_is_said_by_who_wants_to_write(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / RESTORING).touch()
    with pytest.raises(Corrupt, match="memex restore"):
        opened(tmp_path / "new")
    with pytest.raises(MemexError):
        opened(tmp_path / "new", write=False)


def test_a_full_or_read_only_disk_is_said_and_leaves_nothing_half(filled: Memory, backup: Path, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small disk: run as root, or allow user namespaces")
    small = tmp_path / "small"
    small.mkdir()
    filled.close()
    command = ["unshare", "-rm", sys.executable, "-m", "tests.store.small_disk"]
    ((fits, full, read_only, no_room, filled_up, again),) = drive(command, filled.state_dir, backup, small)
    assert (fits, again) == ("", "")
    assert "No space left on device" in full
    assert "Read-only file system" in read_only
    assert "make room, or name another state_dir" in no_room
    assert "No space left on device" in filled_up
    for message in (full, read_only, filled_up):
        assert str(small) in message
        assert "mend that or" in message
