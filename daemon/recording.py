"""Keeping what was asked, found and answered as retrievals, and reading back what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from daemon.answer import Answer
from daemon.settings import Settings
from store.memory import Found, Memory, new_id
from store.types import Filters, Retrieval

NOT_RECORDED = "not recorded: the disk of the state directory refuses, or something was forgotten meanwhile"


def record_answer(
    memory: Memory, settings: Settings, question: str, answer: Answer, asked: dict[str, object]
) -> Answer:
    """The answer with the id of its retrieval, or with a remark if that was not kept. `asked`: see `asked_with`."""
    extra = {
        **asked,
        "adapter": answer.adapter,
        **({"experts": dict(answer.experts)} if answer.experts else {}),
        "query_adapter": answer.found.query_adapter,
        "grounded": answer.grounded,
        "citations": [[citation.number, citation.passage.chunk_id] for citation in answer.citations],
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "seconds": round(answer.seconds, 3),
    }
    mode = "endpoint" if settings.generator.endpoint else "base" if answer.adapter is None else "adapter"
    if retrieval_id := _record(memory, question, mode, answer.found, extra, answer.text):
        return replace(answer, retrieval_id=retrieval_id)
    return replace(answer, retrieval_id=None, remarks=(*answer.remarks, NOT_RECORDED))


def record_search(memory: Memory, query: str, found: Found, seconds: float, asked: dict[str, object]) -> str | None:
    """The id of the retrieval that a search is kept as, None if it could not be kept."""
    extra = {**asked, "query_adapter": found.query_adapter, "seconds": round(seconds, 4)}
    return _record(memory, query, "search", found, extra)


def asked_with(k: int, filters: Filters, base: bool = False) -> dict[str, object]:
    """What it takes beside the question to ask again, as a retrieval keeps it; `filters_of` reads the filters."""
    narrowed = {key: one for key, one in asdict(filters).items() if one}
    return {
        "k": k,
        "filters": {key: one.isoformat() if isinstance(one, datetime) else one for key, one in narrowed.items()},
        **({"base": True} if base else {}),
    }


def filters_of(kept: Mapping[str, str]) -> Filters:
    """What `asked_with` wrote."""
    given: dict[str, Any] = {
        key: datetime.fromisoformat(one) if key.endswith(("_after", "_before")) else one for key, one in kept.items()
    }
    return Filters(**given)


def _record(
    memory: Memory, query: str, mode: str, found: Found, extra: dict[str, object], answer: str | None = None
) -> str | None:
    retrieval = Retrieval(
        retrieval_id=new_id(),
        at=memory.clock(),
        query=query,
        mode=mode,
        move=found.state.head.move,
        hits=tuple(
            {"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": round(hit.score, 6)}
            for hit in found.hits
        ),
        answer=answer,
        extra=extra,
    )
    return retrieval.retrieval_id if memory.journal.record(found.state.head, retrieval) else None
