"""The command line: messages, JSON and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import Running


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Without a daemon, unless the test starts one."""
    one = Running(tmp_path)
    yield one
    if one.daemon is not None:
        assert one.stop() == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon for the tests that only ask."""
    one = Running(tmp_path_factory.mktemp("served"))
    one.write("a.md", "# Alpha\n\nalpha text")
    one.start()
    one.until(lambda: one.paths() == {"a.md"})
    yield one
    assert one.stop() == 0


@pytest.mark.parametrize("arguments", [["status"], ["status", "--help"]])
def test_help_and_status_import_nothing_heavy(served: Running, arguments: list[str]) -> None:
    done = served.command(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "daemon.client" in imported
    assert not imported & {"torch", "transformers", "lancedb", "sqlmodel", "peft", "apscheduler", "fastapi"}


def test_sync_counts_and_says_what_failed(running: Running) -> None:
    running.write("a.md", "# Alpha\n\nalpha text")
    (running.docs / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
    done = running.command("sync", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["added"], found["failed"], found["chunks_total"], found["chunks_embedded"]) == (1, 1, 1, 1)
    (failed,) = running.ask("documents", "--failed")["documents"]
    assert failed["path"].endswith("broken.pdf")
    assert failed["error"]
    again = running.ask("sync")
    assert (again["unchanged"], again["failed"], again["chunks_embedded"]) == (2, 0, 0)
    assert running.command("sync", "--retry").returncode == 3


def test_dry_run_changes_nothing(running: Running) -> None:
    path = running.write("a.md", "alpha")
    assert running.ask("sync", "--dry-run")["dirty"] == [str(path)]
    assert running.ask("documents") == {"documents": []}


def test_search_and_the_past(running: Running) -> None:
    """Written by commands alone, and read through a daemon that was started later."""
    path = running.write("a.md", "the first text")
    running.ask("sync")
    version = running.ask("snapshot", "create", "first")["version"]
    path.write_text("the second text")
    running.ask("sync")
    running.start()
    found = running.ask("search", "text", "-k", "1")
    assert found["snapshot"] is None
    assert found["results"][0]["text"] == "the second text"
    then = running.ask("search", "text", "-k", "1", "--at", "first")
    assert (then["version"], then["snapshot"]) == (version, "first")
    assert then["results"][0]["text"] == "the first text"
    assert set(then["results"][0]) >= {
        *("chunk_id", "document_id", "path", "text", "score", "modified_at", "ingested_at", "embedded_at"),
        *("source", "position", "page", "headings", "domain", "tags", "revision"),
    }
    listed = running.ask("snapshot", "list")
    assert set(listed[0]) >= {"name", "version", "created_at", "documents", "chunks", "adapter", "reason"}
    history = running.ask("show", "a.md", "--history")["history"]
    assert [one["until"] is None for one in history] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["search", "x", "--at", "nope"], 4, "no snapshot 'nope'"),
        (["show", "nope"], 4, "no document 'nope'"),
        (["rollback", "nope", "--yes"], 4, "no snapshot 'nope'"),
        (["rollback", "nope"], 2, "--yes"),
        (["snapshot", "delete", "nope", "--yes"], 4, "no snapshot 'nope'"),
        (["release"], 2, "--all"),
        (["release", "nope"], 4, "nothing held"),
        (["search", ""], 2, "empty"),
        (["search", "x", "--source", "nope"], 4, "no source 'nope'"),
        (["feedback", "nope", "good"], 4, "no retrieval 'nope'"),
        (["feedback", "nope", "perhaps"], 2, "'good' or 'bad'"),
        (["refresh", "show", "7"], 4, "no refresh 7"),
        (["sync", "/elsewhere"], 2, "lies in no source"),
    ],
)
def test_errors_name_the_thing_and_have_their_code(served: Running, arguments: list[str], code: int, said: str) -> None:
    done = served.command(*arguments, "--json")
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    message = json.loads(done.stderr)
    assert said in message["message"]
    assert message["exit_code"] == code


def test_errors_are_the_same_without_a_daemon(running: Running) -> None:
    running.write("a.md", "alpha")
    running.ask("sync")
    done = running.command("rollback", "nope", "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("memex: no snapshot 'nope'")


def test_usage_errors_are_code_2(running: Running) -> None:
    assert running.command("search").returncode == 2
    assert running.command("no-such-command").returncode == 2
    running.config.write_text("[ingest]\nsettle_secnds = 1\n")
    done = running.command("config", "check")
    assert done.returncode == 2
    assert f"{running.config}:2" in done.stderr


def test_status_before_there_is_a_memory(running: Running) -> None:
    done = running.command("status")
    assert (done.returncode, "memex sync" in done.stderr) == (4, True)


def test_feedback_is_kept(served: Running) -> None:
    retrieval = served.ask("search", "alpha")["retrieval_id"]
    assert served.ask("feedback", retrieval, "bad", "--answer", "beta") == {
        "retrieval_id": retrieval,
        "feedback": "bad",
        "correction": "beta",
        "fault": None,
    }


def test_a_person_reads_text_not_json(served: Running) -> None:
    for arguments in (["sync"], ["status"], ["search", "alpha"], ["documents"], ["show", "a.md", "--history"]):
        done = served.command(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert not done.stdout.startswith("{")
    assert "a.md, Alpha" in served.command("search", "alpha").stdout
