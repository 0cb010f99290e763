"""What the learning cycles decided."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.operations import shapes
from daemon.operations.shapes import Json, Number
from daemon.quarantine import touched
from daemon.runtime import Runtime
from store.types import Run
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


def refresh_show(runtime: Runtime, run: Number) -> Json:
    """One learning cycle with its metrics and evidence."""
    return _shown(runtime, [runtime.memory.journal.run(run)])[0]


def _shown(runtime: Runtime, runs: Sequence[Run]) -> list[Json]:
    """With each run the documents in quarantine that its adapter learned from, by path."""
    adapters = {one.adapter for one in runs if one.adapter is not None}
    found = touched(runtime.memory, runtime.settings.refresh.quarantine, adapters)
    return [{**shapes.run(one), "quarantined": list(found.get(one.adapter or 0, ()))} for one in runs]
