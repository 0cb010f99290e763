"""What memory holds: bringing it in step with the folders, listing it, letting held content back in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from daemon.operations import shapes
from daemon.operations.shapes import Json
from daemon.runtime import Runtime
from store.errors import NotFound, UsageError


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
        runtime.write(lambda: runtime.memory.retry(below or None))
    report = runtime.synchronise(sources, below=below, confirm=confirm_deletes)
    counts = runtime.memory.counts()
    return {
        **{key: getattr(report, key) for key in ("added", "changed", "removed", "moved", "unchanged", "failed")},
        "chunks_total": counts[1],
        "chunks_embedded": report.chunks_embedded,
        "alarms": dict(runtime.alarms),
        "seconds": round(time.perf_counter() - started, 3),
        "parse_seconds": round(report.parse_seconds, 3),
        "embed_seconds": round(report.embed_seconds, 3),
        "commit_seconds": round(report.commit_seconds, 3),
    }


def documents(runtime: Runtime, failed: bool = False, held: bool = False, at: str | None = None) -> Json:
    """What is remembered, what failed, what is held; or what a past state held."""
    if at is not None:
        if failed or held:
            raise UsageError("what failed or is held is known of now only; leave out --at")
        state = runtime.memory.state(at)
        return {
            **shapes.state(state),
            "documents": [shapes.document(one) for one in runtime.memory.past.documents(state)],
        }
    listed = runtime.memory.documents()
    holds = {hold.document_id: hold for hold in runtime.memory.holds()}
    if failed:
        listed = [one for one in listed if one.error]
    if held:
        listed = [one for one in listed if one.document_id in holds]
    return {
        "documents": [
            shapes.document(one) | ({"held": holds[one.document_id].reason} if one.document_id in holds else {})
            for one in listed
        ]
    }


def show(runtime: Runtime, document: str, history: bool = False, at: str | None = None) -> Json:
    """One document, now or in a past state: its chunks, and its revisions if asked."""
    memory = runtime.memory
    state = memory.state(at)
    found = memory.find(document) if at is None else memory.past.find(document, state)
    shown = shapes.document(found) if at is None else {**shapes.state(state), **shapes.document(found)}
    shown["passages"] = [shapes.hit(hit) for hit in memory.chunks([found.document_id], state.head)]
    if history:
        shown["history"] = [shapes.served(one) for one in memory.past.history(found.document_id)]
    return shown


def show_diff(runtime: Runtime, document: str, first: str, second: str | None = None) -> Json:
    """What changed from one revision of a document to another: each a number of its history, or a WHEN."""
    found = runtime.memory.find(document)
    compared = runtime.memory.past.diff(found.document_id, first, second)
    return {
        "document_id": found.document_id,
        "from": shapes.served(compared.first),
        "to": shapes.served(compared.second),
        "diff": list(compared.lines),
    }


def release(runtime: Runtime, paths: list[str] | None = None, everything: bool = False) -> Json:
    """Let held content back in: of these documents or below these folders, or all of it."""
    if bool(paths) == everything:
        raise UsageError("name the documents to release, or say --all")
    holds = runtime.memory.holds()
    chosen = [hold for hold in holds if everything or any(_names(path, hold.path) for path in paths or ())]
    if not everything and not chosen:
        raise NotFound(f"nothing held at {', '.join(paths or ())}; `memex documents --held` lists what is")
    runtime.write(lambda: runtime.memory.release([hold.document_id for hold in chosen]))
    report = runtime.synchronise(list(runtime.settings.sources))
    return {"released": [hold.path for hold in chosen], "chunks_embedded": report.chunks_embedded}


def forget(runtime: Runtime, document: str) -> Json:
    """Remove a document from all history, and retire the adapters that learned from it."""
    started = time.perf_counter()
    found = runtime.memory.find(document)
    contents = {one.revision.content for one in runtime.memory.past.history(found.document_id)}
    copies = [
        one.place.path
        for one in runtime.memory.known_with(sorted(contents))
        if one.live in contents and one.document_id != found.document_id
    ]
    done = runtime.memory.forget([found.document_id])
    runtime.answers.drop()
    return {
        "document_id": found.document_id,
        "path": found.path,
        "still_on_disk": any(one.document_id == found.document_id for one in runtime.memory.holds()),
        "copies": sorted(copies),
        "snapshots": done.snapshots,
        "retrievals": done.retrievals,
        "examples": done.examples,
        "adapters": list(done.adapters),
        "adapter": done.serving,
        "query_adapters": list(done.query_adapters),
        "query_adapter": done.serving_query,
        "seconds": round(time.perf_counter() - started, 3),
    }


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
