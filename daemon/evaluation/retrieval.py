"""What retrieval finds for questions whose right passages are known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daemon.evaluation.questions import Question
from store.memory import Memory
from store.types import Hit, State
from trainers.metrics import calibrate, judge_threshold, mean, ndcg, precision, recall, reciprocal_rank

CUTS = (1, 3, 5, 10)
DEEPEST = 80  # chunks that are looked at for ten documents

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Looked:
    """What retrieval found for a question."""

    question: Question
    hits: tuple[Hit, ...]
    ranking: tuple[str, ...]
    relevant: dict[str, float]
    seconds: float

    def is_right(self, hit: Hit) -> bool:
        return key_of(hit, self.question) in self.relevant

    @property
    def best(self) -> float:
        return max((hit.similarity for hit in self.hits), default=-1.0)

    @property
    def best_wrong(self) -> float:
        return max((hit.similarity for hit in self.hits if not self.is_right(hit)), default=-1.0)


def look(memory: Memory, question: Question, state: State) -> Looked:
    """Search until ten different documents (or passages) are found; the first search is timed."""
    k, seconds = max(CUTS), 0.0
    while True:
        started = time.perf_counter()
        hits = memory.search(question.text, k, when=state).hits
        seconds = seconds or time.perf_counter() - started
        ranking = tuple(dict.fromkeys(key_of(hit, question) for hit in hits))
        if len(ranking) >= max(CUTS) or len(hits) < k or k >= DEEPEST:
            break
        k *= 2
    relevant = {f"document {path}": grade for path, grade in (question.documents or {}).items()}
    relevant |= {f"passage {text}": 1.0 for text in question.passages}
    return Looked(question, hits, ranking, relevant, seconds)


def key_of(hit: Hit, question: Question) -> str:
    """What a chunk counts as: the relevant thing that it shows; else its document, or itself where passages count."""
    if hit.path in (question.documents or {}):
        return f"document {hit.path}"
    text = _squeezed(hit.text)
    for passage in question.passages:
        if _squeezed(passage) in text or _squeezed(_body(hit)) in _squeezed(passage):
            return f"passage {passage}"
    return f"chunk {hit.chunk_id}" if question.passages else f"document {hit.path}"


def ranked(looked: Sequence[Looked]) -> Json:
    """Means over the questions whose ranking can be judged, at each cut."""
    judged = [one for one in looked if one.question.judges_ranking]
    measures = {"precision": precision, "recall": recall, "mrr": reciprocal_rank, "ndcg": ndcg}
    return {
        "questions": len(judged),
        **{
            name: {str(k): mean([metric(one.ranking, one.relevant, k) for one in judged]) for k in CUTS}
            for name, metric in measures.items()
        },
    }


def threshold(looked: Sequence[Looked], now: float) -> Json:
    """How `retrieval.min_score` tells questions that have an answer from those that have none, now and at its best.

    Where no question is known to have none, each is taken again as if its right passages were not there.
    """
    has_answer = [one for one in looked if one.question.answers or one.question.judges_ranking]
    has_none = [one for one in looked if one.question.answers == () and not one.question.judges_ranking]
    answerable = [one.best for one in has_answer]
    left_out = not has_none
    unanswerable = (
        [one.best_wrong for one in has_answer if one.question.judges_ranking]
        if left_out
        else [one.best for one in has_none]
    )
    best = calibrate(answerable, unanswerable)
    return {
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "left_out": left_out,
        "now": asdict(judge_threshold(now, answerable, unanswerable)) if answerable and unanswerable else None,
        "best": None if best is None else asdict(best),
    }


def _body(hit: Hit) -> str:
    """A chunk's text without the heading that it begins with."""
    heading, blank, rest = hit.text.partition("\n\n")
    return rest if blank and hit.headings and hit.headings[-1].strip().startswith(heading) else hit.text


def _squeezed(text: str) -> str:
    return " ".join(text.split()).lower()
