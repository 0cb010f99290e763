"""What is searched, but never learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from store.globs import glob_pattern
from store.memory import Memory
from store.types import Example, Hit, Retrieval, Revision


class Quarantine:
    """The documents that `refresh.quarantine` names by their source, a tag or their path; those that are gone, by what
    they were last. Of a document that nothing is known of any more nothing is learned either."""

    def __init__(self, memory: Memory, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._memory = memory
        live = memory.live_at(memory.head()) if patterns else {}
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


def _fits(revision: Revision, pattern: str) -> bool:
    kind, _, wanted = pattern.partition(":")
    if kind == "source":
        return revision.source == wanted
    if kind == "tag":
        return wanted in revision.labels.tags
    return re.search(glob_pattern(wanted), revision.path) is not None
