"""Searching, asking, and saying whether the answer was right."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from datetime import datetime
from typing import Any

from daemon.answer import Answer, Choose, Load, bare, of_head, serving
from daemon.answer import ask as answer_question
from daemon.canary import chosen_for
from daemon.operations import shapes
from daemon.operations.shapes import Depth, Json
from daemon.recording import asked_with, record_answer, record_search
from daemon.runtime import Runtime
from daemon.settings import Settings
from store.errors import NotFound, UsageError
from store.types import Filters, State
from store.when import parse_time

FAULTS = ("unsupported", "wrong", "citation")


def search(
    runtime: Runtime,
    query: str,
    k: Depth | None = None,
    at: str | None = None,
    source: str | None = None,
    domain: str | None = None,
    tag: str | None = None,
    path: str | None = None,
    modified_after: str | None = None,
    modified_before: str | None = None,
    ingested_after: str | None = None,
    ingested_before: str | None = None,
) -> Json:
    """Find chunks, in the head or at a snapshot, version or time."""
    started = time.perf_counter()
    times = (modified_after, modified_before, ingested_after, ingested_before)
    filters = _filters(runtime, source, domain, tag, path, *times)
    k = runtime.settings.retrieval.k if k is None else k
    found = runtime.memory.search(query, k, when=at, filters=filters)
    seconds = time.perf_counter() - started
    retrieval_id = record_search(runtime.memory, query, found, seconds, asked_with(k, filters))
    return {
        **shapes.state(found.state),
        "query_adapter": found.query_adapter,
        "results": [shapes.hit(hit) for hit in found.hits],
        "remarks": list(found.remarks),
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
    path: str | None = None,
    modified_after: str | None = None,
    modified_before: str | None = None,
    ingested_after: str | None = None,
    ingested_before: str | None = None,
    *,
    on_token: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Json:
    """Answer a question from the documents, with citations."""
    times = (modified_after, modified_before, ingested_after, ingested_before)
    filters = _filters(runtime, source, domain, tag, path, *times)
    memory, settings = runtime.memory, runtime.settings
    k = settings.retrieval.k if k is None else k
    asked = asked_with(k, filters, base)
    choose: Choose = bare if base else of_head if at is not None else chosen_for(memory, settings, question)

    def key(state: State, adapter: int | None) -> tuple[Hashable, ...]:
        head = state.head
        return head.generation, head.version, head.query_adapter, adapter, question, k, filters

    state = memory.state(at)
    if kept := runtime.answers.get(key(state, serving(state, settings, choose))):
        if on_token:
            on_token(kept.text)
        kept = replace(kept, found=replace(kept.found, state=state), seconds=0.0)
        return _told(record_answer(memory, settings, question, kept, asked), settings)

    def use(load: Load, stop: Callable[[], bool]) -> Answer:
        how: dict[str, Any] = {"k": k, "when": at, "filters": filters, "choose": choose}
        return answer_question(memory, load, settings, question, **how, on_token=on_token, stop=stop)

    answer = record_answer(memory, settings, question, runtime.with_model(use, stop), asked)
    if answer.retrieval_id and not answer.found.remarks:
        runtime.answers.put(key(answer.found.state, answer.adapter), answer)
    return _told(answer, settings)


def _told(answer: Answer, settings: Settings) -> Json:
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
        "experts": dict(answer.experts),
        "query_adapter": answer.found.query_adapter,
        "endpoint": settings.generator.endpoint or None,
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


def _filters(
    runtime: Runtime, source: str | None, domain: str | None, tag: str | None, path: str | None, *times: str | None
) -> Filters:
    names = [one.name for one in runtime.settings.sources]
    if source is not None and source not in names:
        raise NotFound(f"no source {source!r}; there are: {', '.join(names) or 'none'}")
    now = runtime.memory.clock()
    return Filters(source, domain, tag, path, *(_time(one, now) for one in times))


def _time(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    if (found := parse_time(text, now)) is None:
        raise UsageError(f"{text!r} is no time; write 2026-11-22T10:00, 'yesterday' or '2 hours ago'")
    return found
