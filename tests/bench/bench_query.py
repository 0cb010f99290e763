"""The questions' side of retrieval: what a query adapter gains on held-out questions, by the way that a cycle goes.

Documents are docstrings of installed libraries; questions are made from them as a cycle makes them, and no document that
is learned from is the source of one that is asked. Plain and adapted search are the daemon's own, with the default model.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from daemon import query_tuning
from daemon.runtime import Runtime
from daemon.settings import Settings, Source
from tests.bench.bench_learning import LONG
from tests.bench.corpus import references
from trainers.gate import FRESH
from trainers.retriever import RECALL

LIBRARIES = ("", "sklearn", "numpy", "scipy", "networkx")
DOCUMENTS = 500  # half of them are held out


def run(quick: bool = False) -> dict[str, Any]:
    """`quick` with a fifth of the documents."""
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder:
        docs = Path(folder) / "docs"
        docs.mkdir()
        each = (DOCUMENTS // 5 if quick else DOCUMENTS) // len(LIBRARIES)
        for library in LIBRARIES:
            texts = [(name, text) for name, text in references(library) if LONG[0] < len(text) < LONG[1]]
            for name, text in texts[:each]:
                (docs / f"{name}.md").write_text(f"# {name}\n\n{text}\n")
        runtime = Runtime(Settings(state_dir=Path(folder) / "state", sources=(Source(path=docs),)), write=True)
        try:
            runtime.synchronise(list(runtime.settings.sources))
            return tune(runtime)
        finally:
            runtime.close()


def tune(runtime: Runtime) -> dict[str, Any]:
    memory = runtime.memory
    run = memory.journal.begin_run(trigger="bench", move=memory.head().move, incumbent=None)
    folder = runtime.settings.state_dir / "refresh" / f"{run:04d}"
    started = time.perf_counter()
    query_tuning.tune(runtime, run, folder, lambda _: None, threading.Event())
    seconds = time.perf_counter() - started
    told = memory.journal.run(run).metrics["query"]
    return told
