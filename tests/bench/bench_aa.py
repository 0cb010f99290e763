"""A/A cycles: two adapters that differ by their seed alone, trained and judged by the gate as in any cycle.

Whatever wins here wins by chance. The items are cheap, two short passages each, and all of them are fresh: no guard
helps the gate to say no.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from store.types import Example
from tests.bench.bench_learning import MODELS, remembered
from trainers import cycle, lora
from trainers.child import run_child
from trainers.examples import Recipe, build
from trainers.model import resolve
from trainers.pages import Layout

CYCLES = 20
CHEAP = Recipe(
    train=64, fresh=48, anchor=0, noise=0, abstain=0, layout=Layout(passages=2, words=15, absent=0.0, adversarial=0.0)
)


def run(quick: bool = False) -> dict[str, Any]:
    """How the gate decided; each cycle has its own split, questions and seeds. `quick`: two cycles."""
    base = str(resolve("default", MODELS))
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder, remembered("sklearn", 200) as memory:
        chunks = memory.chunks(sorted(memory.live_at(memory.head())))
        for number in range(2 if quick else CYCLES):
            examples = build(
                chunks, lambda question, k: memory.search(question, k).hits, recipe=CHEAP, seed=number, episode=number
            )
            training = lora.Settings(max_steps=8, minutes=10.0, seed=2 * number)
            outcomes.append(_cycle(Path(folder) / f"{number:02d}", cycle.Job(base=base, training=training), examples))
            print(f"  A/A cycle {number}: {outcomes[-1]}", flush=True)
    return {
        "aa_cycles": len(outcomes),
        "aa_promoted": outcomes.count("promote"),
        "aa_rejected": outcomes.count("reject"),
        "aa_inconclusive": outcomes.count("inconclusive"),
    }


def _cycle(folder: Path, job: cycle.Job, examples: list[Example]) -> str:
    """The gate's outcome on an adapter against its twin."""
    other = folder / "other"
    learned = [example for example in examples if example.split == "train"]
    cycle.write_job(other, replace(job, training=replace(job.training, seed=job.training.seed + 1)), learned)
    run_child(other)
    cycle.write_job(folder, replace(job, incumbent=str(other / cycle.ADAPTER)), examples)
    return str(run_child(folder)["decision"]["outcome"])
