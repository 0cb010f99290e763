"""Embedding as the ingester does it, against `SentenceTransformer.encode` with its defaults and the machine's limit.

All figures are of one run, the two sides taking turns: ratios hold on a busy machine where chunks per second do not.
Run it with `python -m tests.bench.bench_embedding [--quick]`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from store.embedding import Embedder

FULL_TOKENS = 254  # 256 with the two special tokens
MEAN_TOKENS = 68  # 70 with them


def run(quick: bool = False) -> dict[str, float]:
    """Measure for about a minute, `quick` for a quarter of it, with the settings' defaults; those with `openvino_` in
    front with that backend, if it is installed.

    `full_*` is for chunks of 256 tokens, `mixed_*` for mixed lengths with a mean of about 70; `*_ratio` is our
    chunks/s by those of `encode`; `min_cosine` is between the vectors of both; `matmul_share` is the share of the best
    fp32 matrix-multiply rate seen in the same run that the 256-token chunks reach.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    from store.embedding import find_model
    from store.embedding_cache import EmbeddingCache, embed_cached

    folder = find_model("default")
    reference = SentenceTransformer(str(folder))
    figures: dict[str, float] = {}
    rates = [matmul_rate()]
    with tempfile.TemporaryDirectory() as place:
        backends = embedders(Path(place))
        text, spans = real_text(), backends[""].spans([real_text()])[0]

        def count(piece: str) -> int:
            return len(backends[""].spans([piece])[0])

        def as_ingested(embedder: Embedder, texts: Sequence[str], name: str) -> np.ndarray:
            cache = EmbeddingCache(Path(place) / name, 100)
            vectors, embedded = embed_cached(embedder, cache, "bench", texts)
            assert embedded == len(set(texts))
            cache.close()
            return vectors

        full = cut(text, spans, [FULL_TOKENS] * (24 if quick else 64), count)
        mixed = cut(text, spans, mixed_lengths(120 if quick else 400), count)
        for name, texts in (("full", full), ("mixed", mixed)):
            figures[f"{name}_mean_tokens"] = 2 + statistics.mean(count(piece) for piece in texts)
            expected = reference.encode(texts)
            theirs: list[float] = []
            ours: dict[str, list[float]] = {backend: [] for backend in backends}
            for backend, embedder in backends.items():
                cosine = float((embedder.embed(texts) * expected).sum(axis=1).min())
                figures[f"{backend}min_cosine"] = min(cosine, figures.get(f"{backend}min_cosine", 1.0))
            for n in range(3 if quick else 5):
                theirs.append(timed(lambda texts=texts: reference.encode(texts)))
                for backend, embedder in backends.items():
                    file = f"{backend}{name}{n}"
                    ours[backend].append(timed(lambda e=embedder, t=texts, file=file: as_ingested(e, t, file)))
                rates.append(matmul_rate())
            for backend, seconds in ours.items():
                ratios = [their / our for their, our in zip(theirs, seconds, strict=True)]
                figures[f"{backend}{name}_chunks_per_second"] = len(texts) / statistics.median(seconds)
                figures[f"{backend}{name}_ratio"] = statistics.median(ratios)
                if name == "full":
                    flops = sum(flops_per_chunk(folder, count(piece) + 2) for piece in texts)
                    figures[f"{backend}full_gflops"] = flops / min(seconds) / 1e9
    figures["matmul_gflops"] = max(rates)
    for backend in backends:
        figures[f"{backend}matmul_share"] = figures[f"{backend}full_gflops"] / figures["matmul_gflops"]
    return figures


def embedders(place: Path) -> dict[str, Embedder]:
    """What the ingester embeds with, by what stands in front of its figures."""
    from daemon.runtime import embedder
    from daemon.settings import Embedding, Settings

    found = {"": embedder(Settings(state_dir=place))}
    if importlib.util.find_spec("openvino") is None:
        print("  openvino is not installed, its figures are left out: pip install 'memexd[openvino]'")
        return found
    return found | {"openvino_": embedder(Settings(state_dir=place, embedding=Embedding(backend="openvino")))}


def timed(action: Callable[[], np.ndarray]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def real_text() -> str:
    """The language reference that every Python carries, 700 kB of prose and code."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def mixed_lengths(n: int) -> list[int]:
    lengths = np.random.default_rng(0).lognormal(np.log(MEAN_TOKENS * 0.83), 0.65, n)
    return [int(length) for length in np.clip(lengths, 4, FULL_TOKENS)]


def cut(text: str, spans: Sequence[tuple[int, int]], lengths: Sequence[int], count: Callable[[str], int]) -> list[str]:
    """Pieces of these lengths in tokens, one after the other; a word that is cut in two may cost a token or two."""
    pieces, at = [], 0
    for length in lengths:
        end = at + length
        while count(piece := text[spans[at][0] : spans[end - 1][1]]) > length:
            end -= 1
        pieces.append(piece)
        at += length
    return pieces


def flops_per_chunk(folder: Path, tokens: int) -> float:
    """Floating-point operations of a BERT encoder's matrix products for one chunk: four projections, two of the
    feed-forward layer, scores and their weighted sum; a multiply-add counts two."""
    config = json.loads((folder / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    per_layer = 2 * tokens * hidden * (4 * hidden + 2 * inner) + 4 * tokens * tokens * hidden
    return float(config["num_hidden_layers"] * per_layer)


def matmul_rate() -> float:
    """The best fp32 rate of a large square matrix product just now, in GFLOP/s."""
    import torch

    n = 2048
    a, b = torch.rand(n, n), torch.rand(n, n)
    return max(2 * n**3 / timed(lambda: (a @ b).numpy()) / 1e9 for _ in range(3))


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv[1:]), indent=2))
