"""What a question waits for, with 100,000 chunks: hybrid search against LanceDB's own, vector search against numpy, a
search seen before, eight clients at once; and the first token of an answer.

Vectors are random, which is the worst case for an index; sizes are those of the default model (384 dimensions).
Searches are made by the daemon's own operation, which records each as a retrieval.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lancedb
import numpy as np

from daemon import operations
from daemon.settings import Chunking, Settings, Source
from store.errors import Stopping
from store.memory import Memory
from store.search import Ranking
from store.types import Filters
from store.vectors import Sought
from tests.bench import corpus
from tests.bench.bench_store import CHUNKS, Wide, load, queries, timed
from trainers.metrics import percentile

K = 10
CLIENTS = 8
TURNS = 5  # of one client and of all
BLOCK = 20


def run(quick: bool = False) -> dict[str, Any]:
    """All of it; `quick` on a tenth."""
    part = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as name:
        folder = Path(name)
        with Memory(folder / "many", Wide(), write=True, generation={"bench": 1}, cache_mb=0, recent=8192) as memory:
            load(memory, range(100_000 // CHUNKS // part))
            memory.maintain()
            rounds = 300 // part
            return {
                **hybrid(memory, folder / "many", rounds),
                **by_vector(memory, 200 // part),
                **crowd(memory, 200 // part),
                **first_token(folder / "asked", 20 // (4 if quick else 1)),
            }


def hybrid(memory: Memory, folder: Path, rounds: int) -> dict[str, Any]:
    """A search by words and meaning, its query vector known, against LanceDB's own, in turns; then all again."""
    head, runtime = memory.head(), _runtime(memory)
    table = lancedb.connect(str(folder / "generations")).open_table(head.generation)
    table.checkout(head.version)
    ours, bare = [], []
    all_asked = [f"{query} {number}" for number, query in enumerate(queries(rounds + 20))]
    for number, asked in enumerate(all_asked):
        vector = memory.queries.plain(asked)

        def lance(asked: str = asked, vector: Any = vector) -> Any:
            found = table.search(query_type="hybrid").vector(vector).text(asked).distance_type("cosine")
            return found.limit(K).to_arrow().to_pylist()

        def search(asked: str = asked) -> Any:
            return operations.search(runtime, asked, K)

        turns = [(ours, search), (bare, lance)]
        for times, one in turns if number % 2 else turns[::-1]:
            times.append(timed(one))
    ours, bare = ours[20:], bare[20:]
    cached = [timed(lambda asked=asked: operations.search(runtime, asked, K)) for asked in all_asked]  # type: ignore[misc]
    return {
        "hybrid_p50_over_bare": percentile(ours, 0.5) / percentile(bare, 0.5),
        "hybrid_p99_over_bare": percentile(ours, 0.99) / percentile(bare, 0.99),
        "hybrid_p50_seconds": percentile(ours, 0.5),
        "bare_hybrid_p50_seconds": percentile(bare, 0.5),
        "cached_p50_seconds": percentile(cached, 0.5),
        "cached_p95_seconds": percentile(cached, 0.95),
    }


