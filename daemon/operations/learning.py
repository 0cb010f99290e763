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
    """With each run the documents in quarantine that its adapters learned from, by path."""
    made = {one.run: {one.adapter, one.metrics.get("query", {}).get("adapter")} - {None} for one in runs}
    found = touched(runtime.memory, runtime.settings.refresh.quarantine, set().union(*made.values()))

    def paths(run: Run) -> list[str]:
        return sorted({path for adapter in made[run.run] for path in found.get(adapter, ())})

    return [{**shapes.run(one), "quarantined": paths(one)} for one in runs]
