"""From a query to the chunks that fit it best: vector and full-text search, fused, boosted, folded, reranked.

Fusion is by reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009), weighted. Each half is asked for more than is
wanted, since what both find is better than what either puts first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from store.reranking import Reranker
from store.types import Filters, Head, Hit, Vectors
from store.vectors import Generations

Mode = Literal["hybrid", "vector", "text"]
OVERFETCH, LEAST = 4, 50  # each half finds this many times k, and at least so many
RERANKED = 30  # the fewest that a reranker is given
RANK_CONSTANT = 60
ALIKE = 0.9  # the share of word pairs that two chunks have in common to count as one text
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Ranking:
    """How results are found and ordered. `text_weight` is the share of the full-text half in a hybrid's order,
    `rerank_seconds` the time that a reranker may take."""

    mode: Mode = "hybrid"
    text_weight: float = 0.4
    rerank_seconds: float = 1.0


HYBRID = Ranking()


def search(
    vectors: Generations,
    head: Head,
    query: str,
    vector: Vectors,
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
    n = max(LEAST, OVERFETCH * k)
    near = vectors.nearest(head.generation, head.version, vector, n, filters) if ranking.mode != "text" else []
    matching = (
        vectors.matching(head.generation, head.version, query, vector, n, filters) if ranking.mode != "vector" else []
    )
    found = fuse(near, matching, ranking.text_weight) if ranking.mode == "hybrid" else near or matching
    hits = fold(_best_first(replace(hit, score=hit.score * hit.boost) for hit in found), wanted)
    if reranker is None:
        return hits, ()
    scores = reranker.scores(query, [hit.text for hit in hits], ranking.rerank_seconds)
    if scores is None:
        why = f"not reranked: {ranking.rerank_seconds:g} s were not enough (retrieval.rerank_seconds)"
        return hits[:k], (why,)
    judged = (replace(hit, score=score * hit.boost) for hit, score in zip(hits, scores, strict=True))
    return _best_first(judged)[:k], ()


def _best_first(hits: Iterable[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))


def fuse(near: Sequence[Hit], matching: Sequence[Hit], text_weight: float) -> list[Hit]:
    """Both lists as one, scored by weighted reciprocal rank, 0 to 1: first in both is 1."""
    hits = {hit.chunk_id: hit for hit in (*matching, *near)}
    scores = dict.fromkeys(hits, 0.0)
    for weight, half in ((1 - text_weight, near), (text_weight, matching)):
        for rank, hit in enumerate(half, start=1):
            scores[hit.chunk_id] += weight * (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank)
    return [replace(hit, score=scores[chunk_id]) for chunk_id, hit in hits.items()]


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
    return [replace(hit, places=tuple(places.get(hit.chunk_id, ()))) for hit, _ in kept]


def _alike(pairs: frozenset[tuple[str, str]], others: frozenset[tuple[str, str]]) -> bool:
    """Texts with other numbers say other things, however alike the rest is."""
    if not pairs or len(pairs & others) < ALIKE * len(pairs | others):
        return False
    return not any(word[0].isdigit() for pair in pairs ^ others for word in pair)
