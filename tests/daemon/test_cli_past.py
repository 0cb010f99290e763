"""The command line on the past: what was, how it differs, and which snapshots stay."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import operations, render
from daemon.settings import Retrieval
from tests.daemon.conftest import World
from tests.daemon.running import Running

POLICY = "[snapshots]\nkeep_last = 2\nkeep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon whose memory has a past: snapshot `first`, then an edit, a rename, a new file and a deletion."""
    one = Running(tmp_path_factory.mktemp("past"), POLICY)
    one.write("a.md", "# Alpha\n\nalpha text\n\nthe end")
    for name in ("b.md", "gone.md"):
        one.write(name, f"text of {name}")
    one.start()
    one.until(lambda: one.paths() == {"a.md", "b.md", "gone.md"})
    one.ask("snapshot", "create", "first")
    one.write("a.md", "# Alpha\n\nanother text\n\nthe end")
    (one.docs / "b.md").rename(one.docs / "c.md")
    (one.docs / "gone.md").unlink()
    one.write("new.md", "new text")
    one.until(lambda: one.paths() == {"a.md", "c.md", "new.md"})
    one.until(lambda: "another" in one.ask("show", "a.md")["passages"][0]["text"])
    yield one
    assert one.stop() == 0


def said(running: Running, *arguments: str) -> str:
    done = running.command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(running.docs) + "/", "")


def dump(running: Running) -> list[str]:
    with sqlite3.connect(running.state / "catalogue.sqlite") as connection:
        return list(connection.iterdump())


def test_documents_of_a_past_state(served: Running) -> None:
    found = served.ask("documents", "--at", "first")
    assert found["snapshot"] == "first"
    assert [Path(one["path"]).name for one in found["documents"]] == ["a.md", "b.md", "gone.md"]
    assert {one["state"] for one in found["documents"]} == {"live"}
    text = said(served, "documents", "--at", "first")
    assert [line.split()[-1] for line in text.splitlines()[:3]] == ["a.md", "b.md", "gone.md"]
    assert text.splitlines()[3].startswith("-- snapshot first, version ")


def test_a_document_of_a_past_state(served: Running) -> None:
    assert served.ask("show", "c.md", "--at", "first")["path"].endswith("/b.md")
    assert served.ask("show", "gone.md", "--at", "first")["chunks"] == 1
    text = said(served, "show", "a.md", "--at", "first")
    assert "alpha text" in text
    assert "-- snapshot first, version " in text
    assert "another text" in said(served, "show", "a.md")


def test_history_and_the_diff_of_two_revisions(served: Running) -> None:
    history = served.ask("show", "a.md", "--history")["history"]
    assert [one["number"] for one in history] == [1, 2]
    assert history[0]["until_at"] == history[1]["since_at"]
    assert all(one["version"] for one in history)
    text = said(served, "show", "a.md", "--history")
    assert "     1 20" in text
    assert " to now (ingest): content " in text
    for arguments in (["1"], ["1", "2"], ["first"]):
        lines = said(served, "show", "a.md", "--diff", *arguments).splitlines()
        assert lines[0].startswith("--- a.md (revision 1)")
        assert lines[1].startswith("+++ a.md (revision 2)")
        assert lines[3:] == [" Alpha", " ", "-alpha text", "+another text", " ", " the end"]
    found = served.ask("show", "a.md", "--diff", "1", "2")
    assert (found["from"]["number"], found["to"]["number"], len(found["diff"])) == (1, 2, 9)
    assert said(served, "show", "a.md", "--diff", "2") == "no difference\n"


def test_what_differs_between_two_states(served: Running, tmp_path: Path) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("alpha text\n\nthe end\n")
    lines = said(served, "snapshot", "diff", "first", "--query", str(queries), "-k", "9").splitlines()
    assert lines[0].startswith("from snapshot first, version ")
    assert lines[2:7] == [
        "added       new.md",
        "removed     gone.md",
        "changed     a.md",
        "moved       b.md -> c.md",
        "serving     base model",
    ]
    assert lines[7] == "query: alpha text"
    assert {line.split()[0] for line in lines[8:]} >= {"entered", "left"}
    found = served.ask("snapshot", "diff", "first", "--query", str(queries))
    names = {group: [Path(one["path"]).name for one in found[group]] for group in ("added", "removed", "changed")}
    assert names == {"added": ["new.md"], "removed": ["gone.md"], "changed": ["a.md"]}
    assert [Path(one["to"]).name for one in found["moved"]] == ["c.md"]
    assert (found["adapter"], found["settings"]) == ({"from": None, "to": None}, {})
    assert [one["query"] for one in found["queries"]] == ["alpha text", "the end"]
    left = [one for one in found["queries"][0]["results"] if one["rank"]["to"] is None]
    assert any("alpha text" in one["text"] and one["rank"]["from"] == 1 for one in left)
    back = served.ask("snapshot", "diff", found["to"]["as_of"], "first")
    assert [Path(one["path"]).name for one in back["added"]] == ["gone.md"]
    assert served.ask("snapshot", "diff", "first", "first")["added"] == []
    assert "the same documents" in said(served, "snapshot", "diff", "first", "first")


