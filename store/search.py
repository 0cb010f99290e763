"""From a query to the chunks that fit it best: vector and full-text search, fused, boosted, folded, reranked.

Fusion is a weighted mean of the cosine and of the BM25 score as a share of the best one (Bruch, Gai and Ingber, "An
Analysis of Fusion Functions for Hybrid Retrieval", 2023). On sixteen collections its nDCG@10 was .033 above the better
half's in the mean and at worst .006 below it, on one. Reciprocal rank fusion, which knows no distances, was with
its best constant and weight .022 above, and .019 below it at worst. `tests/bench/bench_quality.py` measures more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from store.queries import Query
from store.reranking import Reranker
from store.types import Filters, Head, Hit
from store.vectors import Candidate, Generations, Sought

Mode = Literal["hybrid", "vector", "text"]
OVERFETCH, LEAST = 4, 50  # each half finds this many times k, and at least so many
SPARE = 5  # rows that are read beyond those wanted, as some may be alike
RERANKED = 30  # the fewest that a reranker is given
ALIKE = 0.9  # the share of word pairs that two chunks have in common to count as one text
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Ranking:
    """How results are found and ordered. `text_weight` is the share of the words in a hybrid's score,
    `rerank_seconds` the time that a reranker may take."""

    mode: Mode = "hybrid"
    text_weight: float = 0.15
    rerank_seconds: float = 1.0


HYBRID = Ranking()


def search(
    vectors: Generations,
    head: Head,
    query: Query,
    k: int,
    filters: Filters,
    ranking: Ranking,
    reranker: Reranker | None = None,
) -> tuple[list[Hit], tuple[str, ...]]:
    """The `k` best chunks of a state, best first, and remarks; the same state always gives the same.

    A chunk's boost multiplies its score. Chunks of nearly the same text are one result that names all its places. With
    a reranker more are found than asked for, and it chooses; past its time the order stands, and a remark says so.
    """
    wanted = max(RERANKED, 2 * k) if reranker else k
    sought = Sought(
        vector=query.moved,
        own=None if query.adapter is None else query.plain,
        near=ranking.mode != "text",
        words=query.text if ranking.mode != "vector" else None,
    )
    found = vectors.candidates(head.generation, head.version, max(LEAST, OVERFETCH * k), filters, sought)
    hits = _read(vectors, head, scored(found, ranking), wanted)
    if reranker is None:
        return hits, ()
    scores = reranker.scores(query.text, [hit.text for hit in hits], ranking.rerank_seconds)
    if scores is None:
        why = f"not reranked: {ranking.rerank_seconds:g} s were not enough (retrieval.rerank_seconds)"
        return hits[:k], (why,)
    judged = (replace(hit, score=score * hit.boost) for hit, score in zip(hits, scores, strict=True))
    return _best_first(judged)[:k], ()


def scored(found: Sequence[Candidate], ranking: Ranking) -> list[tuple[float, Candidate]]:
    """The candidates with their scores, best first. In a hybrid a cosine of 1 and the best words together are 1."""
    if ranking.mode == "vector":
        scores = [one.nearness for one in found]
    elif ranking.mode == "text":
        scores = [one.words or 0.0 for one in found]
    else:
        best = max((one.words for one in found if one.words), default=1.0)
        weight = ranking.text_weight
        scores = [(1 - weight) * one.nearness + weight * (one.words or 0.0) / best for one in found]
    boosted = ((score * one.boost, one) for score, one in zip(scores, found, strict=True))
    return sorted(boosted, key=lambda pair: -pair[0])


def _read(vectors: Generations, head: Head, ordered: Sequence[tuple[float, Candidate]], wanted: int) -> list[Hit]:
    """The first `wanted` that differ in text. Reads no more rows than it takes to know them."""
    hits: list[Hit] = []
    while len(hits) < len(ordered):
        end = min(len(hits) + wanted + SPARE, len(ordered))
        while end < len(ordered) and ordered[end][0] == ordered[end - 1][0]:
            end += 1  # among equals the id decides, so all of them are read
        hits = _best_first([*hits, *vectors.read(head.generation, head.version, ordered[len(hits) : end])])
        found = fold(hits, wanted + 1)  # one more says that the others have all their places
        if len(found) > wanted:
            return found[:wanted]
    return fold(hits, wanted)


def _best_first(hits: Iterable[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))


def fold(hits: Sequence[Hit], k: int) -> list[Hit]:
    """The first `k` that differ in text; those like one before it are among its `places`."""
    kept: list[tuple[Hit, frozenset[tuple[str, str]]]] = []
    places: dict[str, list[str]] = {}
    for hit in hits:
        words = frozenset(pairwise(WORD.findall(hit.text.lower())))
        same = next((one for one, others in kept if _alike(words, others)), None)
        if same is None:
            if len(kept) == k:
                break
            kept.append((hit, words))
        elif hit.path not in (same.path, *places.get(same.chunk_id, ())):
            places.setdefault(same.chunk_id, []).append(hit.path)
    return [replace(hit, places=tuple(places[hit.chunk_id])) if hit.chunk_id in places else hit for hit, _ in kept]


def _alike(pairs: frozenset[tuple[str, str]], others: frozenset[tuple[str, str]]) -> bool:
    """Texts with other numbers say other things, however alike the rest is."""
    if not pairs or len(pairs & others) < ALIKE * len(pairs | others):
        return False
    return not any(word[0].isdigit() for pair in pairs ^ others for word in pair)
