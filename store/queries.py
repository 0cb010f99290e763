"""From a question's text to the vectors that it is searched by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from store import query_adapter
from store.embedding import Embedder
from store.errors import Corrupt
from store.query_adapter import QueryAdapter
from store.recent import Recent
from store.types import Vectors

LOADED = 4  # query adapters: the head's, a candidate, and those of states that are looked back at


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """`plain` is what the embedder makes of the text, `moved` what is searched by: the same without a query adapter.
    `adapter` is the one that moved it; a remark says why the one that was asked for did not."""

    text: str
    plain: Vectors  # (dimension,)
    moved: Vectors
    adapter: int | None = None
    remarks: tuple[str, ...] = ()


class Queries:
    """Keeps the vectors of the latest texts, and the query adapters in use. Safe from any thread."""

    def __init__(self, embedder: Embedder, folder_of: Callable[[int], Path], recent: int) -> None:
        """`folder_of` says where an adapter's files are; `recent` is how many vectors are kept."""
        self._embedder = embedder
        self._folder_of = folder_of
        self.vectors: Recent[str, Vectors] = Recent(recent)
        self._adapters: Recent[int, QueryAdapter] = Recent(LOADED)

    def ask(self, text: str, adapter: int | None) -> Query:
        """One that cannot be used (it is damaged, or of another embedder) is left out and named: better the plain
        question than no answer."""
        plain = self.plain(text)
        if adapter is None:
            return Query(text, plain, plain)
        try:
            return Query(text, plain, self._adapter(adapter).move(plain), adapter)
        except Corrupt as error:
            return Query(text, plain, plain, remarks=(f"searched without query adapter {adapter}: {error}",))

    def plain(self, text: str) -> Vectors:
        """What the embedder makes of the text, shape (dimension,)."""
        vector = self.vectors.get(text)
        if vector is None:
            vector = self._embedder.embed([self._cut(text)])[0]
            self.vectors.put(text, vector)
        return vector

    def drop_adapters(self) -> None:
        """Some may be retired: none is used from memory again."""
        self._adapters.drop()

    def _adapter(self, number: int) -> QueryAdapter:
        """A number stands for the same weights for ever, so they are read and verified once."""
        found = self._adapters.get(number)
        if found is None:
            found = query_adapter.load(self._folder_of(number), self._embedder.fingerprint)
            self._adapters.put(number, found)
        return found

    def _cut(self, text: str) -> str:
        """The text as far as the embedder can see."""
        (spans,) = self._embedder.spans([text])
        return text if len(spans) <= self._embedder.window else text[: spans[self._embedder.window - 1][1]]
