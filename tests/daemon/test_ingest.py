"""Dirty paths become one commit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import daemon.reading
from daemon.ingest import Dirty, Report, ingest, sweep
from daemon.parse import Parsed, ParserProcess, StillParsing
from daemon.reading import read_file
from store.types import Stat
from tests.daemon.conftest import World, counts


def look_into(world: World, *names: str, most_chunks: int = 100) -> Report:
    paths = [Dirty("docs", name.encode()) for name in names]
    return ingest(world.runtime.memory, world.settings, paths, world.runtime.parser, most_chunks=most_chunks)


def done(report: Report) -> dict[str, Any]:
    """What was done, without zeros and times."""
    return {
        name: value for name in Report.__slots__ if (value := getattr(report, name)) and not name.endswith("seconds")
    }


def test_a_batch_is_one_move_of_the_head(world: World) -> None:
    world.write("a.txt", "alpha")
    world.write("b.txt", "beta")
    world.write("c.pdf", b"%PDF-1.7 and nothing more")
    before = world.runtime.memory.head().move
    assert done(look_into(world, "a.txt", "b.txt", "c.pdf")) == {"added": 2, "failed": 1, "chunks_embedded": 2}
    assert world.runtime.memory.head().move == before + 1
    assert world.remembered() == {"a.txt": "alpha", "b.txt": "beta"}


def test_nothing_to_do_makes_no_commit(world: World) -> None:
    before = world.runtime.memory.head()
    assert done(look_into(world)) == {}
    assert world.runtime.memory.head() == before


def test_a_path_without_a_file_is_reported_and_its_document_stays(world: World) -> None:
    world.write("a.txt", "alpha")
    look_into(world, "a.txt")
    (world.docs / "a.txt").unlink()
    gone = (Dirty("docs", b"a.txt"), Dirty("docs", b"never.txt"))
    assert done(look_into(world, "a.txt", "never.txt")) == {"missing": gone}
    assert world.remembered() == {"a.txt": "alpha"}


def test_a_source_that_is_away_reports_all_as_missing(world: World, tmp_path: Path) -> None:
    world.docs.rename(tmp_path / "unmounted")
    assert done(look_into(world, "a.txt")) == {"missing": (Dirty("docs", b"a.txt"),)}


def test_paths_that_are_not_wanted_or_of_no_source_are_passed_over(world: World) -> None:
    world.write(".git/config", "no document")
    world.write("a.txt~", "no document")
    assert done(look_into(world, ".git/config", "a.txt~")) == {}
    stranger = Dirty("no such source", b"a.txt")
    report = ingest(world.runtime.memory, world.settings, [stranger], world.runtime.parser, most_chunks=9)
    assert done(report) == {}
    assert world.ids() == {}


def test_a_full_batch_gives_the_rest_back(world: World) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        world.write(name, f"text of {name}")
    report = look_into(world, "a.txt", "b.txt", "c.txt", most_chunks=2)
    assert done(report) == {"added": 2, "chunks_embedded": 2, "rest": (Dirty("docs", b"c.txt"),)}
    assert set(world.remembered()) == {"a.txt", "b.txt"}


def test_a_sync_gets_through_more_than_one_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.runtime, "_embedded_per_second", 0.001)  # batches of eight chunks, the least
    for number in range(30):
        world.write(f"{number}.txt", f"text number {number}")
    seen = []
    world.runtime.on_progress = lambda progress: seen.append((progress.done, progress.total))
    assert world.sync()["added"] == 30
    assert len(world.remembered()) == 30
    assert seen[-1] == (30, 30)
    assert seen == sorted(seen)


def test_a_large_document_makes_way_and_loses_nothing(world: World) -> None:
    words = "\n\n".join(f"Paragraph {number} is not the same as any other one of them." for number in range(400))
    world.write("book.txt", words)
    paths = [Dirty("docs", b"book.txt")]
    head, seen = world.runtime.memory.head(), []
    world.runtime.pressed = lambda: len(seen) < 3  # three times; then it may go on to its end
    while (report := world.runtime.ingest(paths, 0.0)).rest:  # pieces of eight chunks, the least
        assert (report.added, report.rest) == (0, tuple(paths))
        assert world.runtime.memory.head() == head
        seen.append(report.chunks_embedded)
    assert seen == [8, 8, 8]
    assert report.added == 1
    (shown,) = world.runtime.memory.documents()
    assert sum(seen) + report.chunks_embedded == shown.chunks == world.embedded()


def test_without_a_cache_a_large_document_is_not_interrupted(world: World) -> None:
    world.reopen(embedding=world.settings.embedding.model_copy(update={"cache_mb": 0}))
    world.write("book.txt", "\n\n".join(f"Paragraph {number} has a number of its own." for number in range(400)))
    world.runtime.pressed = lambda: True
    assert world.runtime.ingest([Dirty("docs", b"book.txt")], 0.0).added == 1


def test_others_get_their_turn_during_a_sync(world: World) -> None:
    for number in range(300):
        world.write(f"{number}.txt", f"text number {number}")
    between = []

    def write(job: Callable[[], Any]) -> Any:
        between.append(world.runtime.memory.counts()[0])
        return job()

    world.runtime.write = write
    assert world.sync()["added"] == 300
    assert between[1:-1] == sorted(set(between[1:-1]))
    assert len(between) > 4


def test_a_file_replaced_while_it_is_read_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write("a.txt", "first half")
    world.write("b.txt", "beta")
    whole = daemon.reading._read

    def replaced(file: int, size: int) -> bytes:
        data = whole(file, size)
        if data == b"first half":
            path.with_suffix(".new").write_text("all of it")
            os.replace(path.with_suffix(".new"), path)
        return data

    monkeypatch.setattr(daemon.reading, "_read", replaced)
    report = look_into(world, "a.txt", "b.txt")
    assert done(report) == {"added": 1, "chunks_embedded": 1, "again": (Dirty("docs", b"a.txt"),)}
    assert done(look_into(world, "a.txt")) == {"added": 1, "chunks_embedded": 1}
    assert world.remembered() == {"a.txt": "all of it", "b.txt": "beta"}


def test_a_file_that_never_stands_still_does_not_stop_a_sync(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.write("log.txt", "line\n")
    world.write("b.txt", "beta")
    whole = daemon.reading._read

    def growing(file: int, size: int) -> bytes:
        data = whole(file, size)
        if data.startswith(b"line"):
            path.write_bytes(data + b"line\n")
        return data

    monkeypatch.setattr(daemon.reading, "_read", growing)
    assert world.sync()["added"] == 1
    assert world.remembered() == {"b.txt": "beta"}


def test_a_file_that_is_too_large_is_listed(world: World) -> None:
    world.reopen(ingest=world.settings.ingest.model_copy(update={"max_file_mb": 0.001}))
    world.write("big.txt", "x" * 2000)
    assert done(look_into(world, "big.txt")) == {"failed": 1}
    assert world.sync()["failed"] == 0, "looked at again before its time"


def test_a_rotated_log_is_two_documents_in_one_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is read, and away again when it is asked whether the one that moved still lies there."""
    world.write("log.txt", "old lines")
    look_into(world, "log.txt")
    (ids, old) = world.ids(), world.docs / "log.txt"
    old.rename(world.docs / "log.1.txt")
    world.write("other.txt", "in between")
    old.write_text("new lines")

    def rotate(root: int, relative: bytes, most: int) -> tuple[bytes, Stat]:
        found = read_file(root, relative, most)
        if relative == b"log.txt":
            old.unlink()
        return found

    monkeypatch.setattr("daemon.ingest.read_file", rotate)
    assert done(look_into(world, "log.1.txt", "other.txt", "log.txt")) == {
        "added": 2,
        "moved": 1,
        "chunks_embedded": 2,
    }
    assert world.remembered() == {"log.1.txt": "old lines", "other.txt": "in between", "log.txt": "new lines"}
    assert world.ids()["log.1.txt"] == ids["log.txt"]


