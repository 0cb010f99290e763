"""How good retrieval is on texts that nobody here wrote and that are on every machine: docstrings. Each one's first
sentence is a question, and the rest, without it, is the document to find.

nDCG@10 of vectors alone, words alone and both, with the default models and settings, a collection from each of several
libraries; and the halves against references on the same chunks: BM25 by bm25s, of the same words as ours
(stemmed, without those that any question has) and of plain ones, and exact search by numpy.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import snowballstemmer

from daemon.evaluation import beir
from daemon.settings import Settings
from store.embedding import Embedder, open_embedder
from store.memory import Memory
from store.search import HYBRID, Ranking
from store.types import Hit
from store.words import COMMON
from trainers.metrics import mean, ndcg

LIBRARIES = ("", "torch", "transformers", "numpy", "sklearn", "scipy", "networkx", "sympy")  # "": the standard library
DOCUMENTS, QUESTIONS = 500, 200
DEEP = 50  # chunks looked at, for ten documents
WORD = re.compile(r"[^\W_]+")

Ranked = Callable[[str], list[str]]


def run(quick: bool = False) -> dict[str, Any]:
    """All libraries that are installed; `quick` with a fifth of their docstrings."""
    part = 5 if quick else 1
    embedder = open_embedder()
    found: dict[str, Any] = {}
    for library in LIBRARIES:
        pairs = docstrings(library)[: DOCUMENTS // part]
        if len(pairs) >= QUESTIONS // part:
            scores = measure(embedder, pairs, QUESTIONS // part)
            found |= {f"{library or 'stdlib'}_{name}": value for name, value in scores.items()}
    return found | {
        "hybrid_least_gain": min(value for name, value in found.items() if name.endswith("_gain")),
        "bm25_farthest_from_reference": max(abs(value) for name, value in found.items() if name.endswith("_over_bm25")),
        "vector_least_over_exact": min(value for name, value in found.items() if name.endswith("_over_exact")),
    }


def measure(embedder: Embedder, pairs: Sequence[tuple[str, str]], questions: int) -> dict[str, float]:
    """nDCG@10 over the first `questions`."""
    with (
        tempfile.TemporaryDirectory(prefix="memex-bench-") as name,
        Memory(Path(name) / "state", embedder, write=True, generation={"bench": 1}) as memory,
    ):
        corpus = ({"_id": str(number), "text": text} for number, (_, text) in enumerate(pairs))
        (Path(name) / beir.CORPUS).write_text("".join(json.dumps(one) + "\n" for one in corpus))
        beir.load(Path(name), memory, Settings(), lambda done, total: None)
        rankings = {"vector": Ranking("vector"), "text": Ranking("text"), "hybrid": HYBRID}
        ways: dict[str, Ranked] = {way: _by_memory(memory, ranking) for way, ranking in rankings.items()}
        ways["bm25"], ways["plain_bm25"], ways["exact"] = _references(memory)
        found = {
            way: mean(
                [ndcg(rank(query), {str(number): 1.0}, 10) for number, (query, _) in enumerate(pairs[:questions])]
            )
            for way, rank in ways.items()
        }
    return {
        "vector_ndcg": found["vector"],
        "text_ndcg": found["text"],
        "hybrid_ndcg": found["hybrid"],
        "hybrid_gain": found["hybrid"] - max(found["vector"], found["text"]),
        "text_over_bm25": found["text"] - found["bm25"],
        "text_over_plain_bm25": found["text"] - found["plain_bm25"],
        "vector_over_exact": found["vector"] - found["exact"],
    }


def _by_memory(memory: Memory, ranking: Ranking) -> Ranked:
    def rank(query: str) -> list[str]:
        memory.ranking = ranking
        hits = memory.search(query, DEEP).hits
        return list(dict.fromkeys(path for hit in hits for path in (hit.path, *hit.places)))

    return rank


def _references(memory: Memory) -> tuple[Ranked, Ranked, Ranked]:
    """BM25 of our words and of plain ones by bm25s, and cosine by numpy, over the same chunks."""
    head = memory.head()
    hits: list[Hit] = memory.chunks(list(memory.live_at(head)))
    held = memory.vectors.vectors(head.generation, head.version)
    matrix = np.stack([held[hit.chunk_id] for hit in hits])
    stemmed, plain = (bm25s.BM25(method="lucene", k1=1.2, b=0.75) for _ in range(2))
    stemmed.index([_stems(hit.text) for hit in hits], show_progress=False)
    plain.index([_words(hit.text) for hit in hits], show_progress=False)

    def documents(scores: Any) -> list[str]:
        best = np.argsort(-scores, kind="stable")[: 4 * DEEP]
        return list(dict.fromkeys(hits[i].path for i in best if scores[i] > 0))

    return (
        lambda query: documents(stemmed.get_scores(_telling(_stems(query)))),
        lambda query: documents(plain.get_scores(_words(query))),
        lambda query: documents(matrix @ memory.embedder.embed([query])[0]),
    )


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _telling(words: list[str]) -> list[str]:
    return [one for one in words if one not in COMMON] or words


def _stems(text: str) -> list[str]:
    stemmed: list[str] = snowballstemmer.stemmer("english").stemWords(WORD.findall(text.lower()))
    return stemmed


def docstrings(library: str) -> list[tuple[str, str]]:
    """(first sentence, the rest) of a library's docstrings, in an order that is random and always the same."""
    folder = Path(sysconfig.get_path("purelib")) / library if library else Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("*.py")):
        if {"test", "tests", "site-packages", "dist-packages"} & set(file.relative_to(folder).parts):
            continue
        for text in _texts(file):
            first, blank, rest = text.partition("\n\n")
            first = " ".join(first.split())
            if blank and 25 < len(first) < 160 and len(rest) > 250:
                found.setdefault(first, rest[:3000])
    pairs = list(found.items())
    random.Random(1).shuffle(pairs)
    return pairs


def _texts(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
            yield text