def by_vector(memory: Memory, rounds: int) -> dict[str, Any]:
    """The ten chunks of the highest cosine, by the index and by numpy over all vectors in memory, and how far they
    agree; and the same with the chunks read, as a search by meaning alone gives them."""
    head, memory.ranking = memory.head(), Ranking("vector")
    held = memory.vectors.vectors(head.generation, head.version)
    ids, matrix = list(held), np.stack(list(held.values()))
    rng = np.random.default_rng(1)
    asked = rng.normal(size=(rounds, matrix.shape[1])).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)

    def by_numpy(number: int) -> list[str]:
        similar = matrix @ asked[number]
        best = np.argpartition(-similar, K)[:K]
        return [ids[i] for i in best[np.argsort(-similar[best])]]

    def by_index(number: int) -> Any:
        found = memory.vectors.candidates(head.generation, head.version, 3 * K, Filters(), Sought(asked[number]))
        return sorted(found, key=attrgetter("similarity"), reverse=True)[:K]

    def by_memory(number: int) -> Any:
        memory.queries.vectors.put(f"vector {number}", asked[number])
        return memory.search(f"vector {number}", K)

    times: dict[Any, list[float]] = {by_numpy: [], by_index: [], by_memory: []}
    for start in range(0, rounds, BLOCK):  # in turns, each long enough to have its data in the processor's cache
        for way, taken in times.items():
            taken += [timed(partial(way, number)) for number in range(start, min(start + BLOCK, rounds))][BLOCK // 4 :]
    exact, ours, whole = (statistics.median(taken) for taken in times.values())
    recall = []
    for number in range(rounds):
        scored = [(one.similarity, one) for one in by_index(number)]
        found = {hit.chunk_id for hit in memory.vectors.read(head.generation, head.version, scored)}
        recall.append(len(found & set(by_numpy(number))) / K)
    return {
        "vector_over_numpy": ours / exact,
        "vector_recall_at_10": statistics.mean(recall),
        "vector_and_rows_over_numpy": whole / exact,
        "numpy_p50_seconds": exact,
    }


def crowd(memory: Memory, searches: int) -> dict[str, Any]:
    """Searches a second by eight clients at once against one, query vectors known; and how even their times are."""
    runtime = _runtime(memory)
    stock = queries(2 * searches)
    asked = [f"{query} crowd {turn} {number}" for turn in range(TURNS) for number, query in enumerate(stock)]
    for query in asked:
        memory.queries.plain(query)

    def rate(clients: int, some: Sequence[str]) -> tuple[float, list[float]]:
        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            times = list(pool.map(lambda query: timed(lambda: operations.search(runtime, query, K)), some))
            return len(some) / (time.perf_counter() - started), times

    gains, spreads, together = [], [], 0.0
    for turn in range(TURNS):
        first = 2 * turn * searches
        alone, _ = rate(1, asked[first : first + searches])
        together, times = rate(CLIENTS, asked[first + searches : first + 2 * searches])
        gains.append(together / alone)
        spreads.append(percentile(times, 0.99) / percentile(times, 0.5))
    return {
        "clients_throughput_over_one": statistics.median(gains),
        "clients_p99_over_p50": statistics.median(spreads),
        "clients_searches_per_second": together,
    }


def first_token(folder: Path, rounds: int) -> dict[str, Any]:
    """From a question to the first token of its answer against bare `generate` of transformers on the same prompt."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    from daemon.runtime import Runtime

    docs = folder / "docs"
    corpus.fill(docs, 30, 6)
    settings = Settings(state_dir=folder / "state", sources=(Source(path=docs),), chunking=Chunking())
    runtime = Runtime(settings, write=True)
    try:
        operations.sync(runtime)
        model = runtime._model.get()
        prompts: list[list[int]] = []
        encode = model.encode
        model.encode = lambda chat: prompts.append(encode(chat)) or prompts[-1]  # type: ignore[method-assign]

        class First(BaseStreamer):  # type: ignore[misc]
            """Says when the first new token came; the prompt comes before."""

            def __init__(self) -> None:
                self.came: list[float] = []

            def put(self, value: Any) -> None:
                self.came.append(time.perf_counter())

            def end(self) -> None: ...

        ours, bare = [], []
        for query in queries(rounds):
            prompts.clear()
            seconds = _to_first_token(runtime, query)
            if seconds is None or not prompts:
                continue  # nothing near enough, or not a word was said
            ours.append(seconds)
            ids = torch.tensor([prompts[-1]])
            first, begun = First(), time.perf_counter()
            with torch.inference_mode():
                model.model.generate(ids, max_new_tokens=1, do_sample=False, streamer=first)
            bare.append(first.came[1] - begun)
        assert len(ours) > rounds // 2, f"{len(ours)} of {rounds} questions were answered"
        return {
            "first_token_over_bare": statistics.median(a / b for a, b in zip(ours[1:], bare[1:], strict=True)),
            "first_token_p50_seconds": statistics.median(ours[1:]),
        }
    finally:
        runtime.close()


def _to_first_token(runtime: Any, question: str) -> float | None:
    came: list[float] = []
    started = time.perf_counter()
    with suppress(Stopping):
        operations.ask(
            runtime, question, on_token=lambda _piece: came.append(time.perf_counter()), stop=lambda: bool(came)
        )
    return came[0] - started if came else None


def _runtime(memory: Memory) -> Any:
    """As much of a runtime as a search needs."""
    memory.ranking = Ranking()
    return SimpleNamespace(memory=memory, settings=Settings())
