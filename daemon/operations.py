"""What can be asked of a memory, one function each: the API and the command line offer these and nothing else.

Arguments and results are JSON. Functions below `READ` change nothing but the log of retrievals; those below `WRITE`
need the writer's lock.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daemon.answer import Answer, record_search
from daemon.answer import ask as answer_question
from daemon.doctor import doctor
from daemon.runtime import Runtime
from store.errors import NotFound, UsageError
from store.types import Document, Filters, Hit, Snapshot, State

Json = dict[str, Any]


# --- reading ---------------------------------------------------------------------------------------------------


def search(
    runtime: Runtime,
    query: str,
    k: int | None = None,
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
    retrieval_id = record_search(runtime.memory, query, found, seconds)
    return {
        **_state(found.state),
        "results": [_hit(hit) for hit in found.hits],
        "retrieval_id": retrieval_id,
        "seconds": round(seconds, 4),
    }


def ask(
    runtime: Runtime,
    question: str,
    k: int | None = None,
    at: str | None = None,
    base: bool = False,
    source: str | None = None,
    domain: str | None = None,
    tag: str | None = None,
) -> Json:
    """Answer a question from the documents, with citations."""
    filters = _filters(runtime, source, domain, tag)
    answer: Answer = runtime.with_model(
        lambda load: answer_question(
            runtime.memory, load, runtime.settings, question, k=k, when=at, filters=filters, base=base
        )
    )
    return {
        **_state(answer.found.state),
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
        "results": [_hit(hit) for hit in answer.found.hits],
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": answer.new_tokens,
        "seconds": round(answer.seconds, 3),
    }


def feedback(runtime: Runtime, retrieval: str, verdict: str, answer: str | None = None) -> Json:
    """Say whether an answer was right, and what would have been."""
    if verdict not in ("good", "bad"):
        raise UsageError(f"the verdict is {verdict!r}; say 'good' or 'bad'")
    runtime.memory.journal.feedback(retrieval, verdict, answer)
    return {"retrieval_id": retrieval, "feedback": verdict, "correction": answer}


def documents(runtime: Runtime, failed: bool = False, held: bool = False) -> Json:
    """What is remembered, what failed, what is held."""
    listed = runtime.memory.documents()
    holds = {hold.document_id: hold for hold in runtime.memory.holds()}
    if failed:
        listed = [one for one in listed if one.error]
    if held:
        listed = [one for one in listed if one.document_id in holds]
    return {
        "documents": [
            _document(one) | ({"held": holds[one.document_id].reason} if one.document_id in holds else {})
            for one in listed
        ]
    }


def show(runtime: Runtime, document: str, history: bool = False) -> Json:
    """One document: its chunks, and its revisions if asked."""
    found = runtime.memory.find(document)
    shown = _document(found)
    shown["passages"] = [_hit(hit) for hit in runtime.memory.chunks([found.document_id])]
    if history:
        shown["history"] = [
            {
                "content": one.content,
                "path": one.path,
                "since": one.since,
                "until": one.until,
                "modified_at": one.modified_at.isoformat(),
                "ingested_at": one.ingested_at.isoformat(),
                "chunks": one.chunks,
            }
            for one in runtime.memory.history(found.document_id)
        ]
    return shown


def snapshot_list(runtime: Runtime) -> list[Json]:
    """All snapshots, oldest first."""
    return [_snapshot(one) for one in runtime.memory.snapshots()]


def snapshot_show(runtime: Runtime, name: str) -> Json:
    """One snapshot, and what returning to it would change."""
    plan = runtime.memory.plan_rollback(name)
    return {**_snapshot(runtime.memory.named(name)), "rollback": asdict(plan)}


def rollback_plan(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """What a rollback would do, doing nothing."""
    return {"to": snapshot, "dry_run": True, **asdict(runtime.memory.plan_rollback(snapshot, only))}


def refresh_list(runtime: Runtime) -> Json:
    """The learning cycles, newest first."""
    return {"runs": [_run(one) for one in runtime.memory.journal.runs()]}


def refresh_show(runtime: Runtime, run: int) -> Json:
    """One learning cycle with its metrics and evidence."""
    return _run(runtime.memory.journal.run(run))


# --- writing ---------------------------------------------------------------------------------------------------


def sync(
    runtime: Runtime,
    paths: list[str] | None = None,
    dry_run: bool = False,
    confirm_deletes: bool = False,
    retry: bool = False,
) -> Json:
    """Bring memory in step with the folders, now."""
    started = time.perf_counter()
    below = tuple(str(Path(path).absolute()) for path in paths or ())
    sources = [
        source
        for source in runtime.settings.sources
        if not below or any(_overlap(Path(path), source.path) for path in below)
    ]
    if below and not sources:
        raise UsageError(f"{below[0]} lies in no source; `memex config show` lists the sources")
    if dry_run:
        return _dry_run(runtime, sources, started)
    if retry:
        runtime.memory.retry(below or None)
    report = runtime.synchronise(sources, below=below, confirm=confirm_deletes)
    counts = runtime.memory.counts()
    return {
        **{key: getattr(report, key) for key in ("added", "changed", "removed", "moved", "unchanged", "failed")},
        "chunks_total": counts[1],
        "chunks_embedded": report.chunks_embedded,
        "alarms": {name: why for name, why in runtime.alarms.items() if name in {one.name for one in sources}},
        "seconds": round(time.perf_counter() - started, 3),
        "parse_seconds": round(report.parse_seconds, 3),
        "embed_seconds": round(report.embed_seconds, 3),
        "commit_seconds": round(report.commit_seconds, 3),
    }


def snapshot_create(runtime: Runtime, name: str | None = None, reason: str = "by hand") -> Json:
    """Name the state that serves now."""
    return _snapshot(runtime.memory.snapshot(name, reason))


def snapshot_delete(runtime: Runtime, name: str) -> Json:
    """Delete a snapshot's name; what it held may be pruned."""
    runtime.memory.delete_snapshot(name)
    return {"deleted": name}