def test_a_dry_rollback_says_what_would_change_and_changes_nothing(served: Running) -> None:
    before = dump(served)
    lines = said(served, "rollback", "first", "--dry-run").splitlines()
    assert lines == [
        "out         new.md",
        "back        gone.md",
        "changed     a.md",
        "moved       c.md -> b.md",
        "held        a.md: taken out by the rollback to first",
        "held        gone.md: without its file since the rollback to first",
        "held        new.md: taken out by the rollback to first",
        "serving     base model",
    ]
    found = served.ask("rollback", "first", "--dry-run")
    assert [Path(one["path"]).name for one in found["held"]] == ["a.md", "gone.md", "new.md"]
    assert served.ask("rollback", "first", "--dry-run", "--only", "model")["held"] == []
    assert dump(served) == before


def test_pruning_asks_keeps_what_is_pinned_and_says_why(served: Running) -> None:
    for _ in range(3):
        served.ask("snapshot", "create")
    served.ask("snapshot", "create", "later")
    before = dump(served)
    found = served.ask("snapshot", "prune", "--dry-run")
    assert [one["name"] for one in found["removed"]] == [
        one["name"] for one in served.ask("snapshot", "list") if one["name"].startswith("at-")
    ][:2]
    kept = {one["name"]: one["reasons"] for one in found["kept"]}
    assert kept["first"] == ["pinned"]
    assert kept["later"] == ["pinned", "the head's version", "last"]
    lines = said(served, "snapshot", "prune", "--dry-run").splitlines()
    assert lines[0] == "keep         first: pinned"
    assert lines[-1] == "3 kept, 2 would remove"
    assert [line.split()[:2] for line in lines[3:5]] == [["would", "remove"]] * 2
    refused = served.command("snapshot", "prune")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert dump(served) == before
    assert said(served, "snapshot", "prune", "--yes").splitlines()[-1] == "3 kept, 2 removed"
    assert "pinned" not in said(served, "snapshot", "pin", "later", "--unpin")
    assert [one["pinned"] for one in served.ask("snapshot", "list")] == [True, False, False]
    assert said(served, "snapshot", "pin", "later").endswith(", pinned\n")
    assert served.ask("snapshot", "prune", "--yes")["removed"] == []
    assert served.ask("doctor")["problems"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["documents", "--at", "nope"], 4, "no snapshot 'nope'"),
        (["documents", "--at", "first", "--held"], 2, "leave out --at"),
        (["show", "new.md", "--at", "first"], 4, "no document 'new.md' in version"),
        (["show", "a.md", "--diff"], 2, "--diff 1 2"),
        (["show", "a.md", "--diff", "1", "2", "3"], 2, "--diff 1 2"),
        (["show", "a.md", "--diff", "1", "--at", "first"], 2, "--diff 1 2"),
        (["show", "a.md", "1"], 2, "one document at a time"),
        (["show", "a.md", "--diff", "9"], 4, "there are 1 to 2"),
        (["show", "new.md", "--diff", "first"], 4, "not in memory at 'first'"),
        (["show", "gone.md", "--diff", "1"], 4, "name a second revision"),
        (["snapshot", "diff", "nope"], 4, "no snapshot 'nope'"),
        (["snapshot", "diff", "first", "--query", "/no/such/file"], 2, "/no/such/file: cannot be read"),
        (["snapshot", "diff", "first", "--query", "/dev/null"], 2, "/dev/null: no queries"),
        (["snapshot", "pin", "nope"], 4, "no snapshot 'nope'"),
        (["rollback", "nope", "--dry-run"], 4, "no snapshot 'nope'"),
    ],
)
def test_what_cannot_be_asked_of_the_past(served: Running, arguments: list[str], code: int, message: str) -> None:
    done = served.command(*arguments, "--json")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in json.loads(done.stderr)["message"]


def test_without_a_daemon_it_is_the_same(tmp_path: Path) -> None:
    running = Running(tmp_path, POLICY)
    running.write("a.md", "alpha")
    running.ask("sync")
    assert said(running, "documents", "--at", "0 seconds ago").splitlines()[0].endswith(" a.md")
    nothing = running.command("snapshot", "prune", "--yes", "--json", MEMEX_SNAPSHOTS__KEEP_LAST="0")
    assert (nothing.returncode, "keep_" in json.loads(nothing.stderr)["message"]) == (2, True)


def test_settings_differ_between_states(world: World) -> None:
    world.write("a.md", "alpha")
    world.sync()
    operations.snapshot_create(world.runtime, "first")
    world.reopen(retrieval=Retrieval(k=9))
    world.write("a.md", "beta")
    world.sync()
    assert operations.snapshot_diff(world.runtime, "first")["settings"] == {"retrieval.k": {"from": 5, "to": 9}}
    assert "\nsetting     retrieval.k: 5 -> 9" in render.difference(operations.snapshot_diff(world.runtime, "first"))
    planned = operations.rollback_plan(world.runtime, "first")
    assert "\nsetting     retrieval.k stays 9; then it was 5" in render.plan(planned)
    assert operations.snapshot_show(world.runtime, "first")["rollback"] == planned
