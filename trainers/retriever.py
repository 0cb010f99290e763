"""Questions with their right passages -> a query adapter, and whether it finds better than what serves.

Trained by InfoNCE (van den Oord, Li and Vinyals 2018): of the right passage, the near misses that retrieval finds for
the question, and the right passages of other documents, the moved question shall be nearest to the first. Thousands of
weights and a few hundred questions: seconds of numpy, in this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from store.query_adapter import QueryAdapter
from store.types import Hit, Vectors
from trainers import gate, questions
from trainers.gate import FRESH, Decision, Pair
from trainers.sources import MOST_PER_DOCUMENT, mixed_drafts

RECALL = "recall"
# How far the share of questions whose passage is among the first ten may fall, with confidence.
MARGINS = {RECALL: 0.02}
LEVEL = 0.05  # the chance that a test errs; there is one look
LEAST = 20  # questions to learn from
NEAR = 16  # near misses of a question


@dataclass(frozen=True, slots=True)
class Settings:
    """How a query adapter is trained: Adam on all lessons at once.

    The pull was chosen on docstrings, by the nDCG@10 that one half of the documents to learn from gained by training on
    the other: .012 with 0.01, .022 with 0.05, .025 with 0.3, .020 with 0.5, 0 with 1. Rank and rate made no difference.
    """

    rank: int = 16
    lr: float = 3e-4
    l2: float = 0.3  # the pull of the weights to zero, where a question stays as it is
    temperature: float = 0.05
    max_steps: int = 300
    patience: int = 50  # steps without a better loss on the documents that are left out
    left_out: float = 0.2  # the share of the documents that say when to stop
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the chunk that answers it; other chunks do too, where `passage` stands in them."""

    text: str
    right: Hit
    passage: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A question's vector with those of its right passage and of its near misses, at most NEAR."""

    document_id: str
    question: Vectors
    right: Vectors
    near: tuple[Vectors, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The weights with the least loss on the documents that were left out; `step` 0 says that nothing was better than
    the start. Losses are those of these documents, at the start and at the best step."""

    adapter: QueryAdapter
    step: int
    first_loss: float
    best_loss: float


def is_held_out(document_id: str) -> bool:
    """Whether a document's questions are asked and never learned from: half of all, for ever, whoever asks."""
    return hashlib.sha256(f"query:{document_id}".encode()).digest()[0] < 128


def made(chunks: Iterable[Hit], limit: int, seed: int = 0) -> list[Asked]:
    """At most `limit` questions, one on each document in turn, none twice. Unlike those for the generator they are kept
    whether or not retrieval finds their source: those that it does not find have the most to teach."""
    by_document: dict[str, list[Hit]] = {}
    for hit in chunks:
        by_document.setdefault(hit.document_id, []).append(hit)
    found: dict[str, Asked] = {}
    for row in zip_longest(*(_drafts(hits, seed) for hits in by_document.values())):
        for one in row:
            if one is not None and len(found) < limit:
                found.setdefault(one.text, one)
        if len(found) == limit:
            break
    return list(found.values())


def _drafts(hits: Sequence[Hit], seed: int) -> Iterator[Asked]:
    drawn = 0
    for hit, draft in mixed_drafts(hits, seed):
        if draft.kind == "heading":  # nobody asks what a section begins with
            continue
        yield Asked(draft.question, hit, questions.sentences(hit.text)[draft.sentence])
        drawn += 1
        if drawn == MOST_PER_DOCUMENT:
            return


def train(
    lessons: Sequence[Lesson], settings: Settings = Settings(), start: QueryAdapter | None = None
) -> Trained | None:
    """A query adapter, new or gone on from `start`; None with fewer than LEAST lessons or those of one document alone.
    The same input gives the same weights."""
    documents = sorted({one.document_id for one in lessons}, key=lambda one: hashlib.sha256(one.encode()).digest())
    left_out = set(documents[: max(1, round(settings.left_out * len(documents)))])
    taught, asked = ([one for one in lessons if (one.document_id in left_out) is held] for held in (False, True))
    if len(lessons) < LEAST or not taught or not asked:
        return None
    learned, watched = _Batch(taught), _Batch(asked)
    weights = _first(lessons[0].question.shape[0], settings, start)
    moments = [(np.zeros_like(one), np.zeros_like(one)) for one in weights]
    best, step, first = [one.copy() for one in weights], 0, watched.loss(weights, settings)[0]
    least = first
    for now in range(1, settings.max_steps + 1):
        _, gradient = learned.loss(weights, settings)
        for weight, slope, (mean, square) in zip(weights, gradient, moments, strict=True):
            slope += settings.l2 * weight  # the gradient of the pull; the rest is Adam (Kingma and Ba 2015)
            mean += 0.1 * (slope - mean)
            square += 0.001 * (slope**2 - square)
            weight -= settings.lr * (mean / (1 - 0.9**now)) / (np.sqrt(square / (1 - 0.999**now)) + 1e-8)
        loss = watched.loss(weights, settings)[0]
        if loss < least:
            best, step, least = [one.copy() for one in weights], now, loss
        elif now - step >= settings.patience:
            break
    down, up = (np.asarray(one, np.float32) for one in best)
    return Trained(QueryAdapter(down, up), step, first, least)


def decide(pairs: Sequence[Pair]) -> Decision:
    """As for a generator's adapter: a proven gain in nDCG@10 (FRESH), and recall (RECALL) proven not to fall."""
    return gate.decide(pairs, margins=MARGINS, level=LEVEL, guard_level=LEVEL)


def compared(
    asked: Sequence[Asked], candidate: Sequence[tuple[float, float]], incumbent: Sequence[tuple[float, float]]
) -> list[Pair]:
    """nDCG@10 and recall of each held-out question with both, as evidence that repeats no text."""
    return [
        Pair(hashlib.sha256(one.text.encode()).hexdigest()[:16], name, one.right.document_id, ours[at], theirs[at])
        for one, ours, theirs in zip(asked, candidate, incumbent, strict=True)
        for at, name in enumerate((FRESH, RECALL))
    ]


def _first(dimension: int, settings: Settings, start: QueryAdapter | None) -> list[np.ndarray]:
    """In double precision: then the order of summing does not decide what is best."""
    if start is not None:
        return [start.down.astype(float), start.up.astype(float)]
    rng = np.random.default_rng(settings.seed)
    return [rng.normal(0, dimension**-0.5, (dimension, settings.rank)), np.zeros((settings.rank, dimension))]


class _Batch:
    """Lessons as arrays."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._questions = np.stack([one.question for one in lessons]).astype(float)
        self._rights = np.stack([one.right for one in lessons]).astype(float)
        self._weights = np.array([one.weight for one in lessons])
        self._weights /= self._weights.sum()
        near = np.zeros((len(lessons), NEAR, self._questions.shape[1]))
        for row, one in zip(near, lessons, strict=True):
            row[: len(one.near)] = np.stack(one.near) if one.near else 0.0
        self._near, self._no_near = near, np.array([[at >= len(one.near) for at in range(NEAR)] for one in lessons])
        documents = np.array([one.document_id for one in lessons])
        # The other right passages of a document may be right too.
        self._not_wrong = (documents[:, None] == documents[None, :]) & ~np.eye(len(lessons), dtype=bool)

    def loss(self, weights: Sequence[np.ndarray], settings: Settings) -> tuple[float, list[np.ndarray]]:
        """The weighted mean of the lessons' losses, without the pull, and its gradient."""
        down, up = weights
        inner = self._questions @ down
        moved = self._questions + inner @ up
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        moved /= lengths
        rights = np.where(self._not_wrong, -np.inf, moved @ self._rights.T / settings.temperature)
        near = np.where(self._no_near, -np.inf, np.einsum("nd,nmd->nm", moved, self._near) / settings.temperature)
        scores = np.concatenate([rights, near], axis=1)
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        totals = shares.sum(axis=1, keepdims=True)
        losses = np.log(totals[:, 0]) - np.diagonal(scores)
        shares /= totals
        count = len(shares)
        shares[np.arange(count), np.arange(count)] -= 1
        shares *= self._weights[:, None] / settings.temperature
        slope = shares[:, :count] @ self._rights + np.einsum("nm,nmd->nd", shares[:, count:], self._near)
        slope = (slope - (slope * moved).sum(axis=1, keepdims=True) * moved) / lengths
        return float(losses @ self._weights), [self._questions.T @ (slope @ up.T), inner.T @ slope]
