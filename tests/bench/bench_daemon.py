"""What a person waits for: a file closed until search finds it, idle, during a backfill and while a model is trained,
where a search is timed too; and the memory it takes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from daemon import client
from tests.bench import corpus
from tests.bench.bench_learning import LONG, MODELS
from trainers.model import resolve

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
            **while_training(folder / "training", 10 if quick else 40),
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


def while_training(folder: Path, times: int) -> dict[str, Any]:
    """Seconds of a search, and from closing a file until search finds it: the 95th percentile during the training of a
    learning cycle over that of an idle daemon."""
    daemon = Daemon(folder, "default", str(resolve("default", MODELS)))
    try:
        texts = [(name, text) for name, text in corpus.references("sklearn") if LONG[0] < len(text) < LONG[1]]
        for name, text in texts[:150]:
            (daemon.docs / f"{name}.md").write_text(f"# {name}\n\n{text}\n")
        daemon.settle()
        questions = [f"what does {name.rpartition('.')[2]} return" for name, _ in texts[: 5 * times]]
        idle = waits(daemon, questions, times)
        threading.Thread(target=lambda: daemon.ask("refresh"), daemon=True).start()
        while (daemon.ask("status")["refreshing"] or {}).get("stage") != "train":
            time.sleep(0.2)
        busy = waits(daemon, [f"{question} exactly" for question in questions], times, times)
        assert daemon.ask("status")["refreshing"]["stage"] == "train"
    finally:
        daemon.close()
    searches, edits = (percentile(b, 0.95) / percentile(i, 0.95) for i, b in zip(idle, busy, strict=True))
    return {
        "training_search_p95_over_idle": searches,
        "training_close_to_searchable_p95_over_idle": edits,
        "training_search_p95": percentile(busy[0], 0.95),
        "training_close_to_searchable_p95": percentile(busy[1], 0.95),
    }


def waits(daemon: Daemon, questions: list[str], edits: int, first: int = 0) -> tuple[list[float], list[float]]:
    """Seconds of each search, none asked before, and of each edit."""
    searches = []
    for question in questions:
        started = time.perf_counter()
        daemon.ask("search", query=question, k=5)
        searches.append(time.perf_counter() - started)
    return searches, [edit_to_found(daemon, first + number) for number in range(edits)]


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
