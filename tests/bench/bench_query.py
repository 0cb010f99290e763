"""The questions' side of retrieval: what a query adapter gains, by the way that a cycle goes.

Documents are docstrings of installed libraries. Questions are made from them as a cycle makes them; no document that is
learned from is the source of one that is asked. Both ways are the daemon's own search with the default model, the one
with the candidate, the other as questions are.
"""

from __future__ import annotations

import threading
from typing import Any

from daemon.query_tuning import tune
from daemon.runtime import Runtime
from tests.bench.bench_learning import remembered

LIBRARIES = ("", "sklearn", "numpy", "scipy", "networkx")  # "": the standard library
EACH = 100  # documents, about half of them held out


def run(quick: bool = False) -> dict[str, Any]:
    """`quick` with a fifth of the documents. `query_promoted` is 1 where the gate let the candidate serve."""
    with remembered(LIBRARIES, EACH // 5 if quick else EACH) as runtime:
        return measure(runtime)


def measure(runtime: Runtime) -> dict[str, float]:
    """One cycle's part, from a memory without a query adapter."""
    journal, head = runtime.memory.journal, runtime.memory.head()
    run = journal.begin_run(trigger="bench", move=head.move, incumbent=None)
    tune(runtime, run, runtime.settings.state_dir / "refresh" / f"{run:04d}", lambda _: None, threading.Event())
    told = journal.run(run).metrics["query"]
    promoted = told["decision"] == "promote"
    assert promoted == (runtime.memory.head().query_adapter is not None)
    found = {"query_learned": told["learned"], "query_asked": told["asked"], "query_seconds": told["seconds"]}
    if "ndcg" not in told:  # training found nothing that helps, so there was no candidate to compare
        return found
    return found | {
        "query_ndcg_plain": told["ndcg"]["incumbent"],
        "query_ndcg_adapted": told["ndcg"]["candidate"],
        "query_gain": told["ndcg"]["difference"],
        "query_gain_lower": told["ndcg"]["lower"],
        "query_gain_upper": told["ndcg"]["upper"],
        "query_recall_gain": told["recall"]["difference"],
        "query_promoted": float(promoted),
        "query_promoted_though_no_better": float(promoted and told["ndcg"]["lower"] <= 0),
    }