def rollback(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """Return the head to a snapshot; the state before is kept as a snapshot of its own."""
    started = time.perf_counter()
    done = runtime.memory.roll_back(snapshot, only)
    return {
        "from": done.safety,
        "to": done.to,
        "version": done.head.version,
        "adapter": done.head.adapter,
        "held": done.held,
        "seconds": round(time.perf_counter() - started, 4),
    }


def release(runtime: Runtime, paths: list[str] | None = None, everything: bool = False) -> Json:
    """Let held content back in: of these documents or below these folders, or all of it."""
    if bool(paths) == everything:
        raise UsageError("name the documents to release, or say --all")
    holds = runtime.memory.holds()
    chosen = [hold for hold in holds if everything or any(_names(path, hold.path) for path in paths or ())]
    if not everything and not chosen:
        raise NotFound(f"nothing held at {', '.join(paths or ())}; `memex documents --held` lists what is")
    runtime.memory.release([hold.document_id for hold in chosen])
    report = runtime.synchronise(list(runtime.settings.sources))
    return {"released": [hold.path for hold in chosen], "chunks_embedded": report.chunks_embedded}


READ = {
    one.__name__: one
    for one in (
        *(search, ask, feedback, documents, show, snapshot_list, snapshot_show),
        *(rollback_plan, refresh_list, refresh_show, doctor),
    )
}
WRITE = {one.__name__: one for one in (sync, snapshot_create, snapshot_delete, rollback, release)}


# --- below -----------------------------------------------------------------------------------------------------


def _filters(runtime: Runtime, source: str | None, domain: str | None, tag: str | None) -> Filters:
    names = [one.name for one in runtime.settings.sources]
    if source is not None and source not in names:
        raise NotFound(f"no source {source!r}; there are: {', '.join(names) or 'none'}")
    return Filters(source, domain, tag)


def _dry_run(runtime: Runtime, sources: list[Any], started: float) -> Json:
    found = [runtime.differences(source) for source in sources]
    return {
        "dry_run": True,
        "dirty": [runtime.printable(one.name, path) for one, f in zip(sources, found, strict=True) for path in f.dirty],
        "missing": [known.place.path for f in found for known in f.missing],
        "alarms": {one.name: f.alarm for one, f in zip(sources, found, strict=True) if f.alarm},
        "unchanged": sum(f.unchanged for f in found),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _names(asked: str, path: str) -> bool:
    absolute = str(Path(asked).absolute())
    return path == absolute or path.startswith(absolute.rstrip("/") + "/") or path.endswith("/" + asked.lstrip("/"))


def _state(state: State) -> Json:
    return {
        "version": state.head.version,
        "snapshot": state.snapshot,
        "generation": state.head.generation,
        "as_of": state.head.at.isoformat(),
    }


def _hit(hit: Hit) -> Json:
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


def _document(one: Document) -> Json:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in asdict(one).items()}


def _snapshot(one: Snapshot) -> Json:
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


def _run(run: Any) -> Json:
    shown = {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in asdict(run).items()}
    shown["seconds"] = (run.finished_at - run.started_at).total_seconds() if run.finished_at else None
    return shown
