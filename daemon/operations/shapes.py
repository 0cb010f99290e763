"""The dataclasses of the store as the JSON that scripts rely on (pure)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from store.types import Document, Hit, Run, Snapshot, State

Json = dict[str, Any]


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
        "generation": one.head.generation,
        "config": one.config,
        "reason": one.reason,
    }


def run(run: Run) -> Json:
    shown = {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in asdict(run).items()}
    shown["seconds"] = (run.finished_at - run.started_at).total_seconds() if run.finished_at else None
    return shown
