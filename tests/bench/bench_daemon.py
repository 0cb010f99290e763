"""What a person waits for: a file closed until search finds it, idle and during a backfill; and the memory it takes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from daemon import client
from tests.bench import corpus

MEMEX = str(Path(sys.executable).with_name("memex"))


class Daemon:
    """`memex serve` on a folder, asked over its socket."""

    def __init__(self, folder: Path, model: str, generator: str = "default") -> None:
        self.docs = folder / "docs"
        self.docs.mkdir(parents=True)
        self.socket = folder / "state" / "run" / "memex.sock"
        config = folder / "memex.toml"
        config.write_text(
            f"state_dir = {json.dumps(str(folder / 'state'))}\n[[sources]]\npath = {json.dumps(str(self.docs))}\n"
            f'[embedding]\nmodel = "{model}"\n[generator]\nmodel = {json.dumps(generator)}\n[refresh]\nlearn = false\n'
        )
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen([MEMEX, "serve", "--config", str(config)], stdout=self._log, stderr=self._log)
        while not client.is_running(self.socket):
            time.sleep(0.1)

    def ask(self, operation: str, **arguments: Any) -> Any:
        return client.call(self.socket, operation, arguments)

    def settle(self) -> None:
        """Wait until nothing waits any more."""
        while (status := self.ask("status"))["queue"] or not status["documents"]:
            time.sleep(0.2)

    def resident_mb(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise OSError("no VmRSS")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=120)
        self._log.close()


def run(quick: bool = False) -> dict[str, Any]:
    """All of it; `quick` with fewer edits and files."""
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as name:
        folder = Path(name)
        return {
            **close_to_searchable(folder / "latency", 20 if quick else 60, 500 if quick else 5_000),
            **memory(folder / "memory", *((200, 2_000) if quick else (1_000, 20_000))),
        }


def close_to_searchable(folder: Path, edits: int, backfill: int) -> dict[str, Any]:
    """Seconds from closing a file until search finds it, with the real model."""
    daemon = Daemon(folder, "default")
    try:
        corpus.fill(daemon.docs / "first", 20, 4)
        daemon.settle()
        idle = [edit_to_found(daemon, number) for number in range(edits)]
        corpus.fill(daemon.docs / "backfill", backfill, 4)
        while daemon.ask("status")["queue"] < backfill // 4:
            time.sleep(0.1)
        busy = [edit_to_found(daemon, edits + number) for number in range(edits)]
        still = daemon.ask("status")["queue"]
    finally:
        daemon.close()
    return {
        "close_to_searchable_p50": statistics.median(idle),
        "close_to_searchable_p95": percentile(idle, 0.95),
        "during_backfill_p50": statistics.median(busy),
        "during_backfill_p95": percentile(busy, 0.95),
        "backfill_still_waiting": still,
    }


def edit_to_found(daemon: Daemon, number: int) -> float:
    word = f"word{number:05d}"
    path = daemon.docs / "edited.md"
    path.write_text(f"# Edited\n\nThe secret word of edit {number} is {word}.\n")
    started = time.perf_counter()
    while True:
        found = daemon.ask("search", query=f"the secret word of edit {number} is {word}", k=3)["results"]
        if any(word in hit["text"] for hit in found):
            return time.perf_counter() - started
        time.sleep(0.01)


def memory(folder: Path, few: int, many: int) -> dict[str, Any]:
    """Resident memory after `few` documents of a paragraph and after `many`, the real model among it."""
    daemon = Daemon(folder, "default")
    try:
        corpus.fill(daemon.docs / "few", few, 1)
        daemon.settle()
        small = daemon.resident_mb()
        corpus.fill(daemon.docs / "many", many - few, 1)
        time.sleep(1)
        daemon.settle()
        large = daemon.resident_mb()
    finally:
        daemon.close()
    return {"memory_mb_few": small, "memory_mb_many": large, "memory_growth": large / small - 1}


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
