"""Searching, asking, and saying whether the answer was right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from daemon.answer import Answer, asked_with, record_search
from daemon.answer import ask as answer_question
from daemon.operations import shapes
from daemon.operations.shapes import Depth, Json
from daemon.runtime import Runtime
from store.errors import NotFound, UsageError
from store.types import Filters
from trainers.model import LanguageModel

FAULTS = ("unsupported", "wrong", "citation")


def search(
    runtime: Runtime,
    query: str,
    k: Depth | None = None,
    at: str | None = None,
    source: str | None = None,
    domain: str | None = None,
    tag: str | None = None,
) -> Json:
    """Find chunks, in the head or at a snapshot, version or time."""
    started = time.perf_counter()
    filters = _filters(runtime, source, domain, tag)
    k = runtime.settings.retrieval.k if k is None else k
    found = runtime.memory.search(query, k, when=at, filters=filters)
    seconds = time.perf_counter() - started
    retrieval_id = record_search(runtime.memory, query, found, seconds, asked_with(k, filters))
    return {
        **shapes.state(found.state),
        "results": [shapes.hit(hit) for hit in found.hits],
        "retrieval_id": retrieval_id,
        "seconds": round(seconds, 4),
    }


def ask(
    runtime: Runtime,
    question: str,
    k: Depth | None = None,
    at: str | None = None,
    base: bool = False,
    source: str | None = None,
    domain: str | None = None,
    tag: str | None = None,
    *,
    on_token: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Json:
    """Answer a question from the documents, with citations."""
    filters = _filters(runtime, source, domain, tag)

    def use(load: Callable[[], LanguageModel], stop: Callable[[], bool]) -> Answer:
        how: dict[str, Any] = {"k": k, "when": at, "filters": filters, "base": base}
        return answer_question(runtime.memory, load, runtime.settings, question, **how, on_token=on_token, stop=stop)

    answer: Answer = runtime.with_model(use, stop)
    return {
        **shapes.state(answer.found.state),
        "answer": answer.text,
        "citations": [
            {
                "number": citation.number,
                "chunk_id": citation.passage.chunk_id,
                "document_id": citation.passage.document_id,
                "location": citation.passage.location,
                "quote": citation.quote,
            }
            for citation in answer.citations
        ],
        "remarks": list(answer.remarks),
        "adapter": answer.adapter,
        "retrieval_id": answer.retrieval_id,
        "results": [shapes.hit(hit) for hit in answer.found.hits],
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "seconds": round(answer.seconds, 3),
    }


def feedback(
    runtime: Runtime, retrieval: str, verdict: str, answer: str | None = None, fault: str | None = None
) -> Json:
    """Say whether an answer was right, what is bad about it, and what would have been right."""
    if verdict not in ("good", "bad"):
        raise UsageError(f"the verdict is {verdict!r}; say 'good' or 'bad'")
    if fault is not None and (verdict != "bad" or fault not in FAULTS):
        raise UsageError(f"the fault is {fault!r}; a bad answer has one of these: {', '.join(FAULTS)}")
    runtime.memory.journal.feedback(retrieval, verdict, answer, fault)
    return {"retrieval_id": retrieval, "feedback": verdict, "fault": fault, "correction": answer}


def _filters(runtime: Runtime, source: str | None, domain: str | None, tag: str | None) -> Filters:
    names = [one.name for one in runtime.settings.sources]
    if source is not None and source not in names:
        raise NotFound(f"no source {source!r}; there are: {', '.join(names) or 'none'}")
    return Filters(source, domain, tag)
