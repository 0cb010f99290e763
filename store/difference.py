"""What differs between two states of the memory (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from store.catalogue.history import Change
from store.types import Head, Hit, Revision

Pair = tuple[Revision, Revision]  # as of the first state, as of the second


@dataclass(frozen=True, slots=True)
class Difference:
    """From the first state to the second. A document is in one of the five groups, by its most telling change."""

    added: tuple[Revision, ...]
    removed: tuple[Revision, ...]
    changed: tuple[Pair, ...]  # other content, wherever it lies
    moved: tuple[Pair, ...]  # the same content at another place
    relabelled: tuple[Pair, ...]  # the same content and place; other domain, tags or boost
    adapter: tuple[int | None, int | None]
    query_adapter: tuple[int | None, int | None]
    generation: tuple[str, str]
    settings: Mapping[str, tuple[Any, Any]]  # dotted key -> values; None where there is no such key


@dataclass(frozen=True, slots=True)
class Moved:
    """One result of a query in two states: its hits and ranks, counted from 1; None where it is not found."""

    first: Hit | None
    second: Hit | None
    rank: tuple[int | None, int | None]


def difference(
    first: Head, second: Head, changes: Iterable[Change], settings: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Difference:
    """`changes` are those of the documents from `first` (its `now`) to `second` (its `then`), `settings` theirs."""
    groups: dict[str, list[Any]] = {name: [] for name in ("added", "removed", "changed", "moved", "relabelled")}
    for change in changes:
        before, after = change.now, change.then
        if before is None or after is None:
            groups["added" if before is None else "removed"].append(after or before)
        elif before.content != after.content:
            groups["changed"].append((before, after))
        elif (before.source, before.path) != (after.source, after.path):
            groups["moved"].append((before, after))
        elif before.labels != after.labels:
            groups["relabelled"].append((before, after))
    ordered = {name: tuple(sorted(found, key=_path)) for name, found in groups.items()}
    return Difference(
        **ordered,
        adapter=(first.adapter, second.adapter),
        query_adapter=(first.query_adapter, second.query_adapter),
        generation=(first.generation, second.generation),
        settings=settings_difference(*settings),
    )


def settings_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, in order. Blocks that have a name go by it: `sources.docs.tags`."""
    one, other = dict(_flat(first)), dict(_flat(second))
    pairs = {key: (one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def movements(first: Iterable[Hit], second: Iterable[Hit]) -> list[Moved]:
    """How a query's results moved: those of the second state in their order, then those that it no longer finds.

    A passage is the same where its document and its text are: an edit elsewhere in the document does not count.
    """
    before, after = _ranked(first), _ranked(second)
    keys = [*after, *(key for key in before if key not in after)]
    return [
        Moved(
            first=before[key][1] if key in before else None,
            second=after[key][1] if key in after else None,
            rank=(before[key][0] if key in before else None, after[key][0] if key in after else None),
        )
        for key in keys
    ]


def _ranked(hits: Iterable[Hit]) -> dict[tuple[str, str, int], tuple[int, Hit]]:
    """(document id, text, how many of the same stand before it) -> rank and hit."""
    ranked: dict[tuple[str, str, int], tuple[int, Hit]] = {}
    for rank, hit in enumerate(hits, start=1):
        before = sum(key[:2] == (hit.document_id, hit.text) for key in ranked)
        ranked[hit.document_id, hit.text, before] = rank, hit
    return ranked


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        named = value.items()
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        named = ((one["name"], one) for one in value)  # type: ignore[assignment]
    else:
        yield key, value
        return
    for name, inner in named:
        yield from _flat(inner, f"{key}.{name}" if key else str(name))


def _path(one: Revision | Pair) -> str:
    return one.path if isinstance(one, Revision) else one[1].path
