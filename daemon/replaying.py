"""An old question, asked again: of the version that it saw, and of the head."""

from __future__ import annotations

from typing import Any

from daemon.answer import Answer, Choose, ask, bare, of_head
from daemon.canary import chosen_for
from daemon.operations import shapes
from daemon.recording import filters_of
from daemon.runtime import Runtime
from store.difference import Difference, Moved, movements
from store.errors import NotFound
from store.memory import Found, Memory
from store.types import Retrieval, State

Json = dict[str, Any]


def replay(runtime: Runtime, retrieval_id: str) -> Json:
    """What was found and answered, what the same state gives now, what the head gives, and what differs and why.

    Both are asked with the settings in force; the same state with the adapter that answered, unless that was retired
    since. Raises NotFound when the version that the question saw was pruned.
    """
    memory = runtime.memory
    logged = memory.journal.retrieval(retrieval_id)
    try:
        then = memory.past.at_move(logged.move)
    except NotFound as error:
        raise NotFound(
            f"retrieval {retrieval_id} of {logged.at:%Y-%m-%d %H:%M:%S} UTC cannot be replayed: {error}"
        ) from None
    now = memory.state()
    again = [
        _ask(runtime, logged, state, choose)
        for state, choose in ((then, _as_answered(memory, logged)), (now, _as_asked(runtime, logged)))
    ]
    differs = memory.past.difference(then, now)
    moved = movements(again[0][0].hits, again[1][0].hits)
    recorded = [hit["chunk_id"] for hit in logged.hits]
    return {
        "retrieval_id": retrieval_id,
        "at": logged.at.isoformat(),
        "question": logged.query,
        "mode": logged.mode,
        "recorded": {
            "answer": logged.answer,
            **{name: logged.extra.get(name) for name in ("adapter", "query_adapter")},
        },
        "then": _told(*again[0]),
        "now": _told(*again[1]),
        "same_hits": recorded == [hit.chunk_id for hit in again[0][0].hits],
        "same_answer": logged.answer == (again[0][1].text if again[0][1] else None),
        "results": [{**shapes.moved(one), "why": _why(one, differs)} for one in moved],
        "adapter": shapes.pair((again[0][1] and again[0][1].adapter, again[1][1] and again[1][1].adapter)),
        "query_adapter": shapes.pair((again[0][0].query_adapter, again[1][0].query_adapter)),
        "generation": shapes.pair(differs.generation),
        "settings": {key: shapes.pair(values) for key, values in differs.settings.items()},
    }


def _ask(runtime: Runtime, logged: Retrieval, state: State, choose: Choose) -> tuple[Found, Answer | None]:
    k = int(logged.extra.get("k") or len(logged.hits) or runtime.settings.retrieval.k)
    filters = filters_of(logged.extra.get("filters", {}))
    if logged.mode == "search":
        return runtime.memory.search(logged.query, k, when=state, filters=filters), None
    answer: Answer = runtime.with_model(
        lambda load, stop: ask(
            *(runtime.memory, load, runtime.settings, logged.query),
            k=k,
            when=state,
            filters=filters,
            choose=choose,
            stop=stop,
        )
    )
    return answer.found, answer


def _as_answered(memory: Memory, logged: Retrieval) -> Choose:
    """The adapter that answered, which need not be the state's: a canary leaves questions to the one before."""
    adapter = logged.extra.get("adapter")
    retired = adapter is not None and adapter not in memory.journal.adapters()
    return of_head if retired else lambda _state: adapter


def _as_asked(runtime: Runtime, logged: Retrieval) -> Choose:
    """What answers when the head is asked as it was."""
    if logged.mode == "endpoint" or logged.extra.get("base"):
        return bare
    return chosen_for(runtime.memory, runtime.settings, logged.query)


def _told(found: Found, answer: Answer | None) -> Json:
    told: Json = {**shapes.state(found.state), "results": [shapes.hit(hit) for hit in found.hits]}
    if answer is not None:
        cited = [{"number": one.number, "location": one.passage.location} for one in answer.citations]
        told |= {"answer": answer.text, "citations": cited, "remarks": list(answer.remarks), "adapter": answer.adapter}
    return told


def _why(one: Moved, differs: Difference) -> str:
    """What happened to a result's document between the two states; "" where its rank is the same."""
    if one.rank[0] == one.rank[1]:
        return ""
    hit = one.second or one.first
    assert hit is not None
    for word, documents in (("added", differs.added), ("removed", differs.removed)):
        if hit.document_id in {each.document_id for each in documents}:
            return f"document {word}"
    for word, pairs in (("changed", differs.changed), ("moved", differs.moved), ("relabelled", differs.relabelled)):
        if hit.document_id in {each.document_id for _, each in pairs}:
            return f"document {word}"
    return "others came or went" if differs.query_adapter[0] == differs.query_adapter[1] else "another query adapter"
