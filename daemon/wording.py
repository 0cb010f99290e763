"""How states, models, times and changes are put into words (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

Json = dict[str, Any]


def where(found: Json) -> str:
    name = f"snapshot {found['snapshot']}, " if found["snapshot"] else ""
    return f"{name}version {found['version']} of {local(found['as_of'])}"


def model(adapter: int | None) -> str:
    return "base model" if adapter is None else f"adapter {adapter}"


def search_by(query_adapter: int | None) -> str:
    """What is to be added to a state's description."""
    return "" if query_adapter is None else f", query adapter {query_adapter}"


def change(pair: Json, shown: Callable[[Any], str]) -> str:
    before, after = shown(pair["from"]), shown(pair["to"])
    return after if before == after else f"{before} -> {after}"


def moved(rank: Json) -> str:
    before, after = rank["from"], rank["to"]
    if before is None or after is None:
        return f"{'entered at ' + str(after) if before is None else 'left from ' + str(before):<14}"
    return f"{f'{before} -> {after}' if before != after else f'{after} as before':<14}"


def local(text: str | None) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else "never"


def several(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def shortened(text: str, lines: int = 4) -> str:
    kept = [line for line in text.splitlines() if line.strip()]
    return "\n".join([*kept[:lines], *(["..."] if len(kept) > lines else [])])
