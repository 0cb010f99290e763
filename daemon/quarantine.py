"""What is searched, but never learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from store.globs import glob_pattern
from store.types import Revision


def quarantined(revisions: Iterable[Revision], patterns: Sequence[str]) -> frozenset[str]:
    """The ids of the documents that `refresh.quarantine` names by their source, a tag or their path."""
    return frozenset(one.document_id for one in revisions if any(_fits(one, pattern) for pattern in patterns))


def _fits(revision: Revision, pattern: str) -> bool:
    kind, _, wanted = pattern.partition(":")
    if kind == "source":
        return revision.source == wanted
    if kind == "tag":
        return wanted in revision.labels.tags
    return re.search(glob_pattern(wanted), revision.path) is not None
