"""What is searched, but never learned from; and which adapters did, before it was put there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from daemon.wording import several
from store.errors import Corrupt
from store.globs import glob_pattern
from store.memory import Memory
from store.types import Example, Head, Hit, Retrieval, Revision
from trainers.lora import read_card


class Quarantine:
    """The documents that `refresh.quarantine` names by their source, a tag or their path; those that are gone, by what
    they were last. Of a document that nothing is known of any more nothing is learned either.

    `only` names the documents that will be asked for, where they are few."""

    def __init__(self, memory: Memory, patterns: Sequence[str], only: Iterable[str] | None = None) -> None:
        self._patterns = patterns
        self._memory = memory
        live = memory.live_at(memory.head(), only) if patterns else {}
        self._held = {document_id: self._names(revision) for document_id, revision in live.items()}

    def holds(self, document_id: str) -> bool:
        if not self._patterns:
            return False
        if document_id not in self._held:
            served = self._memory.past.history(document_id)
            self._held[document_id] = not served or self._names(served[-1].revision)
        return self._held[document_id]

    def outside(self, hits: Iterable[Hit]) -> list[Hit]:
        """Those that are of other documents."""
        return [hit for hit in hits if not self.holds(hit.document_id)]

    def touches_example(self, example: Example) -> bool:
        """Whether it was made from one of them, or shows one."""
        return any(map(self.holds, {example.document_id, *(passage.document_id for passage in example.passages)}))

    def touches_answer(self, retrieval: Retrieval) -> bool:
        """Whether its answer was taken from one of them; a person's correction is taken from none."""
        documents = {hit["chunk_id"]: hit["document_id"] for hit in retrieval.hits}
        cited = [documents[chunk] for _, chunk in retrieval.extra.get("citations", ()) if chunk in documents]
        return retrieval.correction is None and any(map(self.holds, cited or documents.values()))

    def _names(self, revision: Revision) -> bool:
        return any(_fits(revision, pattern) for pattern in self._patterns)


def touched(memory: Memory, patterns: Sequence[str], adapters: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Of those adapters that learned from documents in quarantine, these documents' last paths, sorted.

    An adapter that was trained before its documents were put there is not changed by it. One whose card cannot be read
    is left out: it cannot serve.
    """
    learned: dict[int, list[str]] = {}
    for adapter in adapters if patterns else ():
        with suppress(Corrupt):
            learned[adapter] = read_card(memory.adapter_folder(adapter)).get("documents", [])
    quarantine = Quarantine(memory, patterns, {one for some in learned.values() for one in some})
    held = {adapter: [one for one in some if quarantine.holds(one)] for adapter, some in learned.items()}
    return {adapter: tuple(sorted(_path(memory, one) for one in some)) for adapter, some in held.items() if some}


def warning(memory: Memory, patterns: Sequence[str]) -> str | None:
    """What is to be said, and done, when an adapter that serves learned from what is in quarantine now."""
    found = touched(memory, patterns, _adapters(memory.head()))
    if not found:
        return None
    snapshots = memory.snapshots()
    others = touched(memory, patterns, {adapter for one in snapshots for adapter in _adapters(one.head)})
    clear = [one for one in snapshots if not others.keys() & _adapters(one.head)]
    way_back = "no snapshot has one that did not; `memex forget` of these documents retires it"
    if clear:
        latest = max(clear, key=lambda one: (one.head.move, one.created_at))
        way_back = f"`memex rollback {latest.name} --only model` returns to one that did not"
    serving = " and ".join(f"adapter {one}" for one in sorted(found))
    paths = sorted({path for some in found.values() for path in some})
    serve = "serves" if len(found) == 1 else "serve"
    return f"{serving} {serve} and learned from what is in quarantine now ({several(paths)}): {way_back}"


def _adapters(head: Head) -> set[int]:
    """Of either kind."""
    return {one for one in (head.adapter, head.query_adapter) if one is not None}


def _path(memory: Memory, document_id: str) -> str:
    served = memory.past.history(document_id)
    return served[-1].revision.path if served else document_id


def _fits(revision: Revision, pattern: str) -> bool:
    kind, _, wanted = pattern.partition(":")
    if kind == "source":
        return revision.source == wanted
    if kind == "tag":
        return wanted in revision.labels.tags
    return re.search(glob_pattern(wanted), revision.path) is not None
