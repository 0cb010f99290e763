"""What the learning cycles decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from daemon.operations import shapes
from daemon.operations.shapes import Json, Number
from daemon.quarantine import touched
from daemon.refresh import KEPT_CYCLES, folder_of
from daemon.runtime import Runtime
from store.errors import NotFound
from store.types import Run
from trainers import cycle, examples
from trainers.transfer import backward_transfer, matrix


def refresh_list(runtime: Runtime) -> Json:
    """The learning cycles, newest first, and what they did to what earlier ones taught."""
    runs = runtime.memory.journal.runs()
    rows = matrix(runs)
    return {
        "runs": _shown(runtime, runs),
        "forgetting": rows,
        "backward_transfer": backward_transfer(rows),
    }


def refresh_show(runtime: Runtime, run: Number, items: bool = False) -> Json:
    """One learning cycle with its metrics; with `items` also what it was judged by, question by question."""
    shown = _shown(runtime, [runtime.memory.journal.run(run)])[0]
    return {**shown, "items": _items(folder_of(runtime, run))} if items else shown


def _items(folder: Path) -> list[Json]:
    """Each question with its right answer, both models' answers and their scores: first those that got worse."""
    try:
        judged = json.loads((folder / cycle.EVIDENCE).read_text())["items"]
        asked = {one.example_id: one for one in examples.read(folder / cycle.EXAMPLES)}
    except FileNotFoundError:
        raise NotFound(
            f"no items of refresh {int(folder.name)} are kept: it was not judged, was a control, is not of the "
            f"latest {KEPT_CYCLES}, or `memex forget` took them out since; leave --items out to see the rest"
        ) from None
    found = [
        {**one, "question": asked[one["example_id"]].question, "right": asked[one["example_id"]].target}
        for one in judged
        if one["example_id"] in asked  # general text is no question
    ]
    return sorted(found, key=lambda one: float(one["candidate"] - one["incumbent"]))


def _shown(runtime: Runtime, runs: Sequence[Run]) -> list[Json]:
    """With each run the documents in quarantine that its adapters learned from, by path."""
    made = {one.run: {one.adapter, one.metrics.get("query", {}).get("adapter")} - {None} for one in runs}
    found = touched(runtime.memory, runtime.settings.refresh.quarantine, set().union(*made.values()))

    def paths(run: Run) -> list[str]:
        return sorted({path for adapter in made[run.run] for path in found.get(adapter, ())})

    return [{**shapes.run(one), "quarantined": paths(one)} for one in runs]
