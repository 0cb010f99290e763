"""The way from a folder to the memory and back, by the operations that people use."""

from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon import operations
from daemon.settings import Limits, Retrieval, Source
from store.errors import MissingModel, NotFound, UsageError
from store.warm import Warm
from tests.daemon.conftest import World, counts


@pytest.fixture
def three(world: World) -> World:
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        world.write(name, f"text of {name}")
    assert counts(world.sync()) == {"added": 3, "chunks_embedded": 3}
    return world


def test_adds_edits_and_deletes_reach_the_memory(three: World) -> None:
    three.write("a.txt", "another text")
    three.write("d.txt", "a new file")
    (three.docs / "b.txt").unlink()
    assert counts(three.sync()) == {"added": 1, "changed": 1, "removed": 1, "unchanged": 1, "chunks_embedded": 2}
    assert three.remembered() == {
        "a.txt": "another text",
        "d.txt": "a new file",
        "sub/c.txt": "text of sub/c.txt",
    }


def test_an_unchanged_folder_is_recognised_without_opening_a_file(
    three: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("daemon.ingest.read_file", refuse)
    version = three.runtime.memory.head().version
    assert counts(three.sync()) == {"unchanged": 3}
    assert three.runtime.memory.head().version == version


def test_a_restart_repeats_nothing(three: World) -> None:
    three.reopen()
    assert counts(three.sync()) == {"unchanged": 3}
    assert three.embedded() == 0


def test_a_touch_makes_no_version_and_embeds_nothing(three: World) -> None:
    version, before = three.runtime.memory.head().version, three.embedded()
    os.utime(three.docs / "a.txt")
    assert counts(three.sync()) == {"unchanged": 3}
    assert (three.runtime.memory.head().version, three.embedded()) == (version, before)


def test_a_renamed_file_keeps_its_id_and_embeds_nothing(three: World) -> None:
    ids, before = three.ids(), three.embedded()
    (three.docs / "a.txt").rename(three.docs / "sub" / "z.txt")
    assert counts(three.sync()) == {"moved": 1, "unchanged": 2}
    assert three.ids() == {"sub/z.txt": ids["a.txt"], "b.txt": ids["b.txt"], "sub/c.txt": ids["sub/c.txt"]}
    assert three.remembered()["sub/z.txt"] == "text of a.txt"
    assert three.embedded() == before


def test_a_renamed_folder_keeps_all_ids_and_embeds_nothing(world: World) -> None:
    world.allow_deletes(0.1)
    for number in range(20):
        world.write(f"old/{number}.txt", f"text number {number}")
    world.sync()
    ids, before = world.ids(), world.embedded()
    (world.docs / "old").rename(world.docs / "new")
    report = world.sync()
    assert (counts(report), report["alarms"]) == ({"moved": 20}, {})
    assert world.ids() == {path.replace("old", "new"): one for path, one in ids.items()}
    assert world.embedded() == before
    assert len(world.remembered()) == 20


def test_a_file_copied_and_then_deleted_has_moved(three: World) -> None:
    """As `mv` from disk to disk does: another inode, another time."""
    three.allow_deletes(0.1)
    ids = three.ids()
    shutil.copyfile(three.docs / "a.txt", three.docs / "z.txt")
    os.utime(three.docs / "z.txt", (1, 1))
    (three.docs / "a.txt").unlink()
    report = three.sync()
    assert (counts(report), report["alarms"]) == ({"moved": 1, "unchanged": 2}, {})
    assert three.ids()["z.txt"] == ids["a.txt"]
    assert three.embedded() == 0


def test_a_copy_embeds_nothing_and_has_an_id_of_its_own(three: World) -> None:
    before = three.embedded()
    shutil.copytree(three.docs / "sub", three.docs / "sub2")
    assert counts(three.sync()) == {"added": 1, "unchanged": 3}
    assert three.embedded() == before
    assert len(set(three.ids().values())) == 4
    assert three.remembered()["sub2/c.txt"] == "text of sub/c.txt"


def test_two_files_that_swap_their_names(three: World) -> None:
    before = three.embedded()
    (three.docs / "a.txt").rename(three.docs / "t")
    (three.docs / "b.txt").rename(three.docs / "a.txt")
    (three.docs / "t").rename(three.docs / "b.txt")
    three.sync()
    assert three.remembered()["a.txt"] == "text of b.txt"
    assert three.remembered()["b.txt"] == "text of a.txt"
    assert three.embedded() == before


def test_a_file_renamed_over_another_replaces_it(three: World) -> None:
    before = three.embedded()
    os.replace(three.docs / "a.txt", three.docs / "b.txt")
    three.sync()
    assert three.remembered() == {"b.txt": "text of a.txt", "sub/c.txt": "text of sub/c.txt"}
    assert three.embedded() == before


def test_a_rename_that_changes_how_a_file_is_parsed_leaves_one_document(three: World) -> None:
    (three.docs / "a.txt").rename(three.docs / "a.md")
    three.sync()
    assert set(three.remembered()) == {"a.md", "b.txt", "sub/c.txt"}


def test_files_put_back_to_earlier_content_embed_nothing(three: World) -> None:
    three.write("a.txt", "for a while")
    three.sync()
    before = three.embedded()
    three.write("a.txt", "text of a.txt")
    assert counts(three.sync()) == {"changed": 1, "unchanged": 2}
    assert three.embedded() == before


def test_a_deleted_file_that_comes_back_keeps_its_id(three: World) -> None:
    ids = three.ids()
    (three.docs / "a.txt").unlink()
    three.sync()
    assert "a.txt" not in three.ids()
    three.write("a.txt", "text of a.txt")
    assert counts(three.sync()) == {"added": 1, "unchanged": 2}
    assert three.ids() == ids


def test_an_empty_file_is_remembered_without_chunks(world: World) -> None:
    world.write("empty.txt", "")
    assert counts(world.sync()) == {"added": 1}
    assert counts(world.sync()) == {"unchanged": 1}
    (world.docs / "empty.txt").write_text("no longer")
    world.sync()
    assert world.remembered() == {"empty.txt": "no longer"}


def test_labels_changed_in_the_settings_relabel_without_embedding(three: World) -> None:
    three.reopen(sources=(Source(path=three.docs, domain="manuals", tags=("v2",), boost=2.0),))
    assert counts(three.sync()) == {"changed": 3}
    assert three.embedded() == 0
    found = operations.search(three.runtime, "text of a.txt", domain="manuals", tag="v2")["results"]
    assert len(found) == 3
    assert {(one["domain"], *one["tags"]) for one in found} == {("manuals", "v2")}
    assert counts(three.sync()) == {"unchanged": 3}


def test_a_pattern_that_excludes_files_removes_their_documents(three: World) -> None:
    three.reopen(sources=(Source(path=three.docs, exclude=("sub/",)),))
    assert counts(three.sync()) == {"removed": 1, "unchanged": 2}
    assert set(three.remembered()) == {"a.txt", "b.txt"}


# --- deletions that look like accidents ------------------------------------------------------------------------


def test_a_missing_source_removes_nothing(three: World, tmp_path: Path) -> None:
    three.docs.rename(tmp_path / "unmounted")
    report = three.sync()
    assert counts(report) == {}
    assert "cannot be listed" in report["alarms"]["docs"]
    assert len(three.remembered()) == 3
    (tmp_path / "unmounted").rename(three.docs)
    report = three.sync()
    assert (counts(report), report["alarms"]) == ({"unchanged": 3}, {})


def test_an_empty_source_removes_nothing_until_confirmed(three: World) -> None:
    shutil.rmtree(three.docs)
    three.docs.mkdir()
    report = three.sync()
    assert "is empty" in report["alarms"]["docs"]
    assert len(three.remembered()) == 3
    report = three.sync(confirm_deletes=True)
    assert (counts(report), report["alarms"]) == ({"removed": 3}, {})
    assert three.remembered() == {}


def test_more_deletions_than_allowed_are_held_until_confirmed(three: World) -> None:
    three.allow_deletes(0.5)
    (three.docs / "a.txt").unlink()
    (three.docs / "b.txt").unlink()
    report = three.sync()
    assert "2 of 3 documents are gone" in report["alarms"]["docs"]
    assert len(three.remembered()) == 3
    report = three.sync(confirm_deletes=True)
    assert (counts(report), report["alarms"]) == ({"removed": 2, "unchanged": 1}, {})
    assert set(three.remembered()) == {"sub/c.txt"}


def test_edits_are_taken_in_while_deletions_are_held(three: World) -> None:
    three.allow_deletes(0.5)
    (three.docs / "a.txt").unlink()
    (three.docs / "b.txt").unlink()
    three.write("sub/c.txt", "edited all the same")
    three.sync()
    assert three.remembered() == {
        "a.txt": "text of a.txt",
        "b.txt": "text of b.txt",
        "sub/c.txt": "edited all the same",
    }


def test_one_source_away_does_not_affect_another(three: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.txt").write_text("in the other one")
    three.reopen(sources=(Source(path=three.docs), Source(path=other)))
    three.sync()
    three.docs.rename(tmp_path / "unmounted")
    (other / "o.txt").write_text("edited in the other one")
    report = three.sync()
    assert (counts(report), list(report["alarms"])) == ({"changed": 1, "chunks_embedded": 1}, ["docs"])
    assert len(three.remembered()) == 4


def test_a_source_taken_out_of_the_settings_stays_until_confirmed(three: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.txt").write_text("in the other one")
    three.reopen(sources=(Source(path=three.docs), Source(path=other)))
    three.sync()
    three.reopen(sources=(Source(path=three.docs),))
    report = three.sync()
    assert (counts(report), list(report["alarms"])) == ({"unchanged": 3}, ["other"])
    assert "no longer in the settings; its 1 documents stay" in report["alarms"]["other"]
    assert len(three.remembered()) == 4
    report = three.sync(confirm_deletes=True)
    assert (counts(report), report["alarms"]) == ({"removed": 1, "unchanged": 3}, {})
    assert len(three.remembered()) == 3


def test_a_source_given_another_name_keeps_its_documents(three: World) -> None:
    ids, embedded = three.ids(), three.embedded()
    three.reopen(sources=(Source(path=three.docs, name="renamed"),))
    report = three.sync()
    assert (counts(report), report["alarms"]) == ({"moved": 3}, {})
    assert (three.ids(), three.runtime.embedder.embedded) == (ids, 0)
    assert embedded == 3
    assert {one.source for one in three.runtime.memory.documents()} == {"renamed"}


def test_a_dry_run_says_what_differs_and_changes_nothing(three: World) -> None:
    three.write("new.txt", "of another length")
    (three.docs / "b.txt").unlink()
    before = three.runtime.memory.head()
    plan = three.sync(dry_run=True)
    assert plan["dirty"] == [str(three.docs / "new.txt")]
    assert plan["missing"] == [str(three.docs / "b.txt")]
    assert plan["unchanged"] == 2
    assert three.runtime.memory.head() == before


def test_paths_narrow_what_is_ingested(three: World) -> None:
    three.write("a.txt", "edited")
    three.write("sub/d.txt", "a new file")
    assert counts(three.sync(paths=[str(three.docs / "sub")]))["added"] == 1
    assert three.remembered()["a.txt"] == "text of a.txt"
    with pytest.raises(UsageError, match="in no source"):
        three.sync(paths=["/nowhere"])


# --- files that fail -------------------------------------------------------------------------------------------


def failures(world: World) -> dict[str, dict[str, Any]]:
    listed = operations.documents(world.runtime, failed=True)["documents"]
    return {os.path.relpath(one["path"], world.docs): one for one in listed}


def test_a_bad_file_costs_only_itself(three: World) -> None:
    three.write("broken.pdf", b"%PDF-1.7 and nothing more")
    three.write("fine.txt", "read all the same")
    assert counts(three.sync()) == {"added": 1, "unchanged": 3, "failed": 1, "chunks_embedded": 1}
    (failed,) = failures(three).values()
    assert failed["error"]
    assert (failed["state"], failed["tries"]) == ("failed", 1)
    assert failed["first_failed_at"] == failed["last_failed_at"] < failed["next_try_at"]
    assert "fine.txt" in three.remembered()


def test_a_failed_file_is_tried_again_after_growing_pauses(world: World) -> None:
    world.write("broken.pdf", b"%PDF-1.7 and nothing more")
    for tries, pause in enumerate((0, 70, 140, 280), start=1):
        world.pass_time(timedelta(seconds=pause))
        assert world.sync()["failed"] == 1
        assert world.sync()["failed"] == 0, "tried again before its time"
        assert failures(world)["broken.pdf"]["tries"] == tries


@pytest.mark.parametrize("below", [None, "", "sub", "sub/broken.pdf"])
def test_a_failed_file_is_tried_again_when_asked_for(world: World, below: str | None) -> None:
    world.write("sub/broken.pdf", b"%PDF-1.7 and nothing more")
    world.sync()
    assert world.sync(retry=True, paths=None if below is None else [str(world.docs / below)])["failed"] == 1
    assert world.sync()["failed"] == 0


def test_a_failed_file_is_tried_again_when_it_is_edited(world: World) -> None:
    world.write("broken.txt", b"\0\1\2\3" * 50)
    assert world.sync()["failed"] == 1
    world.write("broken.txt", "healed")
    assert counts(world.sync()) == {"added": 1, "chunks_embedded": 1}
    assert failures(world) == {}


def test_a_file_that_cannot_be_opened_waits_for_its_time(world: World) -> None:
    os.mkfifo(world.docs / "pipe")
    assert world.sync()["failed"] == 1
    assert failures(world)["pipe"]["error"] == "a FIFO, not a regular file"
    assert world.sync()["failed"] == 0
    world.pass_time(timedelta(seconds=70))
    assert world.sync()["failed"] == 1


def test_a_link_is_listed_and_not_followed(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("outside")
    (world.docs / "link.txt").symlink_to(tmp_path / "secret.txt")
    (world.docs / "loop").symlink_to(world.docs)
    assert counts(world.sync()) == {"failed": 2}
    assert "symbolic link" in failures(world)["link.txt"]["error"]
    assert world.remembered() == {}


def test_a_failed_file_that_is_deleted_is_no_longer_listed(world: World) -> None:
    world.write("other.txt", "stays")
    os.mkfifo(world.docs / "pipe")
    world.write("broken.pdf", b"%PDF-1.7 and nothing more")
    assert world.sync()["failed"] == 2
    (world.docs / "pipe").unlink()
    (world.docs / "broken.pdf").unlink()
    world.sync()
    assert failures(world) == {}


def test_a_document_that_turned_unreadable_and_then_went_is_removed(three: World) -> None:
    (three.docs / "a.txt").unlink()
    os.mkfifo(three.docs / "a.txt")
    assert three.sync()["failed"] == 1
    assert three.remembered()["a.txt"] == "text of a.txt"  # the old revision serves until there is a new one
    (three.docs / "a.txt").unlink()
    assert three.sync()["removed"] == 1
    assert set(three.remembered()) == {"b.txt", "sub/c.txt"}


def test_a_time_beyond_every_calendar_is_no_reason_to_fail(world: World) -> None:
    path = world.write("future.txt", "from the year 2300")
    world.write("other.txt", "from today")
    os.utime(path, ns=(0, 2**63 + 10**9))
    assert counts(world.sync()) == {"added": 2, "chunks_embedded": 2}
    assert counts(world.sync()) == {"unchanged": 2}


def test_names_that_are_not_utf8_or_hold_newlines(world: World) -> None:
    for name in (b"caf\xe9.txt", b"two\nlines.txt"):
        with open(os.path.join(os.fsencode(world.docs), name), "w") as file:
            file.write("text")
    assert world.sync()["added"] == 2
    assert counts(world.sync()) == {"unchanged": 2}
    assert set(world.remembered()) == {r"caf\xe9.txt", "two\nlines.txt"}


# --- rollback and what it holds --------------------------------------------------------------------------------


@pytest.fixture
def poisoned(three: World) -> World:
    """A rollback has taken an edit and a new file out; both still lie in the folder."""
    operations.snapshot_create(three.runtime, "good")
    three.write("a.txt", "poisoned a")
    three.write("p.txt", "poison itself")
    three.sync()
    three.good = {  # type: ignore[attr-defined]
        "a.txt": "text of a.txt",
        "b.txt": "text of b.txt",
        "sub/c.txt": "text of sub/c.txt",
    }
    assert operations.rollback(three.runtime, "good")["held"] == 2
    return three


def good(world: World) -> bool:
    assert world.remembered() == world.good  # type: ignore[attr-defined]
    return True


def test_what_a_rollback_took_out_survives_rescans_and_restarts(poisoned: World) -> None:
    before = poisoned.embedded()
    assert counts(poisoned.sync()) == {"unchanged": 4}
    assert good(poisoned)
    assert poisoned.embedded() == before
    poisoned.reopen()
    assert counts(poisoned.sync()) == {"unchanged": 4}
    assert good(poisoned)
    assert set(poisoned.held()) == {"a.txt", "p.txt"}


def test_a_touch_does_not_bring_it_back(poisoned: World) -> None:
    os.utime(poisoned.docs / "a.txt")
    os.utime(poisoned.docs / "p.txt")
    poisoned.sync()
    assert good(poisoned)


def test_a_rename_does_not_bring_it_back(poisoned: World) -> None:
    (poisoned.docs / "p.txt").rename(poisoned.docs / "q.txt")
    (poisoned.docs / "sub2").mkdir()
    poisoned.sync()
    assert good(poisoned)
    assert set(poisoned.held()) == {"a.txt", "q.txt"}
    (poisoned.docs / "q.txt").rename(poisoned.docs / "sub2" / "r.md")
    poisoned.sync()
    assert good(poisoned)
    assert counts(poisoned.sync()) == {"unchanged": 4}


def test_a_copy_does_not_bring_it_back(poisoned: World) -> None:
    shutil.copyfile(poisoned.docs / "p.txt", poisoned.docs / "copy.txt")
    poisoned.sync()
    assert good(poisoned)
    listed = operations.documents(poisoned.runtime, held=True)["documents"]
    reasons = {os.path.relpath(one["path"], poisoned.docs): one["held"] for one in listed}
    assert "which a rollback took out" in reasons["copy.txt"]
    assert counts(poisoned.sync()) == {"unchanged": 5}


def test_deleting_it_and_putting_it_back_does_not_bring_it_back(poisoned: World) -> None:
    """As the checkout of another branch and back does."""
    (poisoned.docs / "p.txt").unlink()
    poisoned.sync()
    assert good(poisoned)
    poisoned.write("p.txt", "poison itself")
    poisoned.sync()
    assert good(poisoned)
    (poisoned.docs / "p.txt").unlink()
    poisoned.sync()
    poisoned.write("elsewhere.txt", "poison itself")
    poisoned.sync()
    assert good(poisoned)


def test_renaming_it_over_another_file_does_not_bring_it_back(poisoned: World) -> None:
    os.replace(poisoned.docs / "p.txt", poisoned.docs / "b.txt")
    poisoned.sync()
    poisoned.sync()
    assert good(poisoned)
    assert counts(poisoned.sync()) == {"unchanged": 3}
    assert set(poisoned.held()) >= {"a.txt", "b.txt"}


def test_an_edit_ends_the_hold(poisoned: World) -> None:
    poisoned.write("p.txt", "cured")
    poisoned.write("a.txt", "text of a.txt")  # put back to what memory has
    poisoned.sync()
    assert poisoned.remembered() == {**poisoned.good, "p.txt": "cured"}  # type: ignore[attr-defined]
    assert poisoned.held() == {}


def test_a_release_lets_it_back_in_and_embeds_nothing(poisoned: World) -> None:
    before = poisoned.embedded()
    done = operations.release(poisoned.runtime, [str(poisoned.docs / "p.txt")])
    assert done["released"] == [str(poisoned.docs / "p.txt")]
    assert poisoned.remembered()["p.txt"] == "poison itself"
    assert poisoned.remembered()["a.txt"] == "text of a.txt"
    operations.release(poisoned.runtime, everything=True)
    assert poisoned.remembered()["a.txt"] == "poisoned a"
    assert poisoned.embedded() == before
    with pytest.raises(NotFound, match="nothing held"):
        operations.release(poisoned.runtime, ["a.txt"])
    with pytest.raises(UsageError, match="--all"):
        operations.release(poisoned.runtime)


def test_a_rollback_can_be_rolled_back(poisoned: World) -> None:
    names = [one["name"] for one in operations.snapshot_list(poisoned.runtime)]
    operations.rollback(poisoned.runtime, next(name for name in names if name != "good"))
    assert poisoned.remembered()["a.txt"] == "poisoned a"
    assert poisoned.held() == {}
    assert counts(poisoned.sync()) == {"unchanged": 4}


def test_a_hold_ends_when_memory_has_the_content_again(poisoned: World) -> None:
    (poisoned.docs / "p.txt").unlink()
    poisoned.sync()
    names = [one["name"] for one in operations.snapshot_list(poisoned.runtime)]
    operations.rollback(poisoned.runtime, next(name for name in names if name != "good"))
    assert poisoned.held() == {"p.txt": None}
    poisoned.write("p.txt", "poison itself")
    poisoned.sync()
    assert poisoned.held() == {}
    assert poisoned.remembered()["p.txt"] == "poison itself"


def test_it_does_not_come_back_after_it_could_not_be_read(three: World) -> None:
    operations.snapshot_create(three.runtime, "good")
    three.write("a.txt", "poisoned a")
    three.sync()
    (three.docs / "a.txt").rename(three.docs.parent / "aside")
    os.mkfifo(three.docs / "a.txt")
    three.sync()
    operations.rollback(three.runtime, "good")
    (three.docs / "a.txt").unlink()
    (three.docs.parent / "aside").rename(three.docs / "a.txt")
    three.sync(retry=True)
    assert three.remembered()["a.txt"] == "text of a.txt"


@pytest.fixture
def restored(three: World) -> World:
    """A rollback has put back two documents whose files were deleted."""
    operations.snapshot_create(three.runtime, "good")
    (three.docs / "a.txt").unlink()
    (three.docs / "b.txt").unlink()
    three.sync()
    operations.rollback(three.runtime, "good")
    return three


def test_what_a_rollback_put_back_stays_without_its_file(restored: World) -> None:
    for _ in range(2):
        assert counts(restored.sync(confirm_deletes=True)) == {"unchanged": 1}
        assert set(restored.remembered()) == {"a.txt", "b.txt", "sub/c.txt"}
        assert restored.held() == {"a.txt": None, "b.txt": None}
        restored.reopen()


def test_a_release_lets_it_go(restored: World) -> None:
    operations.release(restored.runtime, ["a.txt"])
    assert set(restored.remembered()) == {"b.txt", "sub/c.txt"}


def test_once_its_file_is_back_it_is_like_any_other(restored: World) -> None:
    ids, before = restored.ids(), restored.embedded()
    restored.write("a.txt", "text of a.txt")
    restored.sync()
    assert restored.held() == {"b.txt": None}
    assert (restored.ids(), restored.embedded()) == (ids, before)
    (restored.docs / "a.txt").unlink()
    assert counts(restored.sync()) == {"removed": 1, "unchanged": 1}
    assert set(restored.remembered()) == {"b.txt", "sub/c.txt"}


def test_a_second_rollback_without_its_file_stays_too(three: World) -> None:
    """The content that the first one took out is what the second one puts back, and the file is gone by then."""
    operations.snapshot_create(three.runtime, "first")
    three.write("a.txt", "the second text")
    three.sync()
    operations.snapshot_create(three.runtime, "second")
    operations.rollback(three.runtime, "first")
    (three.docs / "a.txt").unlink()
    three.sync()
    for snapshot, content in (("first", "text of a.txt"), ("second", "the second text")):
        operations.rollback(three.runtime, snapshot)
        assert three.remembered()["a.txt"] == content
        three.sync(confirm_deletes=True)
        assert three.remembered()["a.txt"] == content, "what a rollback put back stays"
        assert "a.txt" in three.held()


def test_another_file_moved_to_its_place_replaces_it(restored: World) -> None:
    (restored.docs / "sub" / "c.txt").rename(restored.docs / "a.txt")
    restored.sync()
    assert restored.remembered() == {"a.txt": "text of sub/c.txt", "b.txt": "text of b.txt"}


def test_a_rename_rolled_back_is_a_path_and_no_work(three: World) -> None:
    operations.snapshot_create(three.runtime, "good")
    (three.docs / "a.txt").rename(three.docs / "new.txt")
    three.sync()
    before = three.embedded()
    assert operations.rollback(three.runtime, "good")["held"] == 0
    assert set(three.remembered()) == {"a.txt", "b.txt", "sub/c.txt"}
    version = three.runtime.memory.head().version
    assert counts(three.sync()) == {"unchanged": 3}
    assert (three.runtime.memory.head().version, three.embedded()) == (version, before)
    three.write("new.txt", "edited at the new place")
    three.sync()
    assert three.remembered()["new.txt"] == "edited at the new place"
    assert "a.txt" not in three.remembered()


def test_the_past_stays_what_it_was(poisoned: World) -> None:
    found = operations.search(poisoned.runtime, "text of b.txt", at="good")
    assert found["snapshot"] == "good"
    poisoned.write("b.txt", "edited")
    poisoned.sync()
    again = operations.search(poisoned.runtime, "text of b.txt", at="good")
    assert again["results"] == found["results"]
    assert operations.rollback_plan(poisoned.runtime, "good")["changed"] == [str(poisoned.docs / "b.txt")]


# --- errors that the process outlives --------------------------------------------------------------------------


def test_a_commit_that_fails_halfway_does_not_wedge_the_next(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    three.write("a.txt", "edited")
    three.write("d.txt", "a new file")
    with monkeypatch.context() as patch:
        patch.setattr("store.memory.sync_filesystem", full)
        with pytest.raises(OSError, match="no space"):
            three.sync()
    assert three.remembered()["a.txt"] == "text of a.txt"
    assert counts(three.sync()) == {"added": 1, "changed": 1, "unchanged": 2}
    assert three.remembered()["a.txt"] == "edited"


def test_a_rollback_that_fails_does_not_happen_later(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    operations.snapshot_create(three.runtime, "good")
    three.write("a.txt", "edited")
    three.sync()
    with monkeypatch.context() as patch:
        patch.setattr("store.snapshots.sync_filesystem", full)
        with pytest.raises(OSError, match="no space"):
            operations.rollback(three.runtime, "good")
    three.write("b.txt", "edited too")
    three.sync()
    three.reopen()
    assert three.remembered()["a.txt"] == "edited"
    operations.rollback(three.runtime, "good")
    assert three.remembered()["b.txt"] == "text of b.txt"


# --- reading ---------------------------------------------------------------------------------------------------


def test_searches_are_recorded_and_can_be_judged(three: World) -> None:
    found = operations.search(three.runtime, "text of b.txt", k=1)
    assert [one["path"] for one in found["results"]] == [str(three.docs / "b.txt")]
    operations.feedback(three.runtime, found["retrieval_id"], "good", "b")
    kept = three.runtime.memory.journal.retrieval(found["retrieval_id"])
    assert (kept.query, kept.mode, kept.feedback, kept.correction) == ("text of b.txt", "search", "good", "b")
    with pytest.raises(UsageError, match="'good' or 'bad'"):
        operations.feedback(three.runtime, found["retrieval_id"], "perhaps")
    with pytest.raises(NotFound):
        operations.feedback(three.runtime, "nothing", "good")


def test_what_cannot_be_asked_is_refused(three: World) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        operations.search(three.runtime, "text", k=0)
    with pytest.raises(UsageError, match="empty"):
        operations.search(three.runtime, " ")
    with pytest.raises(NotFound, match="there are: docs"):
        operations.search(three.runtime, "text", source="nope")


def test_show_tells_a_document_and_its_history(three: World) -> None:
    three.write("a.txt", "edited")
    three.sync()
    shown = operations.show(three.runtime, "a.txt", history=True)
    assert [one["text"] for one in shown["passages"]] == ["edited"]
    assert [(one["chunks"], one["until"] is None) for one in shown["history"]] == [(1, False), (1, True)]
    (three.docs / "a.txt").unlink()
    three.sync()
    assert operations.show(three.runtime, str(three.docs / "a.txt"))["state"] == "gone"


def test_models_that_nobody_uses_are_put_down_and_come_back(world: World) -> None:
    world.write("bread.txt", "Bread bakes for 40 minutes.")
    world.sync()
    loads: list[int] = []
    world.runtime._model = Warm(lambda: loads.append(1) or object())  # type: ignore[arg-type,return-value]
    world.runtime._model.get()
    world.runtime.rest()
    world.runtime._model.get()
    assert len(loads) == 1, "by default they stay"
    world.reopen(limits=Limits(idle_minutes=1e-6))
    world.runtime._model = Warm(lambda: loads.append(1) or object())  # type: ignore[arg-type,return-value]
    world.runtime._model.get()
    time.sleep(0.01)
    world.runtime.rest()
    world.runtime._model.get()
    assert len(loads) == 3


def test_a_reranker_that_is_not_there_is_named_at_the_start(world: World) -> None:
    with pytest.raises(MissingModel, match="reranking model 'no/such-thing'"):
        world.reopen(retrieval=Retrieval(reranker="no/such-thing"))
    world.reopen(retrieval=Retrieval())
