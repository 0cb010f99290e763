"""Answers against what is known to be right (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.answer import Answer
from daemon.citations import MARK, content_words
from daemon.evaluation.retrieval import Looked
from store.types import Passage
from trainers.metrics import exact_match, holds, mean, percentile, token_f1
from trainers.prompt import is_absent

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer against what is known to be right. None where that cannot be said."""

    exact: float
    f1: float
    refused: bool
    grounded: float | None  # share of the answer's content words in what it cites
    citations: tuple[bool, ...]  # of each, whether it is right


def answered(looked: Sequence[Looked], answers: Sequence[Answer]) -> Json:
    """Figures of the answers, of abstention, of citations and of what they cost."""
    judged = [judge(one, answer) for one, answer in zip(looked, answers, strict=True)]
    has_answer = [one for one, of in zip(judged, looked, strict=True) if of.question.answers]
    has_none = [one for one, of in zip(judged, looked, strict=True) if not of.question.answers]
    told = [one for one in has_answer if not one.refused]
    citations = [right for one in has_answer for right in one.citations]
    return {
        "answers": {
            "questions": len(has_answer),
            "exact": mean([one.exact for one in has_answer]),
            "f1": mean([one.f1 for one in has_answer]),
            "groundedness": mean([one.grounded for one in judged if one.grounded is not None]),
            "citation_precision": mean([float(right) for right in citations]),
            "citation_recall": mean([float(any(one.citations)) for one in told]),
        },
        "abstention": {
            "answerable": len(has_answer),
            "unanswerable": len(has_none),
            "false_refusals": mean([float(one.refused) for one in has_answer]),
            "right_refusals": mean([float(one.refused) for one in has_none]),
        },
        "tokens": {
            "prompt": mean([float(one.prompt_tokens) for one in answers]),
            "new": mean([float(one.new_tokens) for one in answers]),
        },
        "latency": {"ask": spread([one.seconds for one in answers])},
    }


def judge(looked: Looked, answer: Answer) -> Judged:
    """A citation is right where its passage is relevant or, where nobody said what is, holds an accepted answer."""
    accepted = looked.question.answers or ()
    text, refused = MARK.sub("", answer.text).strip(), is_absent(answer.text)
    hits = {hit.chunk_id: hit for hit in answer.found.hits}

    def is_right(passage: Passage) -> bool:
        if not looked.question.judges_ranking:
            return holds(passage.text, accepted)
        hit = hits.get(passage.chunk_id)
        return hit is not None and looked.is_right(hit)

    words = set(content_words(text))
    cited = {word for one in answer.citations for word in content_words(one.passage.text)}
    return Judged(
        exact=0.0 if refused else exact_match(text, accepted),
        f1=0.0 if refused else token_f1(text, accepted),
        refused=refused,
        grounded=None if refused or not words else len(words & cited) / len(words),
        citations=tuple(is_right(one.passage) for one in answer.citations),
    )


def spread(seconds: Sequence[float]) -> Json:
    """Median and 95th percentile."""
    return {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95)}
