"""What the learning cycles decided."""

from __future__ import annotations

from daemon.operations import shapes
from daemon.operations.shapes import Json, Number
from daemon.runtime import Runtime


def refresh_list(runtime: Runtime) -> Json:
    """The learning cycles, newest first."""
    return {"runs": [shapes.run(one) for one in runtime.memory.journal.runs()]}


def refresh_show(runtime: Runtime, run: Number) -> Json:
    """One learning cycle with its metrics and evidence."""
    return shapes.run(runtime.memory.journal.run(run))
