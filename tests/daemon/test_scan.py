"""What a scan finds, by stat alone."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.scan import MOST_TRIES, Differences, chooser, is_settled, labels, place, scan, walk
from daemon.settings import Source
from store.types import Known, Labels, Stat
from tests.daemon.conftest import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(path=tmp_path, domain="manuals", tags=("v2",), boost=1.5)


def write(source: Source, name: str, text: str = "text") -> Stat:
    path = source.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = path.stat()
    return Stat(found.st_size, found.st_mtime_ns, found.st_ino)


def known(source: Source, name: str, stat: Stat, **changed: Any) -> Known:
    """A document that is settled, but for what is `changed`."""
    values = {
        "document_id": f"id of {name}",
        "place": place(source, name.encode()),
        "stat": stat,
        "content": "hash",
        "live": "hash",
        "labels": labels(source, b""),
        "error": None,
        "tries": 0,
        "next_try_at": None,
        "held": False,
        "held_content": None,
        "skipped": False,
        "own": Labels(),
    }
    return Known(**(values | changed))


def differences(source: Source, *documents: Known, share: float = 0.5) -> Differences:
    return scan(source, list(documents), now=NOW, max_delete_share=share)


def missing(found: Differences) -> set[bytes]:
    return {one.place.relative for one in found.missing}


def test_labels_and_places_come_from_the_source(source: Source) -> None:
    assert labels(source, b"any") == Labels("manuals", ("v2",), 1.5)
    assert place(source, b"caf\xe9/x").path == f"{source.path}/caf\\xe9/x"


def test_new_edited_and_unchanged_files_are_told_apart(source: Source) -> None:
    same, edited = write(source, "same"), write(source, "edited")
    write(source, "sub/new")
    found = differences(
        source, known(source, "same", same), known(source, "edited", Stat(edited.size, edited.mtime_ns - 1, 1))
    )
    assert sorted(found.dirty) == [b"edited", b"sub/new"]
    assert (found.unchanged, found.missing, found.alarm) == (1, (), None)


@pytest.mark.parametrize(
    ("changed", "settled"),
    [
        ({}, True),
        ({"labels": Labels("another")}, False),
        ({"live": "other"}, False),
        ({"live": None, "labels": None}, False),
        ({"content": None}, False),
        ({"content": "bad", "held": True, "held_content": "bad"}, True),
        ({"content": "bad", "held": True, "held_content": "worse"}, False),
        ({"content": "bad", "held": True}, False),
        ({"error": "broken", "next_try_at": NOW + timedelta(seconds=1), "tries": 1}, True),
        ({"error": "broken", "next_try_at": NOW, "tries": 1}, False),
        ({"error": "broken", "next_try_at": NOW + timedelta(days=300), "tries": 1}, False),  # the clock was set back
        ({"error": "broken", "next_try_at": NOW, "tries": MOST_TRIES}, True),
        ({"error": "broken", "next_try_at": None, "tries": MOST_TRIES}, False),
        ({"error": "a key", "skipped": True}, True),
    ],
)
def test_what_needs_no_look(source: Source, changed: dict[str, Any], settled: bool) -> None:
    stat = Stat(1, 2, 3)
    assert is_settled(known(source, "x", stat, **changed), stat, labels(source, b""), NOW) is settled
    assert not is_settled(known(source, "x", stat, **changed), Stat(1, 9, 3), labels(source, b""), NOW)


def test_a_file_that_may_have_moved_is_not_missing(source: Source) -> None:
    moved = write(source, "new place", "some text")
    write(source, "stays")
    gone = Stat(4711, 1, 1)
    found = differences(source, known(source, "old place", moved), known(source, "gone", gone), share=1.0)
    assert missing(found) == {b"gone"}
    assert found.moving == (b"old place",)


def test_a_failed_file_that_waits_keeps_no_document_of_its_size_alive(source: Source) -> None:
    bad = write(source, "bad")
    failed = known(
        source, "bad", bad, content=None, live=None, error="broken", tries=1, next_try_at=NOW + timedelta(hours=1)
    )
    found = differences(source, failed, known(source, "gone", Stat(bad.size, 1, 1)), share=1.0)
    assert (missing(found), found.moving) == ({b"gone"}, ())


def test_which_documents_count_as_gone(source: Source) -> None:
    write(source, "x")
    stat = Stat(99, 1, 1)
    found = differences(
        source,
        known(source, "live", stat),
        known(source, "failed", stat, content=None, live=None, error="unreadable"),
        known(source, "released", stat, content=None),
        known(source, "put back by a rollback", stat, content=None, held=True),
        known(source, "long gone", stat, content=None, live=None),
        share=1.0,
    )
    assert missing(found) == {b"live", b"failed", b"released"}


def test_of_two_documents_at_one_place_the_one_with_a_file_counts(source: Source) -> None:
    stat = write(source, "x")
    here, before = known(source, "x", stat), known(source, "x", Stat(0, 0, 0), content=None, live=None)
    assert differences(source, here, before).unchanged == 1
    assert differences(source, before, here).unchanged == 1


@pytest.mark.parametrize(("gone", "alarm"), [(1, False), (2, False), (3, True)])
def test_more_than_the_allowed_share_is_an_alarm(source: Source, gone: int, alarm: bool) -> None:
    documents = [known(source, f"gone{number}", Stat(99, 1, number)) for number in range(gone)]
    documents += [known(source, f"here{number}", write(source, f"here{number}")) for number in range(4 - gone)]
    found = differences(source, *documents, share=0.5)
    assert len(found.missing) == gone
    assert (found.alarm is not None) is alarm


def test_an_empty_or_missing_folder_is_an_alarm_whatever_the_share(source: Source, tmp_path: Path) -> None:
    document = known(source, "x", Stat(1, 1, 1))
    assert "is empty" in str(differences(source, document, share=1.0).alarm)
    away = source.model_copy(update={"path": tmp_path / "away"})
    found = differences(away, document, share=1.0)
    assert "cannot be listed (No such file" in str(found.alarm)
    assert differences(source).alarm is None


def test_what_lies_in_a_folder_that_cannot_be_listed_is_not_missing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "locked/x")
    write(source, "open/y")
    listed = os.scandir

    def scandir(path: bytes) -> Any:
        if path.endswith(b"/locked"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr("daemon.scan.os.scandir", scandir)
    stat = Stat(99, 1, 1)
    documents = [known(source, name, stat) for name in ("locked/x", "locked/deep/z", "lockedout", "open/gone")]
    found = differences(source, *documents, share=1.0)
    assert missing(found) == {b"lockedout", b"open/gone"}
    assert found.dirty == (b"open/y",)


class Entry:
    """A directory entry whose file cannot be looked at: its folder can be listed but not entered."""

    name = b"x"

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        raise PermissionError(13, "Permission denied")


def test_a_file_that_cannot_be_looked_at_is_not_missing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, "sub/x")
    listed = os.scandir
    monkeypatch.setattr("daemon.scan.os.scandir", lambda path: [Entry()] if path.endswith(b"/sub") else listed(path))
    found = differences(source, known(source, "sub/x", Stat(99, 1, 1)), share=1.0)
    assert (found.dirty, found.missing) == ((), ())


def test_folders_are_walked_without_following_links(source: Source) -> None:
    write(source, "a/b/c")
    (source.path / "link").symlink_to(source.path / "a")
    assert sorted(name for name, _ in walk(os.fsencode(source.path), chooser(source), [])) == [b"a/b/c", b"link"]


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (("**/*",), (), {"a.md", "b.txt", "sub/c.md", "sub/deep/d.txt"}),
        (("*.md",), (), {"a.md", "sub/c.md"}),
        (("sub/**",), ("*.txt",), {"sub/c.md"}),
        (("**/*",), ("sub/deep/",), {"a.md", "b.txt", "sub/c.md"}),
        (("**/*",), ("/*.md",), {"b.txt", "sub/c.md", "sub/deep/d.txt"}),
    ],
)
def test_patterns_choose_files(
    source: Source, include: tuple[str, ...], exclude: tuple[str, ...], wanted: set[str]
) -> None:
    for name in ("a.md", "b.txt", "sub/c.md", "sub/deep/d.txt", ".git/config", "node_modules/x.md", "draft.md~"):
        write(source, name)
    found = differences(source.model_copy(update={"include": include, "exclude": exclude}))
    assert {name.decode() for name in found.dirty} == wanted


def test_files_written_just_now_are_young(source: Source) -> None:
    write(source, "young")
    old = source.path / "old"
    old.write_text("text")
    os.utime(old, (1, 1))
    found = scan(source, [], now=NOW, max_delete_share=0.5, quiet_seconds=60)
    assert (found.young, found.dirty) == ((b"young",), (b"old",))


def test_what_the_patterns_leave_out_is_neither_missing_nor_an_alarm(source: Source) -> None:
    stat = write(source, "a.md")
    documents = [known(source, "a.md", stat)]
    documents += [known(source, f"drafts/{number}", write(source, f"drafts/{number}")) for number in range(9)]
    (source.path / ".memexignore").write_text("drafts/\n")
    found = differences(source, *documents)
    assert {one.place.relative for one in found.unwanted} == {b"drafts/%d" % number for number in range(9)}
    assert (found.missing, found.alarm, found.unchanged, found.dirty) == ((), None, 1, ())


def test_a_scan_after_a_sync_finds_nothing(world: World) -> None:
    for number in range(5):
        world.write(f"{number}/file.md", f"# Title\n\ntext {number}")
    world.sync()
    found = world.runtime.differences(world.settings.sources[0])
    assert found == Differences((), (), (), (), (), 5, None)