def test_a_moved_file_and_a_copy_of_it_in_one_batch(world: World) -> None:
    world.write("a.txt", "alpha")
    look_into(world, "a.txt")
    ids = world.ids()
    (world.docs / "a.txt").rename(world.docs / "b.txt")
    world.write("c.txt", "alpha")
    assert done(look_into(world, "b.txt", "c.txt")) == {"added": 1, "moved": 1}
    assert world.remembered() == {"b.txt": "alpha", "c.txt": "alpha"}
    assert world.ids()["b.txt"] == ids["a.txt"] != world.ids()["c.txt"]


def test_a_twin_in_a_folder_that_cannot_be_entered_has_not_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("locked/a.txt", "alpha")
    look_into(world, "locked/a.txt")
    world.write("b.txt", "alpha")
    look = os.lstat

    def lstat(path: Any) -> os.stat_result:
        if b"/locked/" in os.fsencode(path):
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr("daemon.ingest.os.lstat", lstat)
    assert done(look_into(world, "b.txt")) == {"added": 1}
    assert set(world.remembered()) == {"locked/a.txt", "b.txt"}


def test_a_file_becomes_a_folder(world: World) -> None:
    world.write("notes", "as a file")
    world.sync()
    (world.docs / "notes").unlink()
    world.write("notes/a.txt", "in a folder")
    look_into(world, "notes", "notes/a.txt")  # as the watcher marks them
    world.sync()
    assert world.remembered() == {"notes/a.txt": "in a folder"}
    assert set(world.ids()) == {"notes/a.txt"}


def test_a_sweep_removes_and_says_how_many(world: World) -> None:
    for name in ("a.txt", "b.txt"):
        world.write(name, f"text of {name}")
    world.sync()
    (world.docs / "a.txt").unlink()
    source = world.settings.sources[0]
    found, report = sweep(world.runtime.memory, world.settings, source)
    assert [one.place.relative for one in found.missing] == [b"a.txt"]
    assert done(report) == {"removed": 1, "unchanged": 1}
    _, report = sweep(world.runtime.memory, world.settings, source)
    assert done(report) == {"unchanged": 1}


def test_reports_add_up() -> None:
    one, other = Report(added=1, missing=(Dirty("a", b"x"),)), Report(added=2, again=(Dirty("b", b"y"),))
    assert one + other == Report(added=3, missing=(Dirty("a", b"x"),), again=(Dirty("b", b"y"),))


def test_a_file_that_takes_long_to_parse_keeps_no_other_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("slow.txt", "slow at first")
    world.write("quick.txt", "quick")
    parse, asked = ParserProcess.parse, []

    def slow(self: ParserProcess, data: bytes, name: str, pressed: Callable[[], bool]) -> Parsed:
        asked.append(name)
        if name == "slow.txt" and pressed() and asked.count(name) < 3:
            raise StillParsing
        return parse(self, data, name)

    monkeypatch.setattr(ParserProcess, "parse", slow)
    world.runtime.pressed = lambda: True
    dirty = [Dirty("docs", b"slow.txt"), Dirty("docs", b"quick.txt")]
    report = world.runtime.ingest(dirty, 1.0)
    assert report.rest == (dirty[0],)
    assert world.remembered() == {"quick.txt": "quick"}
    assert counts(world.sync()) == {"added": 1, "unchanged": 1, "chunks_embedded": 1}
    assert world.remembered() == {"quick.txt": "quick", "slow.txt": "slow at first"}
