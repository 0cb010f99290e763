"""The dataclasses of the store as the JSON that scripts rely on (pure)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from store.difference import Difference, Moved
from store.maintenance import Upkeep
from store.past import Served
from store.types import Document, Evaluation, Hit, Run, Snapshot, State

Json = dict[str, Any]
Depth = Annotated[int, Field(ge=1, le=1000)]  # how many chunks may be asked for
Number = Annotated[int, Field(ge=1, le=2**63 - 1)]  # of a run; SQLite holds no larger one


def state(state: State) -> Json:
    return {
        "version": state.head.version,
        "snapshot": state.snapshot,
        "generation": state.head.generation,
        "as_of": state.head.at.isoformat(),
    }


def hit(hit: Hit) -> Json:
    return {
        "chunk_id": hit.chunk_id,
        "document_id": hit.document_id,
        "source": hit.source,
        "path": hit.path,
        "location": hit.location,
        "position": hit.position,
        "headings": list(hit.headings),
        "page": hit.page,
        "text": hit.text,
        "score": round(hit.score, 6),
        "similarity": round(hit.similarity, 6),
        "places": list(hit.places),
        "domain": hit.domain,
        "tags": list(hit.tags),
        "revision": hit.revision,
        "modified_at": hit.modified_at.isoformat(),
        "ingested_at": hit.ingested_at.isoformat(),
        "embedded_at": hit.embedded_at.isoformat(),
    }


def document(one: Document) -> Json:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in asdict(one).items()}


def snapshot(one: Snapshot) -> Json:
    return {
        "name": one.name,
        "version": one.head.version,
        "created_at": one.created_at.isoformat(),
        "documents": one.documents,
        "chunks": one.chunks,
        "adapter": one.head.adapter,
        "query_adapter": one.head.query_adapter,
        "generation": one.head.generation,
        "config": one.config,
        "reason": one.reason,
        "pinned": one.pinned,
    }


def served(one: Served) -> Json:
    return {
        "number": one.number,
        "content": one.revision.content,
        "path": one.revision.path,
        "since": one.revision.since,
        "until": one.revision.until,
        "since_at": one.since_at.isoformat(),
        "until_at": one.until_at.isoformat() if one.until_at else None,
        "modified_at": one.revision.modified_at.isoformat(),
        "ingested_at": one.revision.ingested_at.isoformat(),
        "chunks": one.revision.chunks,
        "reason": one.reason,
        "version": one.version,
    }


def difference(one: Difference) -> Json:
    """Documents of each group by path; of those in both states the path is the second's."""
    return {
        "added": [{"document_id": r.document_id, "path": r.path, "chunks": r.chunks} for r in one.added],
        "removed": [{"document_id": r.document_id, "path": r.path, "chunks": r.chunks} for r in one.removed],
        "changed": [
            {"document_id": b.document_id, "path": b.path, "was": a.path, "chunks": pair((a.chunks, b.chunks))}
            for a, b in one.changed
        ],
        "moved": [{"document_id": b.document_id, "from": a.path, "to": b.path} for a, b in one.moved],
        "relabelled": [
            {"document_id": b.document_id, "path": b.path, "from": asdict(a.labels), "to": asdict(b.labels)}
            for a, b in one.relabelled
        ],
        "adapter": pair(one.adapter),
        "query_adapter": pair(one.query_adapter),
        "generation": pair(one.generation),
        "settings": {key: pair(values) for key, values in one.settings.items()},
    }


def pair(values: tuple[Any, Any]) -> Json:
    return {"from": values[0], "to": values[1]}


def moved(one: Moved) -> Json:
    hit = one.second or one.first
    assert hit is not None
    return {
        "rank": pair(one.rank),
        "score": pair((one.first and round(one.first.score, 6), one.second and round(one.second.score, 6))),
        "document_id": hit.document_id,
        "location": hit.location,
        "text": hit.text,
    }


def evaluation(one: Evaluation) -> Json:
    return {**asdict(one), "at": one.at.isoformat()}


def compared(one: Evaluation, other: Evaluation | None) -> Json:
    """An evaluation, and under `against` the one that it is compared with."""
    return {**evaluation(one), "against": None if other is None else evaluation(other)}


def run(run: Run) -> Json:
    shown = {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in asdict(run).items()}
    shown["seconds"] = (run.finished_at - run.started_at).total_seconds() if run.finished_at else None
    return shown


def upkeep(done: Upkeep) -> Json:
    shape = asdict(done.shape)
    return {"at": done.at.isoformat(), "seconds": round(done.seconds, 3), "pruned": done.pruned, **shape}
