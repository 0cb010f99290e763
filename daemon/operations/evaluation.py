"""What evaluations measured, old questions asked again, and answers for a person to judge."""

from __future__ import annotations

from typing import Any

from daemon import replaying
from daemon.operations import shapes
from daemon.operations.shapes import Json
from daemon.runtime import Runtime
from store.errors import NotFound, UsageError
from store.memory import Memory
from store.types import Retrieval


def eval_list(runtime: Runtime) -> Json:
    """The evaluations, newest first."""
    return {"evaluations": [shapes.evaluation(one) for one in runtime.memory.journal.evaluations()]}


def eval_show(runtime: Runtime, evaluation: int, against: int | None = None) -> Json:
    """One evaluation, and another to compare it with."""
    journal = runtime.memory.journal
    other = None if against is None else journal.evaluation(against)
    return shapes.compared(journal.evaluation(evaluation), other)


def replay(runtime: Runtime, retrieval: str) -> Json:
    """Ask an old question again, of the version that it saw and of the head, and say what differs and why."""
    return replaying.replay(runtime, retrieval)


def unjudged(runtime: Runtime, limit: int = 20) -> Json:
    """The latest answers that nobody has judged, with the passages that they were made from; newest first."""
    if limit < 1:
        raise UsageError(f"the limit is {limit}; ask for at least 1 answer")
    return {"answers": [_shown(runtime.memory, one) for one in runtime.memory.journal.unjudged(limit)]}


def _shown(memory: Memory, one: Retrieval) -> Json:
    cited: dict[str, Any] = {chunk_id: number for number, chunk_id in one.extra.get("citations", ())}
    ids = [str(hit["chunk_id"]) for hit in one.hits]
    try:
        hits = memory.by_id(ids, memory.past.at_move(one.move).head)
    except NotFound:  # the version is pruned: what the head still has of it
        hits = memory.by_id(ids)
    return {
        "retrieval_id": one.retrieval_id,
        "at": one.at.isoformat(),
        "question": one.query,
        "answer": one.answer,
        "adapter": one.extra.get("adapter"),
        "passages": [
            {"chunk_id": hit.chunk_id, "cited": cited.get(hit.chunk_id), "location": hit.location, "text": hit.text}
            for hit in hits
        ],
        "gone": len(ids) - len(hits),
    }
