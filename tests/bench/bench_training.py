"""What a person waits for while a model is trained: a search, and a file closed until search finds it."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from store.errors import TrainingFailed
from tests.bench.bench_daemon import Daemon, edit_to_found, percentile
from tests.bench.bench_learning import MODELS
from tests.bench.corpus import docstrings
from trainers.model import resolve


def run(quick: bool = False) -> dict[str, Any]:
    """40 edits and 200 searches each; `quick` a quarter of them."""
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder:
        return while_training(Path(folder) / "training", 10 if quick else 40)


def while_training(folder: Path, times: int) -> dict[str, Any]:
    """The 95th percentile during the training of a learning cycle over that of an idle daemon, and its seconds."""
    daemon = Daemon(folder, "default", str(resolve("default", MODELS)))
    try:
        texts = docstrings("sklearn", 5 * times)
        for name, text in texts[:150]:
            (daemon.docs / f"{name}.md").write_text(text)
        daemon.settle()
        questions = [f"what does {name.rpartition('.')[2]} return" for name, _ in texts]
        idle = waits(daemon, questions, times)
        threading.Thread(target=learn, args=[daemon], daemon=True).start()
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


def learn(daemon: Daemon) -> None:
    with suppress(TrainingFailed):  # the daemon ends in the middle of it
        daemon.ask("refresh")


def waits(daemon: Daemon, questions: list[str], edits: int, first: int = 0) -> tuple[list[float], list[float]]:
    """Seconds of each search, none asked before, and of each edit."""
    searches = []
    for question in questions:
        started = time.perf_counter()
        daemon.ask("search", query=question, k=5)
        searches.append(time.perf_counter() - started)
    return searches, [edit_to_found(daemon, first + number) for number in range(edits)]
