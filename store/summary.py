"""What the memory holds, in numbers. Plain sqlite3: `memex status` must answer before an ORM is imported."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from store.errors import NotFound
from store.sqlite import address, as_ours

LAST_BACKUP = "last-backup.json"
HEAD = ("generation", "version", "adapter", "query_adapter")  # what is told of it


def summarise(catalogue: Path) -> dict[str, Any]:
    """Head, counts, last refresh and freshness, as `memex status` shows them.

    Raises NotFound when there is none, Corrupt and DiskFailed when it cannot be read.
    """
    if not catalogue.exists():
        raise NotFound(f"no memory in {catalogue.parent} yet; run `memex sync` or `memex serve` first")
    connection = sqlite3.connect(address(catalogue, "ro"), uri=True, timeout=30)
    connection.row_factory = sqlite3.Row

    def one(query: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = connection.execute(query).fetchone()
        return row

    try:
        head = one(f"SELECT {', '.join(HEAD)}, move, at FROM moves JOIN head USING (move)")
        live = one(
            "SELECT count(*) AS documents, coalesce(sum(chunks), 0) AS chunks FROM revisions WHERE until IS NULL"
        )
        counts = one(
            "SELECT (SELECT count(*) FROM documents WHERE error IS NOT NULL AND NOT skipped) AS failed,"
            " (SELECT count(*) FROM documents WHERE skipped) AS skipped,"
            " (SELECT count(*) FROM holds) AS held, (SELECT count(*) FROM snapshots) AS snapshots,"
            " (SELECT count(*) FROM retrievals) AS retrievals"
        )
        refresh = one(
            "SELECT run, decision, reason, adapter, finished_at FROM runs WHERE finished_at NOT NULL ORDER BY run DESC"
        )
    except sqlite3.DatabaseError as error:
        raise as_ours(error, catalogue) or error from error
    finally:
        connection.close()
    assert live is not None
    assert counts is not None
    return {
        "head": {key: head[key] for key in HEAD} if head else None,
        "changed_at": _time(head["at"]) if head else None,
        **dict(live),
        **dict(counts),
        "last_refresh": {**dict(refresh), "finished_at": _time(refresh["finished_at"])} if refresh else None,
        "last_backup": last_backup(catalogue.parent),
    }


def last_backup(state_dir: Path) -> dict[str, Any] | None:
    """{at, ok, error, dir, last_ok} of the last backup, however it ended; `last_ok` is {at, dir} of the last good one.

    None before the first.
    """
    try:
        return dict(json.loads((state_dir / LAST_BACKUP).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
