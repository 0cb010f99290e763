"""An evaluation in a process of its own: beside a daemon it reads the same memory, and keeps nobody waiting."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from daemon.evaluation import beir, plot
from daemon.evaluation.run import evaluate
from daemon.operations import shapes
from daemon.progress import Bar
from daemon.runtime import Runtime
from daemon.settings import Settings
from store.catalogue.database import CATALOGUE


def evaluate_here(
    settings: Settings, asked: str, arguments: dict[str, Any], *, plot_to: Path | None, show_progress: bool
) -> dict[str, Any]:
    """Measure, draw if asked to, and return the figures as JSON. See `run.evaluate`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if plot_to is not None:
        plot.check(plot_to)
    # A collection can be measured before there is a memory; its figures need a catalogue to be kept in.
    makes_memory = beir.is_collection(Path(asked)) and not (settings.state_dir / CATALOGUE).exists()
    runtime = Runtime(settings, write=makes_memory)
    try:
        with Bar("eval", show_progress) as bar:
            done, other = evaluate(
                runtime, asked, on_progress=lambda stage, n, total: bar.draw(n, total, stage), **arguments
            )
    finally:
        runtime.close()
    result = shapes.compared(done, other)
    if plot_to is not None:
        plot.draw(result, plot_to)
    return result
